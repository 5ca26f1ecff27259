//! What the real servers of the tests have in common: where their binaries are, a process of the
//! test's own that is gone when the test is, and ports for it.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::{Domain, Socket, Type};

/// Where `tests/servers/get-NAME` has put it; `None` (said on a line) where `tests/run` has found
/// that it cannot be had on this machine.
pub(crate) fn binary(name: &str) -> Option<PathBuf> {
    let missing = std::env::var("CALLBOARD_TEST_MISSING").unwrap_or_default();
    if missing.split_whitespace().any(|missing| missing == name) {
        println!("left out: this machine has no {name}");
        return None;
    }
    let variable = name.to_uppercase().replace('-', "_");
    if let Some(path) = std::env::var_os(format!("CALLBOARD_TEST_{variable}")) {
        return Some(path.into());
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers");
    let found = Command::new(format!("{folder}/get-{name}"))
        .output()
        .unwrap();
    let reason = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "no {name} for the tests: {reason}");
    Some(String::from_utf8(found.stdout).unwrap().trim_end().into())
}

/// Whether the machine has the program of this command, which ends at once.
pub(crate) fn has_program(command: &mut Command) -> bool {
    let is_there = command.stderr(Stdio::null()).status().is_ok();
    if !is_there {
        let program = Path::new(command.get_program());
        println!("left out: this machine has no {}", program.display());
    }
    is_there
}

/// A process that ends, by kill -9, when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Runs in a folder, and writes what it says into the file `log` there.
    pub(crate) fn start(mut command: Command, folder: &Path) -> Self {
        let log = File::create(folder.join("log")).unwrap();
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log);
        Self(command.spawn().unwrap())
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Stops it where it stands: its sockets stay open and say nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        // On a busy machine its threads go on for a while.
        while !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
        // After the name, which may hold anything, stands the state.
        stat.unwrap().rsplit(") ").next().unwrap().starts_with('T')
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGHUP: it reads its configuration again.
    pub(crate) fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process in this folder has said.
pub(crate) fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// Ports below those that the system hands out by itself, so that an agent which is killed and
/// restarted finds its own again. No two of this process are the same: between here and the moment at
/// which a server binds it, another test would else be given the same one now and then.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    const RANGE: std::ops::Range<u16> = 10_000..32_000;
    static NEXT: LazyLock<AtomicUsize> =
        LazyLock::new(|| AtomicUsize::new(fastrand::usize(..RANGE.len())));
    std::array::from_fn(|_| {
        loop {
            let at = NEXT.fetch_add(1, Relaxed) % RANGE.len();
            let port = RANGE.start + at as u16;
            let address = (Ipv4Addr::LOCALHOST, port);
            // Serf takes both kinds.
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return port;
            }
        }
    })
}

/// Where connections are refused for as long as the tests run: the port is taken, and nothing listens
/// there. One that was free a moment ago may be another test's by now.
pub(crate) fn refusing() -> SocketAddr {
    static TAKEN: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    TAKEN.lock().unwrap().push(socket);
    address
}
