//! What is wrong with a file: the errors, where each stands, and how they look on a terminal.
//! Knows nothing of what the keys mean.

use std::{cell::RefCell, fmt, ops::Range, sync::Arc};

use serde::{Serialize, Serializer};

use super::{
    source::{self, Source},
    variables::{Expansion, Expansions},
};

pub(crate) use super::wrong::Wrong;

/// Every error of a file and of those that it includes, in the order of their places. As text it is one
/// block for each, with the line in question; serialised it is an array of [`Diagnostic`]s.
#[derive(Clone, Debug)]
pub struct Report {
    file: Arc<str>,
    diagnostics: Vec<Diagnostic>,
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Where it stands; left out (and out of the JSON form) where it is about the whole file.
    #[serde(flatten)]
    pub place: Option<Span>,
    /// The key's full name (`service.cart.timeout.connect`); none for an error of syntax.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub suggestion: Option<String>,
}

/// A part of one line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The file, which may be one that is included.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters, at least 1.
    pub length: usize,
    /// The line's text, with secrets blotted out.
    #[serde(skip)]
    pub text: String,
}

impl Report {
    /// A report of one error that is about the file as a whole.
    pub(crate) fn of_file(file: impl Into<Arc<str>>, wrong: Wrong) -> Self {
        Self {
            file: file.into(),
            diagnostics: vec![Diagnostic {
                place: None,
                key: None,
                message: wrong.message,
                suggestion: wrong.suggestion,
            }],
        }
    }

    /// The errors, at least one, in the order of their places.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

impl Report {
    /// On one line: where each error is, and what it is.
    pub fn in_a_line(&self) -> String {
        let line = |error: &Diagnostic| {
            let place = match &error.place {
                Some(place) => format!("{}:{}:{}", place.file, place.line, place.column),
                None => self.file.to_string(),
            };
            let key = error.key.as_ref().map(|key| format!("{key}: "));
            format!("{place}: {}{}", key.unwrap_or_default(), error.message)
        };
        let errors: Vec<_> = self.diagnostics.iter().map(line).collect();
        errors.join("; ")
    }
}

impl std::error::Error for Report {}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.diagnostics.serialize(serializer)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            write!(f, "error: {}", diagnostic.message)?;
            match &diagnostic.suggestion {
                Some(suggestion) => writeln!(f, "; {suggestion}")?,
                None => writeln!(f)?,
            }
            match &diagnostic.place {
                Some(place) => excerpt(f, place)?,
                None => writeln!(f, " --> {}", self.file)?,
            }
            writeln!(f)?;
        }
        let count = self.diagnostics.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{}: {count} error{plural}", self.file)
    }
}

fn excerpt(f: &mut fmt::Formatter<'_>, place: &Span) -> fmt::Result {
    let Span {
        file,
        line,
        column,
        length,
        text,
    } = place;
    let gutter = line.to_string().len();
    // Tabs are kept, so that the underline stands below its text however wide they are.
    let indent: String = text
        .chars()
        .take(column - 1)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    writeln!(f, "{:gutter$}--> {file}:{line}:{column}", "")?;
    writeln!(f, "{:gutter$} |", "")?;
    writeln!(f, "{line} | {text}")?;
    writeln!(f, "{:gutter$} | {indent}{}", "", "^".repeat(*length))
}

/// Gathers the errors of a file, and of those that it includes, while they are read.
pub(crate) struct Problems<'a> {
    /// In the order of their bytes, at least one.
    sources: Vec<&'a Source>,
    expansions: Expansions,
    /// Whether some lines could not be read at all, so that what seems absent may stand in them.
    broken: bool,
    /// Whether what is probably not meant is an error, too.
    strict: bool,
    found: RefCell<Vec<(Range<usize>, Diagnostic)>>,
    whole_file: RefCell<Vec<Diagnostic>>,
    secrets: RefCell<Vec<Range<usize>>>,
}

impl<'a> Problems<'a> {
    /// Of texts whose tables were made: what of them is no TOML is noted.
    pub(crate) fn new(sources: Vec<&'a Source>, expansions: Expansions, strict: bool) -> Self {
        let flaws: Vec<_> = sources.iter().flat_map(|source| source.flaws()).collect();
        let problems = Self {
            sources,
            expansions,
            broken: !flaws.is_empty(),
            strict,
            found: RefCell::default(),
            whole_file: RefCell::default(),
            secrets: RefCell::default(),
        };
        for (at, wrong) in flaws {
            problems.add(at, None, wrong);
        }
        problems
    }

    /// Some of the texts could not be read: what seems absent may stand in them.
    pub(crate) fn lacks_texts(&mut self) {
        self.broken = true;
    }

