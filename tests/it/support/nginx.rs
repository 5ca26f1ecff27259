//! A real nginx, as what a proxy calls.

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

/// One process, which leaves nothing behind outside of its folder.
const SETTINGS: &str =
    "daemon off; master_process off; pid nginx.pid; error_log stderr;\nevents {}\n";

const PATHS: &str = "access_log off; client_body_temp_path tmp; proxy_temp_path tmp; \
    fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;";

/// Gone when it is dropped.
pub(crate) struct Nginx {
    process: Process,
    folder: TempDir,
}

impl Nginx {
    /// One with these servers, in a folder that may hold files; `None` (said on a line) where this machine
    /// has none. Returns when it listens there.
    pub(crate) async fn start(folder: TempDir, servers: &str, address: SocketAddr) -> Option<Self> {
        let mut version = Command::new("nginx");
        if !has_program(version.arg("-v").stdout(Stdio::null())) {
            return None;
        }
        let text = format!("{SETTINGS}http {{ {PATHS}\n{servers}\n}}\n");
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path());
        command.args(["-c", "nginx.conf", "-e", "stderr"]);
        let process = Process::start(command, folder.path());
        let mut started = Self { process, folder };
        let connects = async || {
            let said = (started.process.has_ended(), log(started.folder.path()));
            (TcpStream::connect(address).await.is_ok(), said)
        };
        eventually("nginx listens", connects, |(connects, (ended, said))| {
            assert!(!ended, "{said}");
            *connects
        })
        .await;
        Some(started)
    }
}
