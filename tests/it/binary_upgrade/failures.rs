//! A new process that does not get ready is given up, and the one before goes on as if nothing had been; and
//! what comes at the wrong time.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _};

use nix::libc::O_NONBLOCK;

use super::*;
use crate::{
    support::{
        fake_consul::{Answer, FakeConsul, entry},
        raw::{RawBackend, Then, Wire, ok},
    },
    unix_sockets::connect,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async fn before() -> (Line, RawBackend) {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let route = format!(
        "[service.cart]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"cart\"\n",
        backend.address()
    );
    (Line::start(&route).await, backend)
}

/// Asserts that the first process serves as it did, and has counted the failure.
async fn assert_goes_on(line: &mut Line, client: &mut Wire, failures: u64) {
    line.first.until_logged("not upgraded").await;
    assert_eq!(client.ask(GET).await.field("connection"), None);
    let mut fresh = Wire::connect(line.address()).await;
    assert_eq!(fresh.ask(GET).await.text(), "well");
    // Its embedded registry takes changes again.
    let url = line.registry("/v1/agent/service/register");
    let entry = json!({ "Name": "other", "Port": 1 });
    let put = line.http.put(url).json(&entry).send().await.unwrap();
    assert!(put.status().is_success(), "{put:?}");
    let wanted = format!("callboard_upgrades_failed_total {failures}");
    let metrics = line.metrics().await;
    assert!(metrics.contains(&wanted), "{metrics}");
    line.until_ready().await;
    assert!(line.lives(line.pids[0]));
}

#[tokio::test]
async fn a_binary_that_ends_at_once_or_never_gets_ready_changes_nothing() {
    let (mut line, _backend) = before().await;
    let mut client = Wire::connect(line.address()).await;
    assert_eq!(client.ask(GET).await.text(), "well");

    line.replace_binary("#!/bin/sh\nexit 3\n");
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!((status, &said["ok"]), (422, &json!(false)));
    assert!(
        said["error"].as_str().unwrap().contains("exit status: 3"),
        "{said}"
    );
    assert_goes_on(&mut line, &mut client, 1).await;

    line.replace_binary("#!/bin/sh\nexec sleep 600\n");
    let (status, said) = line.try_upgrade("200ms").await;
    assert_eq!(status, 422);
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("not ready within 200ms"), "{said}");
    assert_goes_on(&mut line, &mut client, 2).await;

    fs::remove_file(line.folder().join("callboard")).unwrap();
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(status, 422);
    assert!(
        said["error"].as_str().unwrap().contains("cannot start"),
        "{said}"
    );
    assert_goes_on(&mut line, &mut client, 3).await;
}

#[tokio::test]
async fn a_file_that_is_wrong_and_an_address_that_is_taken_change_nothing_and_are_said() {
    let (mut line, backend) = before().await;
    let mut client = Wire::connect(line.address()).await;
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}servce = 1\n")).unwrap();
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(status, 422);
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("unknown key `servce`"), "{error}");
    assert_goes_on(&mut line, &mut client, 1).await;

    let taken = format!("[[listen]]\naddress = \"{}\"\n", backend.address());
    fs::write(&file, format!("{text}{taken}")).unwrap();
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(status, 422);
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("cannot listen on"), "{error}");
    assert_goes_on(&mut line, &mut client, 2).await;

    fs::write(&file, text).unwrap();
    line.upgrade().await;
    line.until_gone(0).await;
    let mut fresh = Wire::connect(line.address()).await;
    assert_eq!(fresh.ask(GET).await.text(), "well");
}

#[tokio::test]
async fn a_registry_that_the_new_process_cannot_read_keeps_the_old_one() {
    let (mut line, _backend) = before().await;
    let mut client = Wire::connect(line.address()).await;
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    let away = crate::support::server::refusing();
    let more = format!(
        "[registry.far]\nkind = \"consul\"\naddress = \"http://{away}\"\n\
         [service.far]\nregistry = \"far\"\n[[route]]\npath = \"/far\"\nservice = \"far\"\n"
    );
    let text = text.replace("[admin]\n", "[admin]\nready_timeout = \"500ms\"\n");
    fs::write(&file, text + &more).unwrap();
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(status, 422);
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("could not read service far"), "{error}");
    // Its registry's state was lent until then.
    assert_goes_on(&mut line, &mut client, 1).await;
}

