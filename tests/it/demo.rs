//! The demo, as a process: nothing fails in it, it shows what it does, and nothing outlives it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    mem,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    sys::{
        signal::{Signal, kill},
        termios::tcgetattr,
    },
    unistd::Pid,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn callboard() -> Command {
    Command::new(env!("CARGO_BIN_EXE_callboard"))
}

fn demo() -> Command {
    let mut command = callboard();
    command.args(["demo", "--port", "0"]);
    command
}

fn endless() -> Command {
    let mut command = demo();
    command.args(["--for", "1h"]);
    command
}

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

struct Provider {
    address: SocketAddr,
    pid: Pid,
}

/// A demo whose load runs.
struct UnderWay {
    running: Running,
    /// Its temporary files: one that is killed leaves them.
    folder: TempDir,
    /// What it showed until then.
    screen: String,
    /// What it shows from now on.
    output: BufReader<ChildStdout>,
    /// Three `hello`, then two `cart`.
    providers: Vec<Provider>,
}

impl UnderWay {
    fn start(command: &mut Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = command.env("TMPDIR", folder.path());
        let mut running = Running::start(command.stdout(Stdio::piped()));
        let mut output = BufReader::new(running.0.stdout.take().unwrap());
        let mut screen = String::new();
        while !screen.contains("requests a second") {
            assert_ne!(output.read_line(&mut screen).unwrap(), 0, "{screen}");
        }
        let providers: Vec<Provider> = screen.lines().filter_map(provider).collect();
        assert_eq!(providers.len(), 5, "{screen}");
        Self {
            running,
            folder,
            screen,
            output,
            providers,
        }
    }

    /// Waits for its end: whether it was a good one, and what it showed after `screen`.
    fn end(mut self) -> (bool, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.running.0.wait().unwrap().success(), rest)
    }
}

fn provider(line: &str) -> Option<Provider> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_id, url, "pid", pid] = words[..] else {
        return None;
    };
    Some(Provider {
        address: url.strip_prefix("http://")?.parse().ok()?,
        pid: Pid::from_raw(pid.parse().ok()?),
    })
}

fn nobody_is_left(providers: &[Provider]) {
    for provider in providers {
        until("the provider is gone", || {
            TcpStream::connect(provider.address).is_err()
        });
    }
}

#[test]
fn add_drain_kill_and_a_dead_registry_fail_no_request() {
    let run = demo()
        .args(["--for", "9s", "--load", "100"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let (_, summary) = text.split_once("Summary").expect("it ends with a summary");
    let counts: Vec<&str> = summary.lines().nth(1).unwrap().split_whitespace().collect();
    let ["sent", sent, "failed", failed] = counts[..] else {
        panic!("{summary}");
    };
    assert_eq!(failed, "0", "{summary}");
    assert!(sent.parse::<u32>().unwrap() > 500, "{summary}");
    assert!(summary.contains("p99"), "{summary}");
    // Each of them once.
    for word in [
        "added cart-3",
        "kill -9 the registry",
        "the registry is back",
        "drained hello-1",
        "killed ",
    ] {
        assert_eq!(text.matches(word).count(), 1, "`{word}` in {text}");
    }
}

#[test]
fn a_signal_ends_it_with_a_summary_and_no_provider_is_left() {
    let mut demo = UnderWay::start(&mut endless());
    let providers = mem::take(&mut demo.providers);
    signal(&demo.running.0, Signal::SIGTERM);
    let (well, rest) = demo.end();
    assert!(well && rest.contains("Summary"), "{rest}");
    nobody_is_left(&providers);
}

#[test]
fn a_failed_request_is_counted_and_ends_in_an_error() {
    let demo = UnderWay::start(demo().args(["--for", "2s"]));
    for hello in &demo.providers[..3] {
        kill(hello.pid, Signal::SIGKILL).unwrap();
    }
    let (well, rest) = demo.end();
    assert!(!well, "{rest}");
    let (before, summary) = rest.split_once("Summary").unwrap();
    assert_eq!(before.matches("ended by itself").count(), 3, "{rest}");
    assert!(!summary.contains("failed 0"), "{rest}");
    assert!(summary.contains("GET /hello: "), "{rest}");
}

#[test]
fn no_provider_outlives_a_demo_that_is_killed() {
    let mut demo = UnderWay::start(&mut endless());
    demo.running.0.kill().unwrap();
    demo.running.0.wait().unwrap();
    nobody_is_left(&demo.providers);
}

#[test]
fn its_folder_is_removed() {
    let mut demo = UnderWay::start(&mut endless());
    let left = || std::fs::read_dir(demo.folder.path()).unwrap().count();
    assert_eq!(left(), 1);
    signal(&demo.running.0, Signal::SIGINT);
    assert!(demo.running.0.wait().unwrap().success());
    assert_eq!(left(), 0);
}

#[test]
fn a_port_that_is_taken_is_replaced_and_said() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().port();
    let demo =
        UnderWay::start(callboard().args(["demo", "--for", "1h", "--port", &taken.to_string()]));
    let said = format!("port {taken} is taken: the proxy is at port ");
    assert!(demo.screen.contains(&said), "{}", demo.screen);
}

#[test]
fn the_commands_that_it_shows_work_when_pasted() {
    let demo = UnderWay::start(&mut endless());
    let screen = demo.screen.replace("\\\n", "");
    let commands: Vec<&str> = screen
        .lines()
        .filter(|line| line.starts_with("  curl "))
        .collect();
    assert_eq!(commands.len(), 6, "{screen}");
    for command in commands {
        let command = command.replace("curl ", "curl --fail --silent --show-error --max-time 5 ");
        // The last one asks for what the one before it registers, a moment later.
        until(&command, || {
            let shell = Command::new("sh").args(["-c", &command]).status();
            shell.unwrap().success()
        });
    }
}

#[test]
fn on_a_terminal_keys_add_drain_kill_and_quit_and_the_terminal_is_given_back() {
    let pair = openpty(None, None).unwrap();
    let (master, terminal) = (pair.master, pair.slave);
    let before = tcgetattr(&terminal).unwrap();
    let mut command = demo();
    command.stdin(terminal.try_clone().unwrap());
    command.stdout(terminal.try_clone().unwrap());
    let mut running = Running::start(&mut command);
    // It holds copies of the terminal, which would keep the master from seeing its end.
    drop(command);

    let mut master = File::from(master);
    let shown = Arc::new(Mutex::new(Vec::new()));
    let reading = thread::spawn({
        let (mut master, shown) = (master.try_clone().unwrap(), Arc::clone(&shown));
        move || {
            let mut piece = [0; 4096];
            // An error: the other side has closed.
            while let Ok(count @ 1..) = master.read(&mut piece) {
                shown.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        }
    });
    let text = || String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
    let shows = |what: &str| until(what, || text().contains(what));

    shows("q quits");
    shows("failed 0");
    for (key, answer) in [
        ("a", "added cart-3"),
        ("d", "drained hello-1"),
        ("k", "killed cart-1"),
        ("r", "kill -9 the registry"),
        ("a", "nobody can sign in"),
        ("r", "the registry is back"),
        ("a", "added hello-4"),
    ] {
        master.write_all(key.as_bytes()).unwrap();
        shows(answer);
    }
    shows("hello-1 (gone)");
    master.write_all(b"q").unwrap();
    assert!(running.0.wait().unwrap().success(), "{}", text());
    let after = tcgetattr(&terminal).unwrap();
    assert_eq!(after.local_flags, before.local_flags);
    drop(terminal);
    reading.join().unwrap();
    assert!(text().contains("Summary"), "{}", text());
}