    /// The file in which a byte is.
    fn source(&self, byte: usize) -> &'a Source {
        source::of_byte(&self.sources, byte)
    }

    /// What was put in for a variable in the value that begins at a byte.
    pub(crate) fn expansion(&self, byte: usize) -> Option<&Expansion> {
        self.expansions.at(byte)
    }

    /// Notes an error of a part of the text, in bytes.
    pub(crate) fn add(&self, at: Range<usize>, key: Option<&str>, wrong: Wrong) {
        let diagnostic = Diagnostic {
            place: None,
            key: key.map(str::to_owned),
            message: wrong.message,
            suggestion: wrong.suggestion,
        };
        self.found.borrow_mut().push((at, diagnostic));
    }

    /// Whether what is probably not meant is an error, too.
    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Notes that something is not there, unless it may stand in a line that could not be read.
    pub(crate) fn absent(&self, at: Range<usize>, key: &str, wrong: Wrong) {
        if !self.broken {
            self.add(at, Some(key), wrong);
        }
    }

    /// Like [`absent`](Self::absent), for what the file as a whole must have.
    pub(crate) fn absent_from_file(&self, key: &str, wrong: Wrong) {
        if !self.broken {
            self.whole_file.borrow_mut().push(Diagnostic {
                place: None,
                key: Some(key.to_owned()),
                message: wrong.message,
                suggestion: wrong.suggestion,
            });
        }
    }

    /// Keeps a part of the text out of the report.
    pub(crate) fn hide(&self, secret: Range<usize>) {
        self.secrets.borrow_mut().push(secret);
    }

    /// Whether the text goes on like this from a byte.
    pub(crate) fn continues(&self, byte: usize, with: char) -> bool {
        self.source(byte).from(byte).starts_with(with)
    }

    /// The file in which a byte is, where that is one that is included, and its line there, from 1.
    pub(crate) fn line(&self, byte: usize) -> (Option<Arc<str>>, usize) {
        let source = self.source(byte);
        let is_included = !std::ptr::eq(source, self.sources[0]);
        let file = is_included.then(|| Arc::clone(&source.name));
        (file, source.line(byte))
    }

    /// The report, or none where nothing was wrong.
    pub(crate) fn report(self) -> Option<Report> {
        let mut found = self.found.take();
        found.sort_by_key(|(at, _)| at.start);
        found.dedup();
        let mut diagnostics = self.whole_file.take();
        diagnostics.extend(found.into_iter().map(|(at, diagnostic)| Diagnostic {
            place: Some(self.place(at)),
            ..diagnostic
        }));
        (!diagnostics.is_empty()).then(|| Report {
            file: Arc::clone(&self.sources[0].name),
            diagnostics,
        })
    }

    /// What of a part of a text stands on its first line.
    fn place(&self, at: Range<usize>) -> Span {
        let source = self.source(at.start);
        let line = source.line(at.start);
        let chars = || source.chars(line);
        let secrets = self.secrets.borrow();
        let secret = |byte| secrets.iter().any(|secret| secret.contains(&byte));
        Span {
            file: Arc::clone(&source.name),
            line,
            column: 1 + chars().filter(|(byte, _)| *byte < at.start).count(),
            length: chars().filter(|(byte, _)| at.contains(byte)).count().max(1),
            text: chars()
                .map(|(byte, c)| if secret(byte) { '*' } else { c })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a text, of which something was noted.
    fn noted(text: &str, note: impl FnOnce(&Problems<'_>)) -> Report {
        let source = Source::new("proxy.toml", text, 0);
        let problems = Problems::new(vec![&source], Expansions::default(), false);
        note(&problems);
        problems.report().unwrap()
    }

    fn report(text: &str, at: Range<usize>) -> Report {
        let wrong = Wrong::new("bad").suggest("write `c`");
        noted(text, |problems| problems.add(at, Some("a.b"), wrong))
    }

    #[test]
    fn columns_count_characters_and_tabs_keep_the_underline_in_place() {
        let text = "x = 1\n\té = { b = 2 }\n";
        let at = text.find('b').unwrap();
        assert_eq!(
            report(text, at..at + 1).to_string(),
            "error: bad; write `c`\n --> proxy.toml:2:8\n  |\n2 | \té = { b = 2 }\n  | \t      ^\n\nproxy.toml: 1 error"
        );
    }

    #[test]
    fn a_span_is_cut_at_its_lines_end_and_never_empty() {
        for (at, column, length) in [(0..9, 1, 3), (3..3, 4, 1), (5..8, 1, 3), (8..8, 4, 1)] {
            let report = report("a=[\r\n1,2", at.clone());
            let place = report.diagnostics()[0].place.clone().unwrap();
            assert_eq!((place.column, place.length), (column, length), "{at:?}");
        }
    }

    #[test]
    fn errors_come_in_the_order_of_the_file_and_once_each() {
        let report = noted("a\nb\nc", |problems| {
            for at in [4..5, 0..1, 4..5] {
                problems.add(at, None, Wrong::new("bad"));
            }
        });
        let lines: Vec<_> = report
            .diagnostics()
            .iter()
            .map(|d| d.place.as_ref().unwrap().line)
            .collect();
        assert_eq!(lines, [1, 3]);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let text = "token = \"hünter2\" # x";
        let shown = noted(text, |problems| {
            problems.hide(8..18);
            problems.add(0..5, None, Wrong::new("bad"));
        });
        let shown = shown.to_string();
        assert!(shown.contains("token = ********* # x"), "{shown}");
    }

    #[test]
    fn as_json_it_is_a_list_with_flat_places() {
        let json = serde_json::to_value(report("key = 1", 0..3)).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "file": "proxy.toml", "line": 1, "column": 1, "length": 3,
                "key": "a.b", "message": "bad", "suggestion": "write `c`",
            }])
        );
        let json = serde_json::to_value(Report::of_file("f", Wrong::new("gone"))).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{ "key": null, "message": "gone", "suggestion": null }])
        );
    }
}
