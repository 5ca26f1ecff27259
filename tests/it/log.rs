//! What the log says of requests, and in which form.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use nix::sys::signal::Signal;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    callboard::Callboard,
    raw::{RawBackend, Then, Wire, ok},
    server::{free_ports, refusing},
};

const GET: &str = "GET /cart?a=b HTTP/1.1\r\nHost: shop\r\nUser-Agent: x\r\n\r\n";

/// A proxy that logs as `log` says and sends everything to these backends, and where it listens.
async fn start(folder: &Path, log: &str, backends: &[SocketAddr]) -> (Callboard, SocketAddr) {
    let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
    let text = format!(
        "[log]\n{log}\n[drain]\nnotice = \"0s\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [service.cart]\nendpoints = {backends:?}\n[[route]]\nservice = \"cart\"\n"
    );
    let mut callboard = Callboard::run(folder, &text);
    let line = callboard.until_logged("listening on").await;
    let address = line.split("listening on ").nth(1).unwrap();
    let address = address.split('"').next().unwrap().parse().unwrap();
    (callboard, address)
}

/// All that is logged from now on until it has drained.
async fn ended(callboard: Callboard) -> Vec<String> {
    callboard.signal(Signal::SIGTERM);
    let (status, lines) = callboard.ended().await;
    assert_eq!(status, Some(0));
    lines
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn its_level_is_another_one_for_a_while_and_then_that_of_the_file_again() {
    let folder = TempDir::new().unwrap();
    let (mut callboard, address) = start(folder.path(), "format = \"json\"", &[]).await;
    let line = callboard
        .until_logged("the admin server is at http://")
        .await;
    let admin = line.split("the admin server is at ").nth(1).unwrap();
    let admin = admin.split('"').next().unwrap();
    let url = format!("{admin}/api/log-level");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let tell = async |method: reqwest::Method, body: Value| {
        let answer = http.request(method, &url).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let wanted = serde_json::json!({ "level": "info,callboard::proxy=debug", "for": "1h" });
    let (status, said) = tell(reqwest::Method::POST, wanted).await;
    assert_eq!(
        (status, &said["level"]),
        (200, &serde_json::json!("info,callboard::proxy=debug"))
    );
    callboard
        .until_logged("the log's level is another one for a while")
        .await;
    // A request that is refused is logged at `debug` alone.
    let mut refused = Wire::connect(address).await;
    refused.send(b"GET /cart HTTP/1.1\r\n\r\n").await;
    callboard.until_logged("DEBUG").await;
    let (status, _) = tell(
        reqwest::Method::POST,
        serde_json::json!({ "level": "loud" }),
    )
    .await;
    assert_eq!(status, 400);
    // A reload of another level leaves it, and says so.
    let file = folder.path().join("proxy.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replacen("[log]\n", "[log]\nlevel = \"warn\"\n", 1);
    std::fs::write(&file, text).unwrap();
    let reload = http.post(format!("{admin}/api/reload"));
    let reload = reload.json(&serde_json::json!({})).send().await.unwrap();
    let said: Value = reload.json().await.unwrap();
    let goes_on = said["changes"]["at_run_time"][0]
        .as_str()
        .unwrap_or_default();
    let is = "the log's level is info,callboard::proxy=debug for another 59m";
    assert!(goes_on.starts_with(is), "{said}");
    callboard
        .until_logged("changed at run time, which the file does not say")
        .await;
    let (status, said) = tell(reqwest::Method::DELETE, Value::Null).await;
    assert_eq!(
        (status, said),
        (200, serde_json::json!({ "level": "warn", "ends": null }))
    );
    let line = callboard
        .until_logged("the log's level is that of the file again")
        .await;
    assert_eq!(json(&line)["expired"], false);
    let (status, _) = tell(reqwest::Method::DELETE, Value::Null).await;
    assert_eq!(status, 404);
    ended(callboard).await;
}

#[tokio::test]
async fn a_request_without_an_answer_is_one_line_with_every_attempt() {
    let folder = TempDir::new().unwrap();
    let closes = RawBackend::saying("", Then::Close).await;
    let backends = [refusing(), closes.address()];
    let (callboard, address) = start(folder.path(), "format = \"json\"", &backends).await;
    let got = Wire::connect(address).await.ask(GET).await;
    assert_eq!(got.status(), 502);
    let lines = ended(callboard).await;
    let lines: Vec<_> = lines.iter().map(|line| json(line)).collect();
    let mut failures = lines.iter().filter(|line| line["message"] == "no answer");
    let line = failures.next().expect("a line");
    assert!(failures.next().is_none(), "{lines:?}");
    assert_eq!(line["level"], "WARN");
    assert_eq!(
        (&line["status"], &line["service"]),
        (&502.into(), &"cart".into())
    );
    assert_eq!(line["request_id"], got.field("x-request-id").unwrap());
    assert_eq!(line["out_of_budget"], false);
    let attempts = line["attempts"].as_str().unwrap();
    let [refuses, closes] = backends;
    for part in [
        format!("{refuses}: connect: Connection refused"),
        "processed: Never, after ".to_owned(),
        format!("{closes}: closed by the endpoint, processed: Perhaps, after "),
    ] {
        assert!(attempts.contains(&part), "{part}: {attempts}");
    }
    assert_eq!(
        attempts.matches("; ").count() + 1,
        attempts.matches(" ms").count()
    );
}

#[tokio::test]
async fn lines_are_json_where_nobody_sits_before_them_or_the_file_says_so_and_else_text() {
    for (log, is_json) in [
        ("format = \"json\"", true),
        ("format = \"auto\"", true),
        ("", true),
        ("format = \"text\"", false),
    ] {
        let folder = TempDir::new().unwrap();
        let (callboard, _) = start(folder.path(), log, &[refusing()]).await;
        let lines = ended(callboard).await;
        assert!(lines.last().unwrap().contains("gone"), "{lines:?}");
        for line in lines {
            if is_json {
                let line = json(&line);
                for key in ["timestamp", "level", "target", "message"] {
                    assert!(line[key].is_string(), "{key}: {line}");
                }
            } else {
                assert!(line.contains(" INFO callboard"), "{line}");
                assert!(!line.contains('\u{1b}'), "no colours in a pipe: {line}");
            }
        }
    }
}

#[tokio::test]
async fn nobody_forges_a_line_of_text_or_reaches_the_terminal() {
    let folder = TempDir::new().unwrap();
    let log = "format = \"text\"\nlevel = \"debug\"\n[access_log]\nformat = \"combined\"\n\
         [[route]]\npath = \"/t/{service}\"\nservice = \"{service}\"\n[defaults]\n\
         registry = \"embedded\"";
    let (callboard, address) = start(folder.path(), log, &[refusing()]).await;
    for path in ["/t/x%0aFORGED", "/t/x%1b[31mFORGED", "/cart/\u{9b}31m"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
        Wire::connect(address).await.ask(&request).await;
    }
    let lines = ended(callboard).await;
    assert!(
        lines.iter().any(|line| line.contains("`x\\nFORGED`")),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("`x\\u{1b}[31mFORGED`")),
        "{lines:#?}"
    );
    for line in lines {
        assert!(!line.starts_with("FORGED"), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[tokio::test]
async fn a_json_line_has_each_key_once() {
    let folder = TempDir::new().unwrap();
    let log = "format = \"json\"\nlevel = \"debug\"";
    let (callboard, address) = start(folder.path(), log, &[]).await;
    for path in ["/", "/a/../b"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
        Wire::connect(address).await.ask(&request).await;
    }
    let lines = ended(callboard).await;
    for said in ["no healthy instance", "refused"] {
        let said = |line: &&String| json(line)["message"] == said;
        let line = lines.iter().find(said).expect("it is said");
        assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
        assert!(json(line)["reason"].is_string(), "{line}");
    }
}

/// Keys that each JSON line has already.
const TAKEN: [&str; 6] = ["message", "timestamp", "level", "target", "span", "spans"];

#[test]
fn no_event_has_a_field_that_is_named_like_a_key_of_every_line() {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut events = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut fields = Vec::new();
                events += fields_of_events(text.parse().unwrap(), &mut fields);
                fields.retain(|field| TAKEN.contains(&&**field));
                found.extend(fields.iter().map(|field| (path.clone(), field.clone())));
            }
        }
    }
    assert!(events > 50, "only {events} were found");
    assert!(found.is_empty(), "{found:?}");
    let mut fields = Vec::new();
    let text = "tracing::warn!(target: \"x\", a, %message, b = f(c), ?d, \"{e}\", e)";
    assert_eq!(fields_of_events(text.parse().unwrap(), &mut fields), 1);
    assert_eq!(fields, ["a", "message", "b", "d"]);
}

/// Adds the names of the fields of all `tracing::LEVEL!(…)`, and counts these.
fn fields_of_events(tokens: TokenStream, fields: &mut Vec<String>) -> usize {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut events = 0;
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else {
            continue;
        };
        let before: String = tokens[at.saturating_sub(5)..at]
            .iter()
            .map(ToString::to_string)
            .collect();
        if before.starts_with("tracing::") && before.ends_with('!') {
            assert_eq!(group.delimiter(), Delimiter::Parenthesis);
            events += 1;
            fields.extend(fields_of(group.stream()));
        }
        events += fields_of_events(group.stream(), fields);
    }
    events
}

