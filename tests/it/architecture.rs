//! docs/architecture.md shows the floors of the crate's root and names files that are there, and the
//! bounds of its measures hold.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

const PAGE: &str = include_str!("../../docs/architecture.md");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The first block of a language below a heading.
fn block<'a>(language: &str, heading: &str) -> &'a str {
    let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once(&format!("\n```{language}\n")).unwrap();
    block.split_once("\n```\n").unwrap().0
}

#[test]
fn the_floors_are_those_of_the_root_of_the_crate() {
    let root = include_str!("../../src/lib.rs");
    let (_, picture) = root.split_once("//! ```text\n").unwrap();
    let (picture, _) = picture.split_once("//! ```\n").unwrap();
    let lines = picture.lines().map(|line| line.trim_start_matches("//!"));
    let lines: Vec<_> = lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    assert_eq!(block("text", "Floors"), lines.join("\n"));
}

#[test]
fn every_file_that_the_page_names_is_there() {
    let names = PAGE.split('`').filter(|name| {
        let is_path = name.starts_with("src/") || name.starts_with("tests/");
        is_path && !name.contains([' ', '\n'])
    });
    let names: Vec<_> = names.collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(root().join(name).exists(), "{name}");
    }
}

/// What a command prints, as the number that it is.
fn number(command: &str, folder: &Path) -> usize {
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let first = said.split_whitespace().next();
    let number = first.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("{command}: {said:?}"))
}

#[test]
fn the_bounds_of_the_measures_hold() {
    let mut missed = Vec::new();
    for measure in block("sh", "Measures").split("\n\n") {
        let (title, command) = measure.split_once('\n').unwrap();
        let title = title.strip_prefix("# ").unwrap();
        let (name, bound) = title.split_once(": at most ").unzip();
        let name = name.unwrap_or(title);
        let number = number(command, &root());
        let bound: usize = bound.map_or(usize::MAX, |bound| bound.parse().unwrap());
        if number > bound {
            missed.push(format!("{name}: {number}, and at most {bound}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
