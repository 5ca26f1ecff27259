//! What the documents show works when it is copied.

use std::{fs, path::Path};

use callboard::{
    config::{self, Config, FileFormat},
    registry::{Registry as _, file::File},
};
use http::StatusCode;
use serde_json::Value;

use super::page::{Block, Page, all};
use crate::support::{
    backend::Backend,
    eventually,
    proxy::Proxy,
    watched::{Watched, named},
};

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

#[test]
fn the_file_that_includes_others_is_read_with_those_of_its_folder() {
    let pages = all();
    let blocks = pages.iter().flat_map(Page::blocks);
    let blocks: Vec<_> = blocks
        .filter(|block| block.info == "toml include")
        .collect();
    assert_eq!(blocks.len(), 1);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("conf.d")).unwrap();
    fs::write(at("conf.d/example.toml"), ROUTE).unwrap();
    fs::write(at("proxy.toml"), &blocks[0].text).unwrap();
    let config = Config::load(&at("proxy.toml")).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!((config.included.len(), config.routes.len()), (1, 1));
}

/// The block of this kind that the page has once.
fn block(page: &Page, info: &str) -> Block {
    let mut blocks = page.blocks();
    blocks.retain(|block| block.info == info);
    assert_eq!(blocks.len(), 1, "{}: {info}", page.name);
    blocks.remove(0)
}

#[tokio::test]
async fn the_files_of_endpoints_that_are_shown_are_read_whole() {
    let page = Page::read("docs/file.md");
    let folder = tempfile::tempdir().unwrap();
    for (info, format, count) in [
        ("toml endpoints", FileFormat::Toml, 3),
        ("json", FileFormat::Json, 2),
    ] {
        let path = folder.path().join("endpoints");
        fs::write(&path, block(&page, info).text).unwrap();
        let registry = File::new("main", &config::File { path, format });
        let cart = Watched::start(registry.service(named("cart")));
        let whole = cart.until(info, |set| set.instances.len() == count).await;
        assert!(whole.skipped.is_empty(), "{whole:?}");
    }
}

/// What the commands of a shell send as bodies: `-d '{…}'`, each with the address that it goes to.
fn bodies(text: &str) -> Vec<(&str, &str)> {
    let mut bodies = Vec::new();
    for command in text.split("curl ").skip(1) {
        let address = command
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let body = command
            .split_once("-d '")
            .and_then(|(_, rest)| rest.split_once('\''));
        if let (Some(address), Some((body, _))) = (address, body) {
            bodies.push((address, body));
        }
    }
    bodies
}

#[tokio::test]
async fn every_registration_that_is_shown_is_taken_by_the_embedded_registry() {
    const PATH: &str = "/v1/agent/service/register";
    let proxy = Proxy::start("[[route]]\npath = \"/a\"\nservice = \"a\"\n").await;
    let mut count = 0;
    for page in all() {
        for block in page.blocks().iter().filter(|block| block.info == "sh") {
            for (address, body) in bodies(&block.text) {
                let place = format!("{}:{}: {body}", page.name, block.line);
                let body: Value = serde_json::from_str(body).expect(&place);
                if address.ends_with(PATH) {
                    let sent = proxy.http.put(proxy.registry(PATH)).json(&body).send();
                    assert_eq!(sent.await.unwrap().status(), StatusCode::OK, "{place}");
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 5, "{count} registrations were found");
    proxy.drain().await;
}

/// What a service answers, so many times in a row, in any order.
async fn answers(proxy: &Proxy, count: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..count {
        answers.push(proxy.get("/cart/").await.text().await.unwrap());
    }
    answers.sort();
    answers
}

#[tokio::test]
async fn the_example_of_the_readme_answers_as_it_says() {
    let readme = Page::read("README.md");
    let one = Backend::start("cart 1").await;
    let two = Backend::start("cart 2").await;
    let file = block(&readme, "toml").text;
    let file = file.replace("127.0.0.1:8080", "127.0.0.1:0");
    let proxy = Proxy::start(&file.replace("127.0.0.1:8500", "127.0.0.1:0")).await;
    let bodies = bodies(&readme.text);
    assert_eq!(bodies.len(), 2);
    let sign_in = async |body: &str| {
        let body = body
            .replace("3001", &one.address().port().to_string())
            .replace("3002", &two.address().port().to_string());
        let body: Value = serde_json::from_str(&body).unwrap();
        proxy.tell("/v1/agent/service/register", body).await;
    };

    sign_in(bodies[0].1).await;
    assert_eq!(proxy.until_served("/cart/").await, "cart 1");
    let by_host = proxy.http.get(proxy.url("/"));
    let by_host = by_host.header("Host", "shop.example.com").send().await;
    assert_eq!(by_host.unwrap().text().await.unwrap(), "cart 1");

    sign_in(bodies[1].1).await;
    let both = ["cart 1", "cart 1", "cart 2", "cart 2"];
    let turns = eventually(
        "both are called in turn",
        || answers(&proxy, 4),
        |all| *all == both,
    );
    turns.await;

    let path = "/v1/agent/service/deregister/cart-1";
    assert!(readme.text.contains(path));
    proxy.tell(path, Value::Null).await;
    let left = eventually(
        "one is left",
        || answers(&proxy, 2),
        |all| *all == ["cart 2", "cart 2"],
    );
    left.await;
    proxy.drain().await;
}

#[test]
fn every_piece_of_json_that_is_shown_is_json() {
    let mut count = 0;
    for page in all() {
        for block in page.blocks().iter().filter(|block| block.info == "json") {
            let read = serde_json::from_str::<Value>(&block.text);
            assert!(read.is_ok(), "{}:{}: {read:?}", page.name, block.line);
            count += 1;
        }
    }
    assert!(count >= 3, "{count} pieces were found");
}

#[test]
fn the_example_in_go_is_the_one_that_is_compiled() {
    let shown = block(&Page::read("docs/getting-started.md"), "go").text;
    let compiled = Page::read("tests/servers/gokit/example.go").text;
    let compiled: String = compiled
        .lines()
        .map(|line| line.strip_prefix('\t').unwrap_or(line).to_owned() + "\n")
        .collect();
    assert!(compiled.contains(&shown), "{compiled}");
}
