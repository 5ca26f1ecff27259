//! What of a text is TOML. Where a part of it is not, the rest can still be read. Knows nothing
//! of keys and their meaning.
//!
//! The parser recovers from an error by a guess, and after a bracket that is never closed its errors
//! are a list of such guesses. So a text with errors is taken apart into its statements, and each is
//! parsed for itself.

use std::ops::Range;

use toml::de::{DeTable, Error};

use super::wrong::{Flaw, Wrong};

/// A statement of more lines than this is taken to be one that was never closed.
const LONGEST_STATEMENT: usize = 100;

fn is_right(text: &str) -> bool {
    DeTable::parse(text).is_ok()
}

/// What is left of a text without its errors, and these: every line that could not be read is blank, so
/// that all others stay where they are. With a table's header goes the table.
pub(crate) fn salvage(text: &str) -> (String, Vec<Flaw>) {
    let mut flaws = Vec::new();
    let mut note = |error: &Error, offset: usize| {
        let span = error.span().unwrap_or_default();
        let at = span.start + offset..span.end + offset;
        let wrong = reworded(error.message(), text.get(at.clone()).unwrap_or_default());
        flaws.push((at, wrong));
    };

    let mut salvaged = Salvaged::default();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let mut rest = lines.as_slice();
    while let Some(first) = rest.first() {
        let offset = salvaged.text.len();
        match statement(rest) {
            Ok(lines) => {
                salvaged.keep(&rest[..lines]);
                rest = &rest[lines..];
            }
            Err(errors) => {
                if !salvaged.goes_on(first) {
                    errors.iter().for_each(|error| note(error, offset));
                }
                salvaged.lose(first);
                rest = &rest[1..];
            }
        }
    }

    // What no statement shows for itself: two of the same name.
    let errors = errors(&salvaged.text);
    errors.iter().for_each(|error| note(error, 0));
    let spans: Vec<_> = errors.iter().filter_map(Error::span).collect();
    (without(&salvaged.text, &spans), flaws)
}

/// The parser's messages, where they say too little.
fn reworded(message: &str, found: &str) -> Wrong {
    match message {
        "duplicate key" => Wrong::new(format!("the key `{found}` is here twice")),
        "string values must be quoted, expected literal string" if found.trim().is_empty() => {
            Wrong::new("the value is missing")
        }
        "string values must be quoted, expected literal string"
        | "invalid integer, expected nothing"
        | "invalid float, expected nothing"
        | "invalid datetime, expected nothing" => {
            Wrong::new("this is not a value").suggest("a text stands in quotes, such as \"30s\"")
        }
        message => Wrong::new(message),
    }
}

/// How many lines the first statement has, or what is wrong with it.
fn statement(lines: &[&str]) -> Result<usize, Vec<Error>> {
    let mut text = String::new();
    for (before, line) in lines.iter().take(LONGEST_STATEMENT).enumerate() {
        // No statement goes on after a table's header.
        if before > 0 && is_header(line) && is_right(line) {
            break;
        }
        text.push_str(line);
        if is_right(&text) {
            return Ok(before + 1);
        }
    }
    let in_first_line = |error: &Error| error.span().is_some_and(|s| s.start < lines[0].len());
    match errors(&text) {
        all if all.first().is_some_and(in_first_line) => Err(errors(lines[0])),
        mut all => {
            all.truncate(1);
            Err(all)
        }
    }
}

/// The errors of a text in the order of their places, which is not that of their discovery.
fn errors(text: &str) -> Vec<Error> {
    let (_, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    errors
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// The text as far as it was kept.
#[derive(Default)]
struct Salvaged {
    text: String,
    in_lost_table: bool,
    after_lost_line: bool,
}

impl Salvaged {
    fn keep(&mut self, lines: &[&str]) {
        self.in_lost_table &= !is_header(lines[0]);
        self.after_lost_line = false;
        for line in lines {
            if self.in_lost_table {
                self.blank(line);
            } else {
                self.text.push_str(line);
            }
        }
    }

    fn lose(&mut self, line: &str) {
        self.in_lost_table |= is_header(line);
        self.after_lost_line = true;
        self.blank(line);
    }

    /// Whether a line that makes no sense is only the rest of one before it, such as an element
    /// of an array.
    fn goes_on(&self, line: &str) -> bool {
        let begins = |c: char| c.is_alphabetic() || c == '_' || c == '[';
        self.after_lost_line && !line.trim_start().starts_with(begins)
    }

    fn blank(&mut self, line: &str) {
        let blank = line
            .bytes()
            .map(|byte| if byte == b'\n' { '\n' } else { ' ' });
        self.text.extend(blank);
    }
}

/// The text without the lines in which a span begins.
fn without(text: &str, spans: &[Range<usize>]) -> String {
    let mut rest = Salvaged::default();
    for line in text.split_inclusive('\n') {
        let lines = rest.text.len()..rest.text.len() + line.len();
        if spans.iter().any(|span| lines.contains(&span.start)) {
            rest.lose(line);
        } else {
            rest.keep(&[line]);
        }
    }
    rest.text
}
