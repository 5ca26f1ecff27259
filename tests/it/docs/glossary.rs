//! The glossary has what people search for, each word once, in order and with its place.

use super::page::Page;

/// What somebody who comes from another proxy looks for.
const SEARCHED: [&str; 12] = [
    "Blue/green deployment",
    "Canary release",
    "Circuit breaker",
    "Health check",
    "Outlier detection",
    "Panic mode",
    "Rate limit",
    "Retry budget",
    "Service discovery",
    "Service mesh",
    "Sticky session",
    "Zone-aware routing",
];

#[test]
fn each_word_stands_once_in_order_in_a_few_sentences_with_a_link() {
    let page = Page::read("docs/glossary.md");
    let mut sections = page.text.split("\n## ");
    let _title = sections.next();
    let mut words = Vec::new();
    for section in sections {
        let (heading, text) = section.split_once('\n').unwrap();
        assert!(text.contains("]("), "{heading}: no link");
        let lines = text.trim().lines().count();
        assert!(lines <= 4, "{heading}: {lines} lines");
        words.push(heading.trim_end_matches(" ◆").to_owned());
    }
    let mut sorted = words.clone();
    sorted.sort_by_key(|word| word.to_lowercase());
    sorted.dedup();
    assert_eq!(words, sorted);
    for word in SEARCHED {
        assert!(words.iter().any(|one| one == word), "{word} is missing");
    }
}
