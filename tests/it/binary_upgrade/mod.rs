//! A new binary takes the place of the one that runs, and no client notices: none is refused, and no request
//! is lost. Where it does not get ready all is as it was.

mod failures;
mod load;
mod state;

use std::{fs, os::unix::fs::symlink, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{callboard::Callboard, eventually, server::free_ports};

/// Processes of which each has taken the place of the one before it. Their binary is a link in their folder,
/// and they have one log.
struct Line {
    first: Callboard,
    /// The last one serves.
    pids: Vec<Pid>,
    ports: [u16; 3],
    http: reqwest::Client,
    folder: TempDir,
}

/// Listeners and servers at ports that nothing else has, and a drain that waits for a moment only.
fn head([proxy, admin, registry]: [u16; 3]) -> String {
    format!(
        "workers = 2\n[log]\nformat = \"text\"\n[drain]\nnotice = \"300ms\"\ndeadline = \"1h\"\n\
         [admin]\naddress = \"127.0.0.1:{admin}\"\n\
         [registry.embedded]\naddress = \"127.0.0.1:{registry}\"\n\
         [[listen]]\naddress = \"127.0.0.1:{proxy}\"\n"
    )
}

impl Line {
    /// The first process, with this besides [`head`] in its file.
    async fn start(text: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), text).await
    }

    /// The same, in a folder that may hold files already.
    async fn start_in(folder: TempDir, text: &str) -> Self {
        let ports = free_ports();
        Self::start_with(folder, ports, &format!("{}{text}", head(ports))).await
    }

    /// A first process that waits so long for what it lacks.
    async fn start_ready_after(folder: TempDir, timeout: &str, text: &str) -> Self {
        let ports = free_ports();
        let wanted = format!("[admin]\nready_timeout = \"{timeout}\"\n");
        let head = head(ports).replace("[admin]\n", &wanted);
        Self::start_with(folder, ports, &format!("{head}{text}")).await
    }

    async fn start_with(folder: TempDir, ports: [u16; 3], text: &str) -> Self {
        let binary = folder.path().join("callboard");
        symlink(env!("CARGO_BIN_EXE_callboard"), &binary).unwrap();
        let mut command = Command::new(binary);
        command.arg("run").current_dir(folder.path());
        let mut first = Callboard::run_by(command, folder.path(), text);
        first.until_logged("the admin server is at").await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let line = Self {
            pids: vec![first.pid()],
            first,
            ports,
            http,
            folder,
        };
        line.until_ready().await;
        line
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the first listener is.
    fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.ports[0]).into()
    }

    fn admin(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[1])
    }

    fn registry(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[2])
    }

    /// Has another file stand where the binary is.
    fn replace_binary(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let next = self.folder().join("next");
        fs::write(&next, script).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(next, self.folder().join("callboard")).unwrap();
    }

    async fn until_ready(&self) {
        let ready = async || {
            let answer = self.http.get(self.admin("/ready")).send().await;
            answer.map(|answer| answer.status()).ok()
        };
        let is = |status: &Option<StatusCode>| *status == Some(StatusCode::OK);
        eventually("it is ready", ready, is).await;
    }

    async fn metrics(&self) -> String {
        let answer = self.http.get(self.admin("/metrics")).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// Asks for an upgrade.
    async fn try_upgrade(&self, within: &str) -> (u16, Value) {
        self.ask_to_upgrade(json!({ "within": within })).await
    }

    async fn ask_to_upgrade(&self, body: Value) -> (u16, Value) {
        let asked = self.http.post(self.admin("/api/upgrade")).json(&body);
        let answer = asked.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Has a new process take over, which it must.
    async fn upgrade(&mut self) -> Value {
        self.upgrade_by(json!({ "within": "20s" })).await
    }

    /// The same, asked for like this.
    async fn upgrade_by(&mut self, body: Value) -> Value {
        let (status, said) = self.ask_to_upgrade(body).await;
        assert_eq!(status, 200, "{said}");
        let pid = said["pid"].as_i64().unwrap();
        self.pids.push(Pid::from_raw(i32::try_from(pid).unwrap()));
        said
    }

    fn newest(&self) -> Pid {
        *self.pids.last().unwrap()
    }

    /// Waits until one of them is gone, by its place.
    async fn until_gone(&self, place: usize) {
        let pid = self.pids[place];
        let lives = async || self.lives(pid);
        eventually("it is gone", lives, |lives| !lives).await;
    }

    /// Waits until one of them, by its place, has let go of the first listener: it accepts no client any more.
    async fn until_let_go(&self, place: usize) {
        let port = format!(":{:04X}", self.ports[0]);
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let listening = sockets.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let is_it = words[1].ends_with(&port) && words[3] == "0A";
            is_it.then(|| format!("socket:[{}]", words[9]))
        });
        let listening: Vec<_> = listening.collect();
        let pid = self.pids[place];
        let has = async || {
            let open = fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten();
            let mut open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            open.any(|path| listening.iter().any(|socket| path == Path::new(socket)))
        };
        eventually("it has let go", has, |has| !has).await;
    }

    /// Whether the process is one of ours, and lives.
    fn lives(&self, pid: Pid) -> bool {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let folder = self.folder().to_str().unwrap();
        String::from_utf8_lossy(&words).contains(folder)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for pid in &self.pids {
            if self.lives(*pid) {
                let _ = kill(*pid, Signal::SIGKILL);
            }
        }
    }
}
