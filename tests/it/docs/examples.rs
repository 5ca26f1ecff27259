//! What the documents show works when it is copied.

use std::path::Path;

use callboard::config::Config;

use super::page::all;

/// What a part of a file lacks to be a whole one.
const ROUTE: &str = "[[route]]\npath = \"/example\"\nservice = \"example\"\n";

/// A block of TOML is a proxy.toml, whole or, where it has no route, a part of one. What is none says
/// so behind its fence.
#[test]
fn every_proxy_toml_of_the_documents_is_read_without_an_error() {
    let (mut count, mut wrong) = (0, String::new());
    for page in all() {
        for block in page.blocks() {
            if block.info != "toml" {
                continue;
            }
            count += 1;
            let is_whole = block.text.contains("[[route]]") || block.text.contains("urlprefix");
            let text = match is_whole {
                true => block.text,
                false => format!("{}\n{ROUTE}", block.text),
            };
            if let Err(report) = Config::parse(&text, Path::new("/etc/callboard")) {
                wrong += &format!("{}:{}:\n{report}\n", page.name, block.line);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(count > 10, "{count} examples were found");
}
