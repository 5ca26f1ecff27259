//! What must hold of the text of a proxy.toml and of fabio's tags, whatever they say.

use std::path::Path;

use super::{Config, TagRoute};

/// A file: its errors can be told, each with a place within it.
pub(crate) fn proxy_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let base = Path::new("/nonexistent");
    if let Err(report) = Config::parse(text, base) {
        let lines = text.split('\n').count();
        let places = report
            .diagnostics()
            .iter()
            .filter_map(|one| one.place.as_ref());
        // A file that it includes is this machine's.
        for place in places.filter(|place| &*place.file == "proxy.toml") {
            assert!((1..=lines).contains(&place.line), "{place:?}");
            assert!(place.column >= 1 && place.length >= 1, "{place:?}");
        }
        assert!(!report.to_string().is_empty());
    }
    let _ = Config::parse_for_client(text, base);
}

/// A tag: it takes off no more of a path than it matches.
pub(crate) fn urlprefix(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(Ok(route)) = TagRoute::parse(text) {
        assert!(route.strip <= text.len());
        let weight = route.weight.unwrap_or(1.0);
        assert!(weight > 0.0 && weight <= 1.0);
    }
}
