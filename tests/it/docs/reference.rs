//! What the code has stands in its reference once, and nothing else does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use callboard::admin::{Kind, METRICS};
use http::StatusCode;
use proc_macro2::{TokenStream, TokenTree};

use super::page::{Page, codes, root};

#[test]
fn every_metric_stands_in_the_table_with_its_kind_and_its_labels() {
    let page = Page::read("docs/operations.md");
    let mut shown = BTreeMap::new();
    for row in page.rows("Metrics") {
        for name in codes(&row[0]) {
            let told = (row[1].clone(), row[2].clone());
            let before = shown.insert(name.to_owned(), told);
            assert!(before.is_none(), "{name} stands there twice");
        }
    }
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let told = shown.remove(metric.name);
        let expected = (kind.to_owned(), metric.labels.join(", "));
        assert_eq!(told, Some(expected), "{}", metric.name);
    }
    let more: BTreeSet<_> = shown.keys().collect();
    assert!(more.is_empty(), "no such metrics: {more:?}");
}

/// The sources below a folder of `src`, up to their tests.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("src").join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&format!(
                "{folder}/{}",
                path.file_name().unwrap().display()
            )));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            found.push(code.to_owned());
        }
    }
    found
}

/// What follows each occurrence of `before`, as long as it is made of such characters.
fn after<'a>(text: &'a str, before: &str, is_part: fn(char) -> bool) -> Vec<&'a str> {
    let found = text.match_indices(before).map(|(at, _)| {
        let rest = &text[at + before.len()..];
        &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())]
    });
    found.filter(|found| !found.is_empty()).collect()
}

/// The codes of the statuses that `http` has a name for, by that name.
fn codes_of_statuses() -> BTreeMap<String, u16> {
    let codes = (100..600).filter_map(|code| {
        let reason = StatusCode::from_u16(code).ok()?.canonical_reason()?;
        let name = reason.to_uppercase().replace([' ', '-'], "_");
        Some((name.replace('\'', ""), code))
    });
    codes.collect()
}

#[test]
fn every_status_that_is_made_here_stands_in_its_table_and_no_other() {
    let tables: [(&[&str], &str, &str); 3] = [
        (
            &["proxy", "listen"],
            "docs/routing.md",
            "Answers of the proxy's own",
        ),
        (&["admin"], "docs/operations.md", "Its statuses"),
        (&["embedded"], "docs/embedded.md", "Its statuses"),
    ];
    let codes = codes_of_statuses();
    for (folders, page, heading) in tables {
        let mut used = BTreeSet::new();
        for text in folders.iter().flat_map(|folder| sources(folder)) {
            for name in after(&text, "StatusCode::", |c| {
                c.is_ascii_uppercase() || c == '_'
            }) {
                used.insert(codes[name]);
            }
            for code in after(&text, "\"HTTP/1.1 ", |c| c.is_ascii_digit()) {
                used.insert(code.parse().unwrap());
            }
        }
        let rows = Page::read(page).rows(heading);
        let rows = rows.iter().filter_map(|row| row[0].parse().ok());
        let shown: Vec<u16> = rows.collect();
        let once: BTreeSet<_> = shown.iter().copied().collect();
        assert_eq!(
            once.len(),
            shown.len(),
            "{page}: a status stands there twice"
        );
        assert_eq!(once, used, "{page}");
    }
}

/// The paths for which a router of the sources has a method, and what its handlers take off paths.
fn routed(folder: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for text in sources(folder) {
        let tokens: TokenStream = text.parse().unwrap();
        note_paths(tokens, &mut found);
    }
    found
}

fn note_paths(tokens: TokenStream, found: &mut BTreeSet<String>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let word = |at: usize| tokens.get(at).map(ToString::to_string).unwrap_or_default();
        match token {
            TokenTree::Group(group) => {
                let inner = group.stream().to_string();
                if at > 0
                    && word(at - 1) == "strip_suffix"
                    && let Some(suffix) = inner.strip_prefix("\"/")
                {
                    let suffix = suffix.trim_end_matches('"');
                    found.insert(format!("/api/services/NAME/{suffix}"));
                }
                note_paths(group.stream(), found);
            }
            TokenTree::Literal(literal) => {
                let literal = literal.to_string();
                let method = ["get", "put", "post", "delete"].contains(&word(at + 2).as_str());
                if method && let Some(path) = literal.strip_prefix("\"/") {
                    found.insert(format!("/{}", path.trim_end_matches('"')));
                }
            }
            _ => {}
        }
    }
}

/// The first cells of the rows below a heading: paths.
fn paths(page: &str, heading: &str) -> BTreeSet<String> {
    let rows = Page::read(page).rows(heading);
    let paths: Vec<_> = rows
        .iter()
        .filter(|row| row[0].starts_with('`'))
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let once: BTreeSet<_> = paths.iter().cloned().collect();
    assert_eq!(once.len(), paths.len(), "{page}: a path stands there twice");
    once
}

#[test]
fn every_path_of_the_admin_server_stands_in_the_table_and_no_other() {
    let routed = routed("admin");
    let routed = routed.iter().map(|path| path.replace("{*name}", "NAME"));
    assert_eq!(
        routed.collect::<BTreeSet<_>>(),
        paths("docs/operations.md", "The admin server")
    );
}

#[test]
fn every_path_of_the_embedded_registry_stands_in_the_table_and_no_other() {
    let shown = paths("docs/embedded.md", "The API");
    // What is below a prefix has a name in capitals.
    let shown = shown.iter().map(|path| {
        let end = path.trim_end_matches(|c: char| c.is_ascii_uppercase());
        end.to_owned()
    });
    assert_eq!(shown.collect::<BTreeSet<_>>(), routed("embedded/api"));
}
