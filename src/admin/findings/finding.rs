//! Something unusual, and the words that it is said in.

use std::sync::Arc;

use serde::Serialize;

/// How much it matters, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum Level {
    /// Clients see it, or soon will.
    Bad,
    /// Something is not as it should be.
    Warning,
    /// A person may want to know.
    Note,
}

/// Something unusual.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::admin) struct Finding {
    pub(super) level: Level,
    /// Of which kind it is, for programs.
    kind: &'static str,
    /// The service that it is of; `None` where it is of the proxy or of a registry.
    service: Option<Arc<str>>,
    pub(super) text: String,
}

impl Finding {
    /// Of the proxy, or of a registry.
    pub(super) fn of_proxy(level: Level, kind: &'static str, text: String) -> Self {
        Self {
            level,
            kind,
            service: None,
            text,
        }
    }

    /// Of a service, whose name comes first.
    pub(super) fn of_service(
        name: &Arc<str>,
        level: Level,
        kind: &'static str,
        text: &str,
    ) -> Self {
        Self {
            level,
            kind,
            service: Some(Arc::clone(name)),
            text: format!("{name}: {text}"),
        }
    }
}

/// The first of some names.
pub(super) fn some(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        n => format!("{} and {} more", names[..5].join(", "), n - 5),
    }
}

pub(super) fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// A time in its largest unit.
pub(super) fn time(seconds: f64) -> String {
    let whole = |unit: f64| (seconds / unit).round();
    match seconds {
        s if s < 90.0 => format!("{} s", whole(1.0)),
        s if s < 90.0 * 60.0 => format!("{} min", whole(60.0)),
        s if s < 36.0 * 3600.0 => format!("{} h", whole(3600.0)),
        _ => format!("{} days", whole(24.0 * 3600.0)),
    }
}
