//! One binary for all targets: `CALLBOARD_FUZZ` names the one, libFuzzer's own arguments follow.
//! What must hold of each stands in `callboard::fuzzing`.

#![no_main]

use std::sync::LazyLock;

use callboard::fuzzing::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("CALLBOARD_FUZZ").unwrap_or_default();
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    let (_, target) = target.unwrap_or_else(|| panic!("CALLBOARD_FUZZ is none of {names:?}"));
    *target
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
