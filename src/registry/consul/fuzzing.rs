//! What must hold of a Consul's answers, whatever they say.

use super::parse;
use crate::{config::Warnings, registry::fuzzing::assert_sound};

/// Both kinds of answers.
pub(crate) fn answers(bytes: &[u8]) {
    for warnings in [Warnings::Critical, Warnings::Passing] {
        if let Ok(set) = parse::instances(bytes, warnings) {
            assert_sound(&set);
        }
    }
    let tagged = parse::catalog(bytes, &["v1".to_owned()]);
    if let (Ok(all), Ok(tagged)) = (parse::catalog(bytes, &[]), tagged) {
        assert!(!all.contains_key("consul"));
        assert!(tagged.keys().all(|name| all.contains_key(name)));
    }
}
