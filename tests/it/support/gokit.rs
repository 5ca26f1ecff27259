//! A provider that signs in with go-kit's own registrar, in a process of its own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
};

use super::server;

/// Killed when it is dropped: then it leaves what go-kit's registrar leaves.
pub(crate) struct GoKit {
    process: Child,
    /// It signs out when this ends.
    stdin: Option<ChildStdin>,
}

impl GoKit {
    /// Signs in; what is said here stands in `tests/servers/gokit-sd/main.go`. Waits until go-kit
    /// has done it. `None` where there is no go-kit on this machine.
    pub(crate) fn sign_in(arguments: &[&str]) -> Option<Self> {
        let mut process = Command::new(server::binary("gokit-sd")?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().unwrap();
        let go_kit = Self { process, stdin };
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        assert_eq!(said, "registered\n");
        Some(go_kit)
    }

    /// Signs out, and ends by itself.
    pub(crate) fn leave(&mut self) {
        self.stdin = None;
    }
}

impl Drop for GoKit {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
