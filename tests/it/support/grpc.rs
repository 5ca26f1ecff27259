//! Both sides of gRPC's own interoperability tests, each in a process of its own.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use super::{eventually, server};

/// The server of the interoperability tests. Killed when it is dropped.
pub(crate) struct GrpcServer {
    address: SocketAddr,
    process: Child,
    /// It takes no more calls when this ends.
    stdin: Option<ChildStdin>,
}

impl GrpcServer {
    /// Waits until it listens. `None` where this machine has no gRPC.
    pub(crate) fn start() -> Option<Self> {
        let mut process = Command::new(server::binary("grpc")?)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().unwrap();
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        Some(Self {
            address: said.trim_end().parse().unwrap(),
            process,
            stdin,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as a good server does, with GOAWAY: returns when the calls that ran are over.
    pub(crate) async fn stop(mut self) {
        self.stdin = None;
        let ended = async || self.process.try_wait().unwrap();
        eventually("the server of gRPC ends", ended, Option::is_some).await;
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The client of the interoperability tests, which runs this case: it calls an address in the clear, or over TLS
/// with a certificate of this authority.
pub(crate) fn client(
    address: SocketAddr,
    ca: Option<&Path>,
    case: &str,
) -> tokio::process::Command {
    let program = server::binary("grpc").expect("its server was there");
    let mut command = tokio::process::Command::new(program);
    command
        .args(["call", &address.to_string()])
        .arg(ca.unwrap_or(Path::new("-")))
        .arg(case)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}
