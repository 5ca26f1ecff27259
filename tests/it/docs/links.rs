//! A reader who follows a link arrives.

use std::{collections::BTreeMap, path::Path};

use super::page::{Page, all, root};

/// The targets of a line's links, those in code left out.
fn links(line: &str) -> Vec<&str> {
    let mut text = line.split('`').step_by(2).collect::<Vec<_>>().into_iter();
    let mut found = Vec::new();
    // A link's text may have code in it: then the target stands behind the backtick.
    for part in &mut text {
        let mut rest = part;
        while let Some(at) = rest.find("](") {
            let target = &rest[at + 2..];
            let end = target.find(')').unwrap_or(target.len());
            found.push(&target[..end]);
            rest = &target[end..];
        }
    }
    found
}

fn every_link(pages: &[Page]) -> impl Iterator<Item = (String, &Page, &str)> {
    pages.iter().flat_map(|page| {
        page.prose().flat_map(move |(n, line)| {
            let place = format!("{}:{n}", page.name);
            links(line)
                .into_iter()
                .map(move |link| (place.clone(), page, link))
        })
    })
}

#[test]
fn every_link_of_the_documents_leads_to_a_page_and_a_heading_that_are_there() {
    let pages = all();
    let anchors: BTreeMap<_, _> = pages
        .iter()
        .map(|page| (page.name.clone(), page.anchors()))
        .collect();
    let mut wrong = Vec::new();
    for (place, page, link) in every_link(&pages) {
        if link.starts_with("https://") || link.starts_with("http://") {
            continue;
        }
        let (file, fragment) = link
            .split_once('#')
            .map_or((link, None), |(file, fragment)| (file, Some(fragment)));
        let folder = Path::new(&page.name).parent().unwrap();
        let name = match file {
            "" => page.name.clone(),
            file => folder.join(file).display().to_string(),
        };
        let is_there = match fragment {
            None => root().join(&name).exists(),
            Some(fragment) => anchors
                .get(&name)
                .is_some_and(|anchors| anchors.iter().any(|anchor| anchor == fragment)),
        };
        if !is_there {
            wrong.push(format!("{place}: {link}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_page_of_the_site_has_a_link_that_leaves_it_by_a_path() {
    let pages = all();
    let leaving: Vec<_> = every_link(&pages)
        .filter(|(_, page, link)| page.name.starts_with("docs/") && link.contains("../"))
        .map(|(place, _, link)| format!("{place}: {link}"))
        .collect();
    assert!(leaving.is_empty(), "\n{}\n", leaving.join("\n"));
}

#[test]
fn every_page_stands_in_the_summary_once_and_in_the_readme() {
    let pages = all();
    let of = |name: &str| -> Vec<&str> {
        every_link(&pages)
            .filter(|(_, page, _)| page.name == name)
            .map(|(_, _, link)| link)
            .collect()
    };
    let (summary, readme) = (of("docs/SUMMARY.md"), of("README.md"));
    for page in &pages {
        let Some(name) = page.name.strip_prefix("docs/") else {
            continue;
        };
        if name == "SUMMARY.md" {
            continue;
        }
        let times = summary.iter().filter(|link| **link == name).count();
        assert_eq!(times, 1, "{name} in SUMMARY.md");
        assert!(readme.contains(&page.name.as_str()), "{name} in README.md");
    }
}

#[test]
fn the_readme_is_read_in_ten_minutes() {
    let lines = Page::read("README.md").text.lines().count();
    assert!(lines <= 300, "{lines} lines: docs/ has room");
}
