//! `callboard` as a process of its own, in a folder of the test's, with its log read line by line.
//! Gone, by kill -9, when it is dropped.

use std::{path::Path, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::PATIENCE;

pub(crate) struct Callboard {
    child: Child,
    log: Lines<BufReader<ChildStdout>>,
}

impl Callboard {
    /// `callboard run` with this text as the folder's proxy.toml.
    pub(crate) fn run(folder: &Path, text: &str) -> Self {
        Self::run_by(command(folder), folder, text)
    }

    /// The same, by a command that becomes it.
    pub(crate) fn run_by(command: Command, folder: &Path, text: &str) -> Self {
        std::fs::write(folder.join("proxy.toml"), text).unwrap();
        Self::start(command)
    }

    /// What this command becomes.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, log }
    }

    /// Reads the log up to a line with this in it.
    pub(crate) async fn until_logged(&mut self, what: &str) -> String {
        let [line] = self.until_all_logged([what]).await;
        line
    }

    /// The same for lines whose order is not known.
    pub(crate) async fn until_all_logged<const N: usize>(
        &mut self,
        what: [&str; N],
    ) -> [String; N] {
        let mut found = [const { None }; N];
        let searching = async {
            while let Some(missing) = found.iter().position(Option::is_none) {
                let line = self.log.next_line().await.unwrap();
                let line =
                    line.unwrap_or_else(|| panic!("the log ended before {:?}", what[missing]));
                let place = (0..N).find(|&n| found[n].is_none() && line.contains(what[n]));
                if let Some(place) = place {
                    found[place] = Some(line);
                }
            }
        };
        let searched = timeout(PATIENCE, searching).await;
        assert!(searched.is_ok(), "of {what:?} is logged: {found:?}");
        found.map(Option::unwrap)
    }

    /// Waits for its end; the status that it ended with, and what it has still logged.
    pub(crate) async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let ending = async {
            let mut lines = Vec::new();
            while let Some(line) = self.log.next_line().await.unwrap() {
                lines.push(line);
            }
            (self.child.wait().await.unwrap().code(), lines)
        };
        timeout(PATIENCE, ending).await.expect("it ends")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap())
    }

    /// The memory that it has in use.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// kill -9. It is gone when this returns.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// `callboard run` in a folder that has a proxy.toml.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
    command.arg("run").current_dir(folder);
    command
}
