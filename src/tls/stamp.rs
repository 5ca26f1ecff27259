//! Whether a file is another one than before, without reading it.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// What tells a file's content from the one before: which file it is, its size, and when it was written
/// or put there. Links are followed, so that a folder that is swapped as a whole counts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// That of a file; `None` where there is none to be had.
pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        file: (found.dev(), found.ino()),
        size: found.size(),
        written: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}
