//! A real HAProxy, in front of a proxy or as what it calls.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{
    eventually,
    server::{Process, has_program, log},
};

const SETTINGS: &str = "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n \
    timeout server 30s\n";

/// Gone when it is dropped.
pub(crate) struct HaProxy {
    process: Process,
    folder: TempDir,
}

impl HaProxy {
    /// One with these sections, in a folder that may hold files; `None` (said on a line) where this
    /// machine has none. Returns when it listens there.
    pub(crate) async fn start(
        folder: TempDir,
        sections: &str,
        address: SocketAddr,
    ) -> Option<Self> {
        let mut version = Command::new("haproxy");
        if !has_program(version.arg("-v").stdout(Stdio::null())) {
            return None;
        }
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(path, format!("{SETTINGS}{sections}")).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "haproxy.cfg"]);
        let process = Process::start(command, folder.path());
        let mut started = Self { process, folder };
        let connects = async || {
            let said = (started.process.has_ended(), log(started.folder.path()));
            (TcpStream::connect(address).await.is_ok(), said)
        };
        eventually("HAProxy listens", connects, |(connects, (ended, said))| {
            assert!(!ended, "{said}");
            *connects
        })
        .await;
        Some(started)
    }
}
