//! The texts of a configuration: a file, and those that it includes. Each has a place behind the one
//! before it, so that a byte's number tells the file, too. Knows nothing of keys.

use std::{cell::OnceCell, iter::once, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{recover, wrong::Flaw};

/// The text of a file.
pub(crate) struct Source {
    /// As errors name it.
    pub(crate) name: Arc<str>,
    text: String,
    /// The number of its first byte.
    start: usize,
    /// Where each line begins, in bytes of its own.
    lines: Vec<usize>,
    /// What of it is TOML, where that is not all; and the errors.
    salvaged: OnceCell<(String, Vec<Flaw>)>,
}

/// The text of a file's bytes; else the first line that is not UTF-8, from 1.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<String, usize> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes()[..valid].iter();
        1 + before.filter(|byte| **byte == b'\n').count()
    })
}

impl Source {
    /// A text whose first byte has this number.
    pub(crate) fn new(name: impl Into<Arc<str>>, text: &str, start: usize) -> Self {
        // A byte order mark is no character of the first line.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let newlines = text.match_indices('\n');
        Self {
            name: name.into(),
            text: text.to_owned(),
            start,
            lines: once(0)
                .chain(newlines.map(|(newline, _)| newline + 1))
                .collect(),
            salvaged: OnceCell::new(),
        }
    }

    /// The first byte that the text of another file may have.
    pub(crate) fn end(&self) -> usize {
        self.start + self.text.len() + 1
    }

    /// What of it is TOML.
    pub(crate) fn table(&self) -> DeTable<'_> {
        let table = match DeTable::parse(&self.text) {
            Ok(table) => table,
            Err(_) => {
                let salvaged = self.salvaged.get_or_init(|| recover::salvage(&self.text));
                DeTable::parse_recoverable(&salvaged.0).0
            }
        };
        match self.start {
            0 => table.into_inner(),
            start => moved(table.into_inner(), start),
        }
    }

    /// What of it is not, once its [`table`](Self::table) was made.
    pub(crate) fn flaws(&self) -> impl Iterator<Item = Flaw> {
        let flaws = self.salvaged.get().map_or(&[][..], |(_, flaws)| flaws);
        let moved =
            |(at, wrong): &Flaw| (at.start + self.start..at.end + self.start, wrong.clone());
        flaws.iter().map(moved)
    }

    /// Its text from a byte on.
    pub(crate) fn from(&self, byte: usize) -> &str {
        self.text.get(byte - self.start..).unwrap_or_default()
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, byte: usize) -> usize {
        let byte = byte - self.start;
        self.lines.partition_point(|start| *start <= byte)
    }

    /// The characters of a line, each with its byte's number.
    pub(crate) fn chars(&self, line: usize) -> impl Iterator<Item = (usize, char)> {
        let start = self.lines[line - 1];
        let shown = self.text[start..].lines().next().unwrap_or_default();
        let chars = shown.char_indices();
        chars.map(move |(offset, c)| (self.start + start + offset, c))
    }
}

/// The text, of several in the order of their bytes, in which a byte is.
pub(crate) fn of_byte<'s>(sources: &[&'s Source], byte: usize) -> &'s Source {
    let after = sources.partition_point(|source| source.end() <= byte);
    sources[after.min(sources.len() - 1)]
}

/// A table whose bytes have other numbers.
fn moved(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let entry = |(key, mut value): (Spanned<_>, _)| {
        let (at, text) = (key.span(), key.into_inner());
        move_value(&mut value, by);
        (Spanned::new(at.start + by..at.end + by, text), value)
    };
    table.into_iter().map(entry).collect()
}

fn move_value(value: &mut Spanned<DeValue<'_>>, by: usize) {
    let at = value.span();
    let mut within = std::mem::replace(value.get_mut(), DeValue::Boolean(false));
    match &mut within {
        DeValue::Table(table) => *table = moved(std::mem::take(table), by),
        DeValue::Array(all) => all.iter_mut().for_each(|one| move_value(one, by)),
        _ => {}
    }
    *value = Spanned::new(at.start + by..at.end + by, within);
}