#[tokio::test]
async fn one_upgrade_at_a_time_and_none_of_a_proxy_that_drains() {
    let (mut line, _backend) = before().await;
    let mut client = Wire::connect(line.address()).await;
    line.replace_binary("#!/bin/sh\nexec sleep 600\n");
    let url = line.admin("/api/upgrade");
    let first = line.http.post(&url).json(&json!({ "within": "1h" })).send();
    let first = tokio::spawn(first);
    line.first.until_logged("a new process starts").await;
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(status, 409);
    assert!(
        said["error"]
            .as_str()
            .unwrap()
            .contains("under way already"),
        "{said}"
    );
    assert_eq!(client.ask(GET).await.text(), "well");
    // What was never begun has not failed.
    let metrics = line.metrics().await;
    assert!(
        metrics.contains("callboard_upgrades_failed_total 0"),
        "{metrics}"
    );

    // An end amid an upgrade gives it up.
    client.send(&GET[..10]).await;
    line.first.signal(Signal::SIGTERM);
    line.first.until_logged("told to end meanwhile").await;
    line.first.until_logged("draining").await;
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(
        (status, &said["error"]),
        (409, &json!("this proxy is on its way out"))
    );
    drop(client);
    line.until_gone(0).await;
    drop(first);
}

#[tokio::test]
async fn a_process_that_was_replaced_heeds_a_signal_to_end_as_one_that_is_ending() {
    let (mut line, _backend) = before().await;
    let mut client = Wire::connect(line.address()).await;
    client.send(&GET[..10]).await;
    line.upgrade().await;
    line.first.until_logged("draining").await;
    line.first.signal(Signal::SIGTERM);
    line.first.until_logged("on its way out; a second").await;
    client.send(&GET[10..]).await;
    let got = client.message().await.expect("an answer");
    assert_eq!(
        (got.text(), got.field("connection")),
        ("well", Some("close"))
    );
    line.until_gone(0).await;
    assert!(line.lives(line.newest()));
}

#[tokio::test]
async fn sigusr2_upgrades_too_and_the_command_says_what_came_of_it() {
    let (mut line, _backend) = before().await;
    line.first.signal(Signal::SIGUSR2);
    let said = line
        .first
        .until_logged("a new process has the addresses now")
        .await;
    let pid = said.split("pid=").nth(1).unwrap();
    let pid = pid.split(' ').next().unwrap().parse().unwrap();
    line.pids.push(Pid::from_raw(pid));
    line.until_gone(0).await;

    let upgrade = async |line: &Line| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
        command.arg("upgrade").current_dir(line.folder());
        command.output().await.unwrap()
    };
    let done = upgrade(&line).await;
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}");
    let pid = said.strip_prefix("upgraded: process ").unwrap();
    let pid = pid.split(' ').next().unwrap().parse().unwrap();
    line.pids.push(Pid::from_raw(pid));
    line.until_gone(1).await;

    line.replace_binary("#!/bin/sh\nexit 3\n");
    let done = upgrade(&line).await;
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        said.contains("not upgraded: the new process has ended with exit status: 3"),
        "{said}"
    );
}

/// What both processes lack: a registry that is away.
fn far() -> String {
    let away = crate::support::server::refusing();
    format!(
        "[registry.far]\nkind = \"consul\"\naddress = \"http://{away}\"\n\
         [service.far]\nregistry = \"far\"\n[[route]]\npath = \"/far\"\nservice = \"far\"\n"
    )
}

/// A first process that lacks something and has a unix socket besides, and a file by which a new one waits so
/// long for what it lacks.
async fn lacking(ready_timeout: &str) -> (Line, RawBackend) {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[[listen]]\naddress = \"unix:{0}/a.sock\"\n[[listen]]\naddress = \"unix:{0}/b.sock\"\n\
         [service.cart]\nendpoints = [\"{1}\"]\n[[route]]\nservice = \"cart\"\n{2}",
        folder.path().display(),
        backend.address(),
        far()
    );
    let line = Line::start_ready_after(folder, "500ms", &text).await;
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    let wanted = format!("ready_timeout = \"{ready_timeout}\"");
    fs::write(&file, text.replace("ready_timeout = \"500ms\"", &wanted)).unwrap();
    (line, backend)
}

