//! What the tests of this folder share.

use std::path::Path;

use super::{Config, Report};
use crate::cases::cases;

/// A route, for texts that are about something else.
pub(super) const ROUTE: &str = "[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n";

/// Reads a text that is right.
#[track_caller]
pub(super) fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|report| panic!("{report}"))
}

/// The same, with these variables in the environment.
pub(super) fn config_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let lookup = |name: &str| {
        let mut variables = variables.iter();
        let found = variables.find(|(known, _)| *known == name);
        let value = found.map(|(_, value)| (*value).to_owned());
        value.ok_or(std::env::VarError::NotPresent)
    };
    let read = Config::parse_with(text, Path::new("/etc/callboard"), &lookup);
    read.map_err(|report| lines(&report))
}

/// What is said of a text beyond what is wrong.
#[track_caller]
pub(super) fn strictly(text: &str) -> Vec<String> {
    match Config::parse_strictly(text, Path::new("/etc/callboard")) {
        Ok(_) => Vec::new(),
        Err(report) => lines(&report),
    }
}

/// The errors of a text that is wrong: `line:column key: message; suggestion`.
#[track_caller]
pub(super) fn errors(text: &str) -> Vec<String> {
    lines(&read(text).expect_err("the text is wrong"))
}

fn lines(report: &Report) -> Vec<String> {
    report
        .diagnostics()
        .iter()
        .map(|error| {
            let place = error.place.as_ref();
            let place = place.map(|place| format!("{}:{} ", place.line, place.column));
            let suggestion = error.suggestion.as_ref().map(|text| format!("; {text}"));
            format!(
                "{}{}: {}{}",
                place.unwrap_or_default(),
                error.key.as_deref().unwrap_or("syntax"),
                error.message,
                suggestion.unwrap_or_default()
            )
        })
        .collect()
}

/// The one error of a text.
#[track_caller]
pub(super) fn error(text: &str) -> String {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

/// What is said of texts that are wrong, in a table of [`cases`]; `whole` makes a file of each.
#[track_caller]
pub(super) fn assert_errors(table: &str, whole: impl Fn(&str) -> String) {
    for (text, says) in cases(table) {
        assert_eq!(errors(&whole(&text)).join("\n"), says, "{text}");
    }
}

fn read(text: &str) -> Result<Config, Report> {
    Config::parse(text, Path::new("/etc/callboard"))
}
