//! SIGTERM drains; a second signal ends the process at once, whatever is still running.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::support::PATIENCE;

/// A backend whose one answer never ends.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(b"and so on\n").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    address
}

struct Running {
    child: Child,
    log: Lines<BufReader<ChildStdout>>,
}

impl Running {
    async fn until_logged(&mut self, what: &str) -> String {
        let searching = async {
            loop {
                let line = self.log.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("the log ended before {what:?}"));
                if line.contains(what) {
                    return line;
                }
            }
        };
        timeout(PATIENCE, searching).await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_though_a_stream_runs_on() {
    let folder = tempfile::tempdir().unwrap();
    let consul = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = endless();
    let entry = format!(
        r#"[{{"Node":{{"Node":"n"}},"Service":{{"ID":"a","Address":"127.0.0.1","Port":{}}},"Checks":[]}}]"#,
        backend.port()
    );
    let registry = consul.local_addr().unwrap();
    // A Consul that says one thing once, and then nothing.
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in consul.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).unwrap() > 0);
            let length = entry.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: {length}\r\n\r\n{entry}"
            )
            .unwrap();
            kept.push(stream);
        }
    });
    let config = folder.path().join("proxy.toml");
    let text = format!(
        "[log]\nformat = \"text\"\n[drain]\nnotice = \"10ms\"\ndeadline = \"1h\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [registry.consul]\naddress = \"http://{registry}\"\n\
         [[route]]\nservice = \"cart\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_callboard"))
        .args(["run", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut running = Running { child, log };
    let line = running.until_logged("listening on").await;
    let address = line.rsplit(' ').next().unwrap();

    let mut client = TcpStream::connect(address).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut some = [0; 64];
    assert!(client.read(&mut some).unwrap() > 0);

    running.signal(Signal::SIGTERM);
    running.until_logged("draining").await;
    // The stream keeps it from ending by itself, also once the notice is over.
    let ended = timeout(Duration::from_millis(300), running.child.wait()).await;
    assert!(ended.is_err(), "it waits for the stream: {ended:?}");
    running.signal(Signal::SIGTERM);
    let status = timeout(PATIENCE, running.child.wait()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(1));
}