/// Has a new process begin, and waits until it has bound all that is its: it gets ready from here on.
async fn begun(line: &mut Line) -> Pid {
    let [port] = crate::support::server::free_ports();
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    let more = format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\n");
    fs::write(&file, text + &more).unwrap();
    line.first.signal(Signal::SIGUSR2);
    let said = line.first.until_logged("a new process starts").await;
    let pid = said.split("pid=").nth(1).unwrap();
    let pid = Pid::from_raw(pid.split(' ').next().unwrap().parse().unwrap());
    line.pids.push(pid);
    let bound = async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_ok()
    };
    eventually("the new listener is bound", bound, |is| *is).await;
    pid
}

#[tokio::test]
async fn a_unix_socket_that_is_gone_amid_takes_no_other_with_it() {
    let (mut line, _backend) = lacking("2s").await;
    begun(&mut line).await;
    fs::remove_file(line.folder().join("b.sock")).unwrap();
    line.first
        .until_logged("a new process has the addresses now")
        .await;
    line.until_gone(0).await;
    tokio::net::UnixStream::connect(line.folder().join("a.sock"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_process_that_is_killed_amid_leaves_the_clients_to_the_new_one() {
    let (mut line, _backend) = lacking("2s").await;
    let pid = begun(&mut line).await;
    line.first.signal(Signal::SIGKILL);
    line.until_gone(0).await;
    let mut client = Wire::connect(line.address()).await;
    assert_eq!(client.ask(GET).await.text(), "well");
    assert!(line.lives(pid));
}

#[tokio::test]
async fn what_neither_process_can_read_keeps_no_upgrade_back_however_patient_the_file_is() {
    let (mut line, _backend) = lacking("10m").await;
    let (status, said) = line.try_upgrade("12s").await;
    assert_eq!(status, 200, "{said}");
    let pid = said["pid"].as_i64().unwrap();
    line.pids.push(Pid::from_raw(i32::try_from(pid).unwrap()));
    line.until_gone(0).await;
    let mut client = Wire::connect(line.address()).await;
    assert_eq!(client.ask(GET).await.text(), "well");
}

#[tokio::test]
async fn a_unix_socket_whose_file_is_gone_is_bound_anew_and_a_path_that_is_anothers_is_left_alone()
{
    let (mut line, _backend) = lacking("500ms").await;
    let [first, second] = ["a.sock", "b.sock"].map(|name| line.folder().join(name));
    fs::remove_file(&first).unwrap();
    line.upgrade().await;
    line.until_gone(0).await;
    for path in [&first, &second] {
        assert_eq!(connect(path).await.ask(GET).await.text(), "well");
    }
    fs::remove_file(&first).unwrap();
    let other = tokio::net::UnixListener::bind(&first).unwrap();
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(status, 422, "{said}");
    assert!(said["error"].as_str().unwrap().contains("a.sock"), "{said}");
    let client = tokio::net::UnixStream::connect(&first).await.unwrap();
    other.accept().await.unwrap();
    drop(client);
    assert_eq!(connect(&second).await.ask(GET).await.text(), "well");
}

/// A first process that lacks something, and a file by which a new one waits for it. The registry that is
/// returned says it when it is told to.
async fn waiting() -> (Line, RawBackend, FakeConsul) {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let consul = FakeConsul::start([]).await;
    consul.always(Answer::error(500, "No cluster leader"));
    let text = format!(
        "[defaults]\nregistry = \"embedded\"\n[registry.consul]\naddress = \"{}\"\n\
         [service.far]\nregistry = \"consul\"\n[[route]]\npath = \"/far\"\nservice = \"far\"\n\
         [service.cart]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"cart\"\n\
         [[route]]\npath = \"/by/{{service}}\"\nservice = \"{{service}}\"\n",
        consul.url(),
        backend.address()
    );
    let folder = tempfile::tempdir().unwrap();
    let line = Line::start_ready_after(folder, "500ms", &text).await;
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"500ms\"", "\"10m\"")).unwrap();
    (line, backend, consul)
}

/// Waits until a new process has looked at the embedded registry's state.
async fn until_looked(pid: Pid) {
    let has_it = async || {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        open.any(|path| path.ends_with("registry.jsonl"))
    };
    eventually("it has looked", has_it, |has_it| *has_it).await;
}

#[tokio::test]
async fn what_registers_while_a_new_process_gets_ready_is_known_to_both() {
    let (mut line, backend, consul) = waiting().await;
    let pid = begun(&mut line).await;
    until_looked(pid).await;
    let (ip, port) = (backend.address().ip(), backend.address().port());
    let entry_of = json!({ "Name": "late", "Address": ip, "Port": port });
    let url = line.registry("/v1/agent/service/register");
    let put = line.http.put(url).json(&entry_of).send().await.unwrap();
    assert!(put.status().is_success(), "{put:?}");
    let address = line.address();
    let asks = "GET /by/late HTTP/1.1\r\nHost: a\r\n\r\n";
    let served = async || Wire::connect(address).await.ask(asks).await.status();
    let is_served = |status: &u16| *status == 200;
    eventually("the old one serves it", served, is_served).await;
    consul.holds(7, json!([entry("far", backend.address())]));
    line.first
        .until_logged("a new process has the addresses now")
        .await;
    line.until_gone(0).await;
    eventually("the new one serves it", served, is_served).await;
    let url = line.registry("/v1/health/service/late");
    let listed: Value = line
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

/// A disk that does not answer holds a reload, and neither an upgrade for ever nor the end.
#[tokio::test]
async fn a_reload_that_stands_still_has_an_upgrade_given_up_in_time() {
    let (line, _backend) = before().await;
    let pipe = line.folder().join("cert.pem");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let file = line.folder().join("proxy.toml");
    let tls = "tls = { certificates = [{ cert = \"cert.pem\", key = \"cert.pem\" }] }";
    let listener = format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{tls}\n");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + &listener).unwrap();
    line.first.signal(Signal::SIGHUP);
    let opened = async || {
        let mut how = OpenOptions::new();
        how.write(true).custom_flags(O_NONBLOCK).open(&pipe)
    };
    let _pipe = eventually("the reload reads the certificate", opened, Result::is_ok).await;
    let (status, said) = line.try_upgrade("200ms").await;
    assert_eq!(status, 409, "{said}");
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("a reload was under way"), "{error}");
    // None was begun.
    let metrics = line.metrics().await;
    assert!(metrics.contains("callboard_upgrades_failed_total 0"));
}

/// A new process that is ready, and has the state of the embedded registry, of which it can read nothing yet.
struct Amid {
    line: Line,
    _backend: RawBackend,
    pid: Pid,
    content: Vec<u8>,
    pipe: fs::File,
}

async fn amid() -> Amid {
    let (mut line, backend, consul) = waiting().await;
    let pid = begun(&mut line).await;
    until_looked(pid).await;
    let journal = line.folder().join("callboard-data/registry.jsonl");
    let content = fs::read(&journal).unwrap();
    let pipe = line.folder().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    fs::rename(&pipe, &journal).unwrap();
    consul.holds(7, json!([entry("far", backend.address())]));
    let opened = async || {
        let mut how = OpenOptions::new();
        how.write(true).custom_flags(O_NONBLOCK).open(&journal)
    };
    let pipe = eventually("it has the state", opened, Result::is_ok).await;
    Amid {
        line,
        _backend: backend,
        pid,
        content,
        pipe: pipe.unwrap(),
    }
}

/// Has the embedded registry's content be a file again, which each may read.
fn restore(line: &Line, content: &[u8]) {
    let journal = line.folder().join("callboard-data/registry.jsonl");
    let again = line.folder().join("again");
    fs::write(&again, content).unwrap();
    fs::rename(again, journal).unwrap();
}

#[tokio::test]
async fn a_process_that_freezes_with_the_registrys_state_is_given_up_and_the_old_one_has_it_back() {
    let mut amid = amid().await;
    let mut client = Wire::connect(amid.line.address()).await;
    assert_eq!(client.ask(GET).await.text(), "well");
    kill(amid.pid, Signal::SIGSTOP).unwrap();
    restore(&amid.line, &amid.content);
    assert_goes_on(&mut amid.line, &mut client, 1).await;
    assert!(!amid.line.lives(amid.pid));
}

#[tokio::test]
async fn an_end_is_heeded_while_a_process_that_freezes_has_the_registrys_state() {
    let mut amid = amid().await;
    kill(amid.pid, Signal::SIGSTOP).unwrap();
    restore(&amid.line, &amid.content);
    amid.line.first.signal(Signal::SIGTERM);
    let said = amid.line.first.until_logged("not upgraded").await;
    assert!(said.contains("told to end meanwhile"), "{said}");
    amid.line.until_gone(0).await;
    assert!(!amid.line.lives(amid.pid));
}

#[tokio::test]
async fn a_process_that_dies_with_the_registrys_state_leaves_all_to_the_old_one() {
    let mut amid = amid().await;
    let mut client = Wire::connect(amid.line.address()).await;
    restore(&amid.line, &amid.content);
    kill(amid.pid, Signal::SIGKILL).unwrap();
    drop(amid.pipe);
    assert_goes_on(&mut amid.line, &mut client, 1).await;
}

/// How many of this name the embedded registry lists, asked by a connection of its own.
async fn listed(line: &Line, name: &str) -> usize {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = line.registry(&format!("/v1/health/service/{name}"));
    let answer = client.get(url).send().await.unwrap();
    let listed: Value = answer.json().await.unwrap();
    listed.as_array().unwrap().len()
}

async fn register(line: &Line, name: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = line.registry("/v1/agent/service/register");
    let entry = json!({ "Name": name, "Port": 1 });
    let put = client.put(url).json(&entry).send().await.unwrap();
    assert!(put.status().is_success(), "{put:?}");
}

#[tokio::test]
async fn a_registry_in_another_folder_serves_from_the_moment_on_that_clients_are_the_new_ones() {
    let (mut line, backend, consul) = waiting().await;
    register(&line, "early").await;
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    let elsewhere = "[registry.embedded]\ndata = \"elsewhere\"\n";
    fs::write(&file, text.replace("[registry.embedded]\n", elsewhere)).unwrap();
    begun(&mut line).await;
    // Of two that served, one would not know it.
    for _ in 0..20 {
        assert_eq!(listed(&line, "early").await, 1);
    }
    register(&line, "amid").await;
    assert_eq!(listed(&line, "amid").await, 1);
    consul.holds(7, json!([entry("far", backend.address())]));
    line.first
        .until_logged("a new process has the addresses now")
        .await;
    for name in ["early", "amid"] {
        assert_eq!(listed(&line, name).await, 0, "{name}");
    }
    register(&line, "after").await;
    line.until_gone(0).await;
    // The old one has let go of the socket, and turned no client away there.
    for _ in 0..20 {
        assert_eq!(listed(&line, "after").await, 1);
    }
    assert!(line.folder().join("elsewhere/registry.jsonl").exists());
}

const HOLDS: &str = "not upgraded, since what was changed for a while would end";

/// Drains the only endpoint of the service `cart`.
async fn drain(line: &Line, backend: &RawBackend) {
    let body = json!({ "endpoint": backend.address().to_string(), "force": true });
    let url = line.admin("/api/services/cart/drain");
    let drained = line.http.post(url).json(&body).send().await.unwrap();
    assert!(drained.status().is_success(), "{drained:?}");
}

#[tokio::test]
async fn a_drain_that_is_made_while_a_new_process_gets_ready_is_not_ended() {
    let (mut line, backend, consul) = waiting().await;
    let pid = begun(&mut line).await;
    drain(&line, &backend).await;
    consul.holds(7, json!([entry("far", backend.address())]));
    let said = line.first.until_logged(HOLDS).await;
    assert!(said.contains("the drain of cart"), "{said}");
    let lives = async || line.lives(pid);
    eventually("the new one is ended", lives, |lives| !lives).await;
    let metrics = line.metrics().await;
    assert!(metrics.contains("callboard_upgrades_failed_total 0"));
    // It is as before: changes can be made, and what was drained is.
    drain(&line, &backend).await;
    let mut client = Wire::connect(line.address()).await;
    assert_eq!(client.ask(GET).await.status(), 503);
}

#[tokio::test]
async fn a_signal_to_upgrade_that_would_end_a_drain_is_refused_at_warn() {
    let (mut line, backend) = before().await;
    drain(&line, &backend).await;
    line.first.signal(Signal::SIGUSR2);
    let said = line.first.until_logged(HOLDS).await;
    assert!(
        said.contains("WARN") && said.contains("the drain of cart"),
        "{said}"
    );
    assert!(line.lives(line.pids[0]));
}
