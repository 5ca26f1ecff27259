//! What must hold of what providers send and of the journal, whatever they are.

use super::{decode, journal};

/// What providers register and report.
pub(crate) fn registrations(bytes: &[u8]) {
    let _ = decode::registration(bytes);
    let _ = decode::check(bytes);
    let _ = decode::update(bytes);
}

/// The journal as it lies on disk.
pub(crate) fn journal(bytes: &[u8]) {
    journal::assert_read_as_written(bytes);
}
