//! A wall clock that jumps, for a process of its own: no test may set the machine's.

use std::{fs, os::unix::fs::FileExt as _, path::Path, process::Command as Sync};

use tempfile::TempDir;
use tokio::process::Command;

/// A library that stands before the C library's clock, and what it adds.
pub(crate) struct WallClock {
    seconds: fs::File,
    folder: TempDir,
}

impl WallClock {
    /// One that is right. Compiled by the C compiler that Rust links with.
    pub(crate) fn right() -> Self {
        let folder = TempDir::new().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/wall_clock.c");
        let compiled = Sync::new(std::env::var_os("CC").unwrap_or("cc".into()))
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("wall_clock.so"))
            .arg(source)
            .status();
        assert!(compiled.unwrap().success());
        let seconds = fs::File::create(folder.path().join("seconds")).unwrap();
        let clock = Self { seconds, folder };
        clock.set(0);
        clock
    }

    /// From now on it is off by so many seconds.
    pub(crate) fn set(&self, seconds: i64) {
        self.seconds
            .write_all_at(&seconds.to_ne_bytes(), 0)
            .unwrap();
    }

    /// Has a process read it.
    pub(crate) fn wear(&self, command: &mut Command) {
        let file = |name| self.folder.path().join(name);
        command
            .env("LD_PRELOAD", file("wall_clock.so"))
            .env("CALLBOARD_TEST_WALL_CLOCK", file("seconds"));
    }
}
