//! A document, and what stands in it.

use std::{collections::BTreeMap, fs, path::PathBuf};

/// A file of Markdown.
pub(super) struct Page {
    /// From the repository's root: `README.md`, `docs/routing.md`.
    pub(super) name: String,
    pub(super) text: String,
}

/// A block of code.
pub(super) struct Block {
    /// What stands behind the opening fence: `toml`, `sh`.
    pub(super) info: String,
    pub(super) text: String,
    pub(super) line: usize,
}

pub(super) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `README.md` and all of `docs/`.
pub(super) fn all() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    names.iter().map(|name| Page::read(name)).collect()
}

impl Page {
    pub(super) fn read(name: &str) -> Self {
        let text = fs::read_to_string(root().join(name));
        Self {
            name: name.to_owned(),
            text: text.unwrap_or_else(|error| panic!("{name}: {error}")),
        }
    }

    /// Its lines outside blocks of code, each with its number.
    pub(super) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_block = false;
        self.text.lines().enumerate().filter_map(move |(n, line)| {
            let is_fence = line.trim_start().starts_with("```");
            in_block ^= is_fence;
            (!in_block && !is_fence).then_some((n + 1, line))
        })
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (n, line) in self.text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(info), None) => {
                    open = Some(Block {
                        info: info.to_owned(),
                        text: String::new(),
                        line: n + 1,
                    });
                }
                (Some(_), Some(block)) => blocks.push(block),
                (None, Some(mut block)) => {
                    block.text += line;
                    block.text += "\n";
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block has no end", self.name);
        blocks
    }

    /// Its headings as fragments of links name them.
    pub(super) fn anchors(&self) -> Vec<String> {
        let mut seen = BTreeMap::<String, usize>::new();
        let headings = self.prose().filter_map(|(_, line)| {
            let text = line.trim_start_matches('#');
            (text.len() < line.len()).then(|| text.strip_prefix(' '))?
        });
        let slugs = headings.map(|heading| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let slug: String = heading.trim().to_lowercase().chars().filter(kept).collect();
            slug.replace(' ', "-")
        });
        let numbered = slugs.map(|slug| {
            let before = seen.entry(slug.clone()).or_default();
            *before += 1;
            match *before - 1 {
                0 => slug,
                n => format!("{slug}-{n}"),
            }
        });
        numbered.collect()
    }

    /// The rows of its tables below this heading, up to the next one: their cells. Of all tables where
    /// none is named.
    pub(super) fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let mut within = false;
        let mut rows = Vec::new();
        for (_, line) in self.prose() {
            if line.starts_with('#') {
                within = line.trim_start_matches('#').trim() == heading;
            } else if within && line.starts_with('|') && !line.starts_with("|--") {
                rows.push(cells(line));
            }
        }
        assert!(!rows.is_empty(), "{}: no table below {heading}", self.name);
        rows
    }
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    let cells = row.replace("\\|", "\u{0}");
    let cells = cells
        .split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"));
    cells.collect()
}

/// The texts between backticks.
pub(super) fn codes(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}
