//! The pages for people of another proxy: a file before and one after, which do the same.

use super::page::all;

#[test]
fn each_page_for_people_of_another_proxy_has_a_file_before_and_one_after() {
    let mut pages = all();
    pages.retain(|page| page.name.starts_with("docs/migrate-from-"));
    assert!(pages.len() >= 7, "{} pages", pages.len());
    for page in pages {
        let blocks = page.blocks();
        let [before, after, ..] = &blocks[..] else {
            panic!("{}: {} files", page.name, blocks.len());
        };
        assert!(
            before.info != "toml" && after.info == "toml",
            "{}",
            page.name
        );
        // Told by theirs, whose names people search for.
        let told = page
            .prose()
            .filter(|(_, line)| line.starts_with("| "))
            .count();
        assert!(told > 15, "{}: {told} rows", page.name);
    }
}
