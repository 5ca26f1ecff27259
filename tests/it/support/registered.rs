//! `callboard register` as a process, with what it says kept for the test.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{
    eventually,
    load::Ledger,
    process::{MARK, processed, words},
};

/// Killed when it is dropped; its command, if that is the backend, then ends by itself.
pub(crate) struct Registered {
    child: Child,
    said: Arc<Mutex<String>>,
    listening: Vec<JoinHandle<()>>,
    tie: Option<ChildStdin>,
    /// Where it runs: there is no proxy.toml but what a test puts there.
    _folder: TempDir,
}

impl Registered {
    /// With these arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    /// The same, in a folder that may hold files already.
    pub(crate) fn start_in(folder: TempDir, args: &[&str]) -> Self {
        let args = args.iter().map(OsStr::new);
        Self::run(folder, args, &Ledger::default())
    }

    /// With these arguments and, for a command, a backend as [`Ledger::backend`] is on a free port.
    pub(crate) fn serving(args: &[&str], ledger: &Ledger) -> Self {
        let words = words();
        let args = args.iter().copied().chain(["--port", "0", "--"]);
        let args = args.map(OsStr::new).chain(words.iter().map(OsStr::new));
        Self::run(tempfile::tempdir().unwrap(), args, ledger)
    }

    fn run<'a>(folder: TempDir, args: impl Iterator<Item = &'a OsStr>, ledger: &Ledger) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_callboard"))
            .arg("register")
            .args(args)
            .current_dir(folder.path())
            .env(MARK, "")
            .env_remove("CONSUL_HTTP_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<String>>::default();
        let ledger = ledger.clone();
        let note = move |line: &str| {
            if let Some(id) = processed(line) {
                ledger.note(id);
            }
        };
        let listening = vec![
            listen(child.stdout.take().unwrap(), &said, note),
            listen(child.stderr.take().unwrap(), &said, |_| {}),
        ];
        Self {
            listening,
            tie: child.stdin.take(),
            child,
            said,
            _folder: folder,
        }
    }

    /// What it and its command have said until now.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it or its command has said this.
    pub(crate) async fn until_said(&self, text: &str) {
        let holds = |said: &String| said.contains(text);
        eventually(&format!("{text:?} is said"), async || self.said(), holds).await;
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = async || self.child.try_wait().unwrap();
        eventually("it ends", status, Option::is_some)
            .await
            .unwrap()
    }

    /// Waits for its end and that of its command. All that this has processed is noted then.
    pub(crate) async fn gone(&mut self) -> ExitStatus {
        let status = self.ended().await;
        for listening in self.listening.drain(..) {
            listening.join().unwrap();
        }
        status
    }

    /// Ends what its command can read.
    pub(crate) fn close_input(&mut self) {
        self.tie = None;
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("callboard register said:\n{}", self.said());
        }
    }
}

fn listen(
    output: impl Read + Send + 'static,
    said: &Arc<Mutex<String>>,
    note: impl Fn(&str) + Send + 'static,
) -> JoinHandle<()> {
    let said = Arc::clone(said);
    // It ends with the last process that can write there.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            note(&line);
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    })
}
