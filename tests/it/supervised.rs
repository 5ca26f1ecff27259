//! Under systemd: what it is told, sockets that it hands over, and the units that are shipped.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::Stdio,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    net::{TcpStream, UnixDatagram},
    process::Command,
    time::timeout,
};

use crate::support::{
    PATIENCE,
    callboard::{Callboard, command},
    raw::{RawBackend, Then, Wire, ok},
    server::{free_ports, has_program},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A proxy with these listeners, whose clients get an answer of this backend.
fn text(listeners: &[&str], backend: SocketAddr) -> String {
    let listeners = listeners
        .iter()
        .map(|address| format!("[[listen]]\naddress = \"{address}\"\n"));
    let [admin] = free_ports();
    format!(
        "workers = 2\n[log]\nformat = \"text\"\n[drain]\nnotice = \"10ms\"\ndeadline = \"1m\"\n\
         [admin]\naddress = \"127.0.0.1:{admin}\"\n[registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         {}[service.cart]\nendpoints = [\"{backend}\"]\n[[route]]\nservice = \"cart\"\n",
        listeners.collect::<String>()
    )
}

/// What becomes a proxy that is handed this socket, as systemd does it: at descriptor 3, with its own id.
fn handed(folder: &Path, socket: OwnedFd) -> Command {
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; \
                  exec \"$0\" run";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_callboard")]);
    shell.current_dir(folder).stdin(Stdio::from(socket));
    shell
}

#[tokio::test]
async fn a_socket_of_the_supervisor_is_listened_on_and_outlives_the_process() {
    let backend = RawBackend::saying(ok("well"), Then::Close).await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let text = text(&[&address.to_string()], backend.address());
    let folder = TempDir::new().unwrap();
    let start = || {
        let socket = socket.try_clone().unwrap().into();
        Callboard::run_by(handed(folder.path(), socket), folder.path(), &text)
    };
    // Without a process clients wait in the socket's queue.
    let early = TcpStream::connect(address).await.unwrap();
    let mut callboard = start();
    callboard.until_logged("the admin server is at").await;
    assert_eq!(Wire::new(early).ask(GET).await.text(), "well");
    for _ in 0..20 {
        let mut client = Wire::connect(address).await;
        assert_eq!(client.ask(GET).await.text(), "well");
    }
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));

    let between = TcpStream::connect(address).await.unwrap();
    let mut callboard = start();
    callboard.until_logged("the admin server is at").await;
    assert_eq!(Wire::new(between).ask(GET).await.text(), "well");
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_path_of_the_supervisor_stays_and_a_socket_that_no_listener_has_is_said() {
    let backend = RawBackend::saying(ok("well"), Then::Close).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("http.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let [other] = free_ports();
    let other = format!("127.0.0.1:{other}");
    let at_path = format!("unix:{}", path.display());
    for (listener, is_taken) in [(&at_path, true), (&other, false)] {
        let text = text(&[listener], backend.address());
        let command = handed(folder.path(), socket.try_clone().unwrap().into());
        let mut callboard = Callboard::run_by(command, folder.path(), &text);
        if is_taken {
            callboard.until_logged("the admin server is at").await;
            let client = tokio::net::UnixStream::connect(&path).await.unwrap();
            let client = OwnedFd::from(client.into_std().unwrap());
            let mut client = Wire::over(TcpStream::from_std(client.into()).unwrap());
            assert_eq!(client.ask(GET).await.text(), "well");
        } else {
            let line = callboard.until_logged("that no listener has").await;
            assert!(
                line.contains("name=\"web\"") && line.contains(&at_path),
                "{line}"
            );
        }
        callboard.signal(Signal::SIGTERM);
        assert_eq!(callboard.ended().await.0, Some(0));
        assert!(path.exists());
    }
}

/// What is told next but for signs of life.
async fn told(socket: &UnixDatagram) -> String {
    loop {
        let mut bytes = [0; 1024];
        let received = timeout(PATIENCE, socket.recv(&mut bytes)).await;
        let length = received.expect("it is told something").unwrap();
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        if text != "WATCHDOG=1" {
            return text;
        }
    }
}

#[tokio::test]
async fn a_supervisor_is_told_of_the_start_of_reloads_of_signs_of_life_and_of_the_end() {
    let backend = RawBackend::saying(ok("well"), Then::Close).await;
    let folder = TempDir::new().unwrap();
    let name = folder.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let mut command = command(folder.path());
    command
        .env("NOTIFY_SOCKET", &name)
        .env("WATCHDOG_USEC", "400000");
    let text = text(&["127.0.0.1:0"], backend.address());
    let callboard = Callboard::run_by(command, folder.path(), &text);
    assert_eq!(told(&socket).await, "READY=1\nSTATUS=serving");
    for _ in 0..3 {
        let mut bytes = [0; 64];
        let length = timeout(PATIENCE, socket.recv(&mut bytes)).await.unwrap();
        assert_eq!(&bytes[..length.unwrap()], b"WATCHDOG=1");
    }
    callboard.signal(Signal::SIGHUP);
    let reloading = told(&socket).await;
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(told(&socket).await, "READY=1\nSTATUS=serving");
    callboard.signal(Signal::SIGTERM);
    assert_eq!(told(&socket).await, "STOPPING=1\nSTATUS=draining");
    assert_eq!(callboard.ended().await.0, Some(0));
}

#[tokio::test]
async fn after_an_upgrade_the_supervisor_looks_after_the_new_process() {
    let backend = RawBackend::saying(ok("well"), Then::Close).await;
    let folder = TempDir::new().unwrap();
    let name = folder.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let mut command = command(folder.path());
    command.env("NOTIFY_SOCKET", &name);
    let text = text(&["127.0.0.1:0"], backend.address());
    let mut callboard = Callboard::run_by(command, folder.path(), &text);
    assert_eq!(told(&socket).await, "READY=1\nSTATUS=serving");
    callboard.signal(Signal::SIGUSR2);
    let main = told(&socket).await;
    let pid: i32 = main.strip_prefix("MAINPID=").unwrap().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    // The old one says no more, and the new one is ready.
    assert_eq!(told(&socket).await, "READY=1\nSTATUS=serving");
    callboard.until_logged("gone").await;
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(told(&socket).await, "STOPPING=1\nSTATUS=draining");
    assert_eq!(callboard.ended().await.0, Some(0));
}

#[tokio::test]
async fn under_a_supervisor_that_cannot_be_told_there_is_no_upgrade() {
    let backend = RawBackend::saying(ok("well"), Then::Close).await;
    let folder = TempDir::new().unwrap();
    let script = "export SYSTEMD_EXEC_PID=$$; exec \"$0\" run";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_callboard")]);
    shell.current_dir(folder.path());
    let text = text(&["127.0.0.1:0"], backend.address());
    let mut callboard = Callboard::run_by(shell, folder.path(), &text);
    callboard.until_logged("the admin server is at").await;
    callboard.signal(Signal::SIGUSR2);
    let said = callboard.until_logged("not upgraded").await;
    assert!(
        said.contains("systemd takes the end of this process") && said.contains("Type=notify"),
        "{said}"
    );
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
}

/// A unit that is shipped.
fn unit(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[tokio::test]
async fn the_units_are_those_that_systemd_takes() {
    let mut analyze = std::process::Command::new("systemd-analyze");
    if !has_program(analyze.arg("--version").stdout(Stdio::null())) {
        return;
    }
    // The binary and the file are where the unit says on no machine of a test.
    let folder = TempDir::new().unwrap();
    for name in ["callboard.service", "callboard.socket"] {
        let text = unit(name).replace("/usr/bin/callboard", env!("CARGO_BIN_EXE_callboard"));
        fs::write(folder.path().join(name), text).unwrap();
    }
    let verify = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(["callboard.service", "callboard.socket"].map(|name| folder.path().join(name)))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("callboard"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_page_shows_the_unit_that_is_shipped() {
    let page = include_str!("../../docs/production.md");
    let without_comments = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    };
    for name in ["callboard.service", "callboard.socket"] {
        let unit = without_comments(unit(name).trim());
        assert!(page.contains(&format!("```ini\n{unit}\n```")), "{unit}");
    }
}