/// The names of the fields that stand before an event's text.
fn fields_of(arguments: TokenStream) -> Vec<String> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
    let mut names = Vec::new();
    for argument in arguments.split(is_comma) {
        let punct = |at: usize| match argument.get(at) {
            Some(TokenTree::Punct(punct)) => Some(punct.as_char()),
            _ => None,
        };
        let start = usize::from(matches!(punct(0), Some('%' | '?')));
        match argument.get(start) {
            Some(TokenTree::Literal(_)) => break,
            Some(TokenTree::Ident(name)) if punct(start + 1) != Some(':') => {
                names.push(name.to_string());
            }
            _ => {}
        }
    }
    names
}

#[tokio::test]
async fn requests_that_fail_for_one_reason_are_one_line_that_says_what_was_asked() {
    let folder = TempDir::new().unwrap();
    let (callboard, address) = start(folder.path(), "format = \"json\"", &[refusing()]).await;
    for n in 0..20 {
        let request =
            format!("POST /x/{n}?q=1 HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(
            Wire::connect(address).await.ask(&request).await.status(),
            502
        );
    }
    let lines = ended(callboard).await;
    let lines = lines.iter().map(|line| json(line));
    let failures: Vec<_> = lines
        .filter(|line| line["message"] == "no answer")
        .collect();
    let [line] = &failures[..] else {
        panic!("{failures:?}")
    };
    for (key, value) in [
        ("method", "POST"),
        ("host", "shop"),
        ("path", "/x/0"),
        ("client", "127.0.0.1"),
        ("cause", "connect"),
        ("service", "cart"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!(line["times"], 1);
}

/// Closes each connection without an answer while it is ill.
async fn ill_while(is_ill: Arc<AtomicBool>) -> RawBackend {
    RawBackend::serving(move |mut wire| {
        let is_ill = Arc::clone(&is_ill);
        async move {
            while let Ok(Some(_)) = wire.try_message().await {
                if is_ill.load(Relaxed) {
                    return;
                }
                wire.send(ok("well")).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_comes_is_ejected_is_back_or_goes_is_a_line() {
    let folder = TempDir::new().unwrap();
    let [registry] = free_ports();
    let text = format!(
        "[log]\nformat = \"json\"\n[drain]\nnotice = \"0s\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[registry.embedded]\naddress = \"127.0.0.1:{registry}\"\n\
         [defaults]\neject.time = \"1s\"\n[[route]]\nservice = \"cart\"\n"
    );
    let mut callboard = Callboard::run(folder.path(), &text);
    let line = callboard.until_logged("listening on").await;
    let proxy = line.split("listening on ").nth(1).unwrap();
    let proxy = format!("http://{}/", proxy.split('"').next().unwrap());
    callboard.until_logged("the admin server is at").await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let agent = format!("http://127.0.0.1:{registry}/v1/agent/service");
    let is_ill = Arc::new(AtomicBool::new(false));
    let ill = ill_while(Arc::clone(&is_ill)).await;
    let well = RawBackend::saying(ok("well"), Then::Keep).await;
    for backend in [&ill, &well] {
        let at = backend.address();
        let body = serde_json::json!({
            "Name": "cart", "ID": at.to_string(), "Address": at.ip(), "Port": at.port(),
        });
        let told = http.put(format!("{agent}/register")).json(&body).send();
        assert!(told.await.unwrap().status().is_success());
        let line = json(&callboard.until_logged("endpoints have come or gone").await);
        assert_eq!(
            (&line["service"], &line["joined"], &line["left"]),
            (&"cart".into(), &at.to_string().into(), &"".into())
        );
    }
    is_ill.store(true, Relaxed);
    let asking = tokio::spawn({
        let http = http.clone();
        async move {
            loop {
                let _ = http.get(&proxy).send().await;
            }
        }
    });
    let gone_bad = ill.address().to_string();
    let line = json(&callboard.until_logged("an endpoint is ejected").await);
    assert_eq!(line["level"], "WARN");
    assert_eq!(
        (&line["service"], &line["endpoint"]),
        (&"cart".into(), &(*gone_bad).into())
    );
    is_ill.store(false, Relaxed);
    let line = json(&callboard.until_logged("an endpoint is back").await);
    assert_eq!(line["endpoint"], *gone_bad);
    let told = http.put(format!("{agent}/deregister/{gone_bad}")).send();
    assert!(told.await.unwrap().status().is_success());
    let line = json(&callboard.until_logged("endpoints have come or gone").await);
    assert_eq!(
        (&line["joined"], &line["left"]),
        (&"".into(), &(*gone_bad).into())
    );
    asking.abort();
    ended(callboard).await;
}

#[tokio::test]
async fn the_start_says_which_version_runs_what_file_and_what_is_in_it() {
    let folder = TempDir::new().unwrap();
    let text = "[log]\nformat = \"json\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
                [admin]\naddress = \"127.0.0.1:0\"\n\
                [registry.embedded]\naddress = \"127.0.0.1:0\"\n\
                [registry.main]\nkind = \"file\"\npath = \"instances.toml\"\n\
                [service.cart]\nregistry = \"main\"\n\
                [service.hat]\nregistry = \"embedded\"\n\
                [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
                [[route]]\npath = \"/hat\"\nservice = \"hat\"\n";
    std::fs::write(folder.path().join("instances.toml"), "").unwrap();
    let mut callboard = Callboard::run(folder.path(), text);
    let line = json(&callboard.until_logged("callboard starts").await);
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"), "{line}");
    assert!(
        line["file"].as_str().unwrap().ends_with("proxy.toml"),
        "{line}"
    );
    assert_eq!(line["registries"], "embedded, main (file)", "{line}");
    assert_eq!((&line["routes"], &line["services"]), (&2.into(), &2.into()));
    callboard.until_logged("the admin server is at").await;
    ended(callboard).await;
}

#[tokio::test]
async fn a_reload_changes_the_level_and_the_form_of_the_lines() {
    let folder = TempDir::new().unwrap();
    let text = |log: &str| {
        format!(
            "[log]\n{log}\n[drain]\nnotice = \"0s\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[service.cart]\nendpoints = [\"127.0.0.1:1\"]\n\
             [[route]]\npath = \"/cart\"\nservice = \"cart\"\n"
        )
    };
    let mut callboard = Callboard::run(folder.path(), &text("format = \"text\""));
    let [line, _] = callboard.until_all_logged(["listening on", "ready"]).await;
    let address: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let other = text("format = \"json\"\nlevel = \"debug\"");
    std::fs::write(folder.path().join("proxy.toml"), other).unwrap();
    callboard.signal(Signal::SIGHUP);
    let line = callboard.until_logged("reloaded").await;
    assert_eq!(json(&line)["message"], "reloaded");
    let unrouted = "GET /other HTTP/1.1\r\nHost: shop\r\n\r\n";
    assert_eq!(
        Wire::connect(address).await.ask(unrouted).await.status(),
        404
    );
    let line = callboard.until_logged("\"DEBUG\"").await;
    assert_eq!(json(&line)["level"], "DEBUG");
    let quiet = text("format = \"text\"\nlevel = \"warn\"");
    let quiet = format!("workers = 7\n{quiet}");
    std::fs::write(folder.path().join("proxy.toml"), quiet).unwrap();
    callboard.signal(Signal::SIGHUP);
    // What it says next is of another form, and of this level.
    let line = callboard
        .until_logged("takes effect at the next start")
        .await;
    assert!(line.contains(" WARN "), "{line}");
}
