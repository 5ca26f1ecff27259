//! docs/troubleshooting.md has each line that the log has at `warn` or above, with its level, and no
//! line that the code has not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const PAGE: &str = include_str!("../../docs/troubleshooting.md");

/// Lines whose text is put together elsewhere, and the literals that it is put together of.
const ELSEWHERE: [(&str, &[&str]); 2] = [
    (
        "{cause}",
        &["no healthy instance", "not registered", "not read yet"],
    ),
    (
        "{hint}",
        &[
            "…:… takes no connection, and …:… does; if that is the same instance, write registry.…: …",
        ],
    ),
];

/// What the sources say.
#[derive(Default)]
struct Sources {
    /// Each line of the log, as its literal stands in the code, and its level.
    lines: BTreeMap<String, String>,
    /// The shape of every literal.
    literals: BTreeSet<String>,
}

impl Sources {
    fn read() -> Self {
        let mut sources = Self::default();
        sources.read_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        sources
    }

    fn read_below(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.read_below(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                self.scan(fs::read_to_string(&path).unwrap().parse().unwrap());
            }
        }
    }

    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Literal(_) => {
                    self.literals.extend(text(token).map(|text| shape(&text)));
                }
                TokenTree::Group(group) => {
                    let before: Vec<_> = tokens[at.saturating_sub(2)..at]
                        .iter()
                        .map(ToString::to_string)
                        .collect();
                    if let [level, mark] = &before[..]
                        && ["warn", "error"].contains(&&**level)
                        && mark == "!"
                        && group.delimiter() == Delimiter::Parenthesis
                    {
                        let message = message(group.stream());
                        let message = message.expect("each line of the log has a text");
                        self.lines.insert(message, level.clone());
                    }
                    self.scan(group.stream());
                }
                _ => {}
            }
        }
    }
}

/// The text of an event: the first argument that is a literal.
fn message(arguments: TokenStream) -> Option<String> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
    let mut arguments = arguments.split(is_comma);
    arguments.find_map(|argument| text(argument.first()?))
}

/// What a literal of a text stands for.
fn text(token: &TokenTree) -> Option<String> {
    let literal = token.to_string();
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut parts = inside.split("\\\n");
    let first = parts.next()?.to_owned();
    // A line that ends in a backslash goes on at the next one's first word.
    let whole = parts.fold(first, |whole, part| whole + part.trim_start());
    Some(whole.replace("\\\"", "\""))
}

/// A text with `…` in the place of what is put into it.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((_, after)) = after.split_once('}') else {
            break;
        };
        shape += before;
        shape.push('…');
        rest = after;
    }
    shape + rest
}

/// The lines of the page and their levels.
fn quoted() -> BTreeMap<String, String> {
    let (_, section) = PAGE.split_once("\n## Lines of the log\n").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut quoted = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.split(" | ").collect();
        let line = cells[0].trim_matches(['|', ' ']);
        let fence = line.len() - line.trim_start_matches('`').len();
        let line = &line[fence..line.len() - fence];
        // A span that begins or ends with a backtick has a space beside it.
        let twice = quoted.insert(line.trim().to_owned(), cells[1].to_owned());
        assert_eq!(twice, None, "{line:?} stands there twice");
        assert!(cells.len() >= 4, "{row}");
    }
    quoted
}

#[test]
fn every_line_of_the_log_at_warn_or_above_is_explained_and_no_other() {
    let sources = Sources::read();
    assert!(sources.lines.len() > 30, "{:?}", sources.lines);
    let mut lines = BTreeMap::new();
    for (line, level) in &sources.lines {
        let elsewhere = ELSEWHERE.iter().find(|(text, _)| text == line);
        let shapes = match elsewhere {
            Some((_, shapes)) => shapes.iter().map(|&shape| shape.to_owned()).collect(),
            None => vec![shape(line)],
        };
        for shape in shapes {
            assert_ne!(shape, "…", "{line} says nothing of where its text stands");
            assert!(sources.literals.contains(&shape), "no code says {shape:?}");
            lines.insert(shape, level.clone());
        }
    }
    let quoted = quoted();
    let missing: Vec<_> = lines
        .iter()
        .filter(|(line, _)| !quoted.contains_key(*line))
        .collect();
    assert!(missing.is_empty(), "not in the page: {missing:#?}");
    let strange: Vec<_> = quoted
        .keys()
        .filter(|line| !lines.contains_key(*line))
        .collect();
    assert!(strange.is_empty(), "in no code: {strange:#?}");
    assert_eq!(quoted, lines, "a level is another one");
}

#[test]
fn what_any_page_says_that_the_log_says_begins_a_text_of_the_code() {
    let literals = Sources::read().literals;
    let is_said = |quote: &str| {
        let quote = quote.trim_end_matches('…');
        literals.iter().any(|literal| literal.starts_with(quote))
    };
    let mut quotes = 0;
    let docs = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    for page in docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for quote in text.split("log: `").skip(1) {
            let (quote, _) = quote.split_once('`').unwrap();
            // The others are fields.
            if !quote.contains('=') {
                quotes += 1;
                assert!(is_said(quote), "no code says {quote:?}");
            }
        }
    }
    assert!(quotes > 10, "{quotes} were found");
}

#[test]
fn what_a_symptom_quotes_stands_in_a_text_of_the_code() {
    let literals = Sources::read().literals;
    let (symptoms, _) = PAGE.split_once("\n## Lines of the log\n").unwrap();
    let mut quotes = 0;
    for row in symptoms.lines().filter(|line| line.starts_with("| ")) {
        let symptom = row.trim_start_matches("| ").split(" | ").next().unwrap();
        // Two backticks fence a text that has some.
        let fence = if symptom.contains("``") { "``" } else { "`" };
        for quote in symptom.split(fence).skip(1).step_by(2) {
            // Others are names: a path, a field, a state.
            if quote.contains(' ') {
                quotes += 1;
                let parts = quote.trim_matches(['…', ' ']);
                let is_said = literals.iter().any(|literal| literal.contains(parts));
                assert!(is_said, "no code says {quote:?}");
            }
        }
    }
    assert!(quotes > 15, "{quotes} were found");
}

#[test]
fn a_text_is_read_as_the_compiler_reads_it() {
    let event = "tracing::warn!(target: \"x\", a, %error, \"{a} is \\\"b\\\", \\\n     and c\", a)";
    let mut sources = Sources::default();
    sources.scan(event.parse().unwrap());
    let line = ("{a} is \"b\", and c".to_owned(), "warn".to_owned());
    assert_eq!(sources.lines, [line].into());
    assert!(sources.literals.contains("… is \"b\", and c"));
}
