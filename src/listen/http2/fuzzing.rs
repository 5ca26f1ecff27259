//! What must hold of the frames that a client sends, whatever they are.

use super::{
    budget::Budget,
    frames::{Frames, Kind},
};

/// Frames are told the same however their bytes come, and what they cost ends in no panic.
pub(crate) fn frames(bytes: &[u8]) {
    let whole = follow(bytes, bytes.len().max(1));
    for step in [1, 7] {
        assert_eq!(whole, follow(bytes, step), "in pieces of {step}");
    }
    let mut budget = Budget::new(0);
    // What is beyond it ends the connection.
    let _ = whole.0.iter().try_for_each(|kind| budget.frame(*kind));
}

/// The frames that have begun; and whether a head is amid, how many were whole, the last stream, and whether
/// the preface is still to come.
fn follow(bytes: &[u8], step: usize) -> (Vec<Kind>, (bool, u64, u32, bool)) {
    let (mut frames, mut told) = (Frames::new(), Vec::new());
    for piece in bytes.chunks(step) {
        frames.follow(&mut piece.to_vec(), 0, |kind| told.push(kind));
    }
    let end = (
        frames.is_amid_a_head(),
        frames.heads(),
        frames.last_stream(),
        frames.is_before_all(),
    );
    (told, end)
}
