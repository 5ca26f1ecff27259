//! A backend in a process of its own, so that it can be killed as a process is: the test binary
//! again, with one test to run.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, Command, Stdio},
    thread::JoinHandle,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    backend::Backend,
    load::{Ledger, process},
};

/// Set for the child alone.
pub(crate) const MARK: &str = "CALLBOARD_TEST_BACKEND_PROCESS";
const LISTENS: &str = "listens at ";
const PROCESSED: &str = "processed ";
/// Where `callboard register` says on which port it is to listen.
const PORT: &str = "CALLBOARD_PORT";

/// The command that is one, for who has set [`MARK`].
pub(crate) fn words() -> Vec<OsString> {
    let mut words = vec![std::env::current_exe().unwrap().into()];
    words.extend(["--exact", "--ignored", "--nocapture"].map(OsString::from));
    words.push("support::process::a_backend_that_another_test_kills".into());
    words
}

/// The POST that a line of its output says it has processed.
pub(crate) fn processed(line: &str) -> Option<u64> {
    line.strip_prefix(PROCESSED)?.parse().ok()
}

/// Killed when it is dropped; and it ends by itself when this process does.
pub(crate) struct BackendProcess {
    address: SocketAddr,
    child: Child,
    /// Notes what it has processed, until its end.
    reading: Option<JoinHandle<()>>,
    _tie: ChildStdin,
}

impl BackendProcess {
    /// One that behaves as [`Ledger::backend`] does.
    pub(crate) fn start(ledger: &Ledger) -> Self {
        let words = words();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env(MARK, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let tie = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        let address = lines
            .by_ref()
            .find_map(|line| line.split_once(LISTENS)?.1.parse().ok())
            .expect("it says where it listens");
        let ledger = ledger.clone();
        let reading = std::thread::spawn(move || {
            let ids = lines.filter_map(|line| processed(&line));
            ids.for_each(|id| ledger.note(id));
        });
        Self {
            address,
            child,
            reading: Some(reading),
            _tie: tie,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stands still, with its sockets open, as a machine that hangs does.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Goes on where it stood.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// kill -9. All that it has processed is noted when this returns.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
    }
}

impl Drop for BackendProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "a process that another test starts and kills"]
fn a_backend_that_another_test_kills() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    std::thread::spawn(|| {
        // Its end is the parent's end.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let answer = |request| process(request, |id| println!("{PROCESSED}{id}"));
        let port = std::env::var(PORT).map_or(0, |port| port.parse().unwrap());
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let backend = Backend::named("process").answering(answer).at(address);
        let backend = backend.start().await;
        println!("\n{LISTENS}{}", backend.address());
        std::future::pending::<()>().await;
    });
}
