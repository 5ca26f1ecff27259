//! A reload takes the place of what runs as a whole, or changes nothing; what both files have alike
//! goes on with all that it has, and no request fails for it.

use std::{os::unix::fs::OpenOptionsExt as _, time::Duration};

use http::{HeaderValue, StatusCode};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    backend::{BACKEND, Backend, by},
    callboard::Callboard,
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, are, endpoints},
};

/// Two services with a route each; `lines` stand before them.
fn file(lines: &str) -> String {
    format!(
        "workers = 2\n{lines}\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         strip_prefix = true\n[[route]]\npath = \"/shop\"\nservice = \"shop\"\n"
    )
}

async fn start(text: &str) -> (Proxy, Backend, Backend) {
    let proxy = Proxy::start(text).await;
    let (cart, shop) = (Backend::start("cart").await, Backend::start("shop").await);
    proxy.register("cart", cart.address()).await;
    proxy.register("shop", shop.address()).await;
    proxy.until_served("/cart").await;
    proxy.until_served("/shop").await;
    (proxy, cart, shop)
}

/// What a reload with this file answers.
async fn reload(proxy: &Proxy, text: &str) -> (StatusCode, Value) {
    proxy.reload(text).await
}

async fn ask(proxy: &Proxy, body: Value) -> (StatusCode, Value) {
    proxy.ask_to_reload(body).await
}

async fn reloaded(proxy: &Proxy, text: &str) -> Value {
    let (status, said) = reload(proxy, text).await;
    assert_eq!(status, 200, "{said}");
    said["changes"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_and_services_come_and_go_and_the_others_keep_all_they_have() {
    // One worker: its connections are the endpoint's.
    // It is kept for as long as a reload may take.
    const KEPT: &str = "[defaults]\npool = { idle = \"1m\" }\n";
    let file = file(KEPT).replace("workers = 2", "workers = 1");
    let (proxy, cart, _shop) = start(&file).await;
    let before = proxy.service("cart").await;
    let text =
        format!("{file}[[route]]\npath = \"/v2\"\nservice = \"cart\"\nstrip_prefix = true\n");
    let changes = reloaded(&proxy, &text).await;
    assert_eq!(changes["added"], json!(["route /v2"]));
    assert_eq!(by(&proxy.get("/v2/x").await), "cart");
    // The connection that was open is the endpoint's, and goes on.
    let after = proxy.service("cart").await;
    let of = |service: &Value, field| service["endpoints"][0][field].as_u64().unwrap();
    let opened = of(&before, "connections_opened");
    assert_eq!(
        (of(&after, "connections_opened"), opened),
        (1, 1),
        "{after}"
    );
    assert_eq!(
        of(&after, "attempts"),
        of(&before, "attempts") + 1,
        "{after}"
    );
    assert!(after["requests"].as_u64() > before["requests"].as_u64());
    let limited =
        "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nrate = { requests = 1, per = \"1h\" }\n";
    let changes = reloaded(&proxy, &format!("{KEPT}{limited}")).await;
    assert_eq!(
        changes["removed"],
        json!(["service shop", "route /shop", "route /v2"])
    );
    assert_eq!(changes["changed"], json!(["route /cart"]));
    assert_eq!(proxy.get("/shop").await.status(), 404);
    let statuses = [
        proxy.get("/cart").await.status(),
        proxy.get("/cart").await.status(),
    ];
    assert_eq!(statuses, [200, 429], "the limit is there");
    // And what is used up of it stays so.
    let new = "[[route]]\npath = \"/new\"\nservice = \"cart\"\n";
    reloaded(&proxy, &format!("{KEPT}{new}{limited}")).await;
    assert_eq!(proxy.get("/cart").await.status(), 429);
    assert!(cart.requests() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_an_error_changes_nothing_and_is_said_with_line_and_column() {
    let (proxy, _cart, _shop) = start(&file("")).await;
    for (text, place) in [
        (
            file("[service.cart]\ntimeout.connect = \"no\"\n"),
            (3, "service.cart.timeout.connect"),
        ),
        ("[[route]\n".to_owned(), (1, "")),
    ] {
        let (status, said) = reload(&proxy, &text).await;
        assert_eq!(status, 422, "{said}");
        let error = &said["errors"][0];
        let key = error["key"].as_str().unwrap_or_default();
        assert_eq!(
            (error["line"].as_u64(), key),
            (Some(place.0), place.1),
            "{said}"
        );
        assert_eq!(proxy.get("/shop").await.status(), 200);
    }
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    for line in [
        "callboard_reloads_total{result=\"failed\"} 2",
        "callboard_reloads_total{result=\"applied\"} 0",
        "callboard_last_reload_successful 0",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    let status = proxy.status().await;
    let last = &status["reload"]["last"];
    assert!(last["error"].as_str().unwrap().contains(":1:"), "{last}");
    assert_eq!(last["changes"], Value::Null);
    reloaded(&proxy, &file("")).await;
    let status = proxy.status().await;
    let counts = (&status["reload"]["applied"], &status["reload"]["failed"]);
    assert_eq!(counts, (&json!(1), &json!(2)));
    assert_eq!(status["reload"]["last"]["error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_change_and_what_waits_for_a_start_is_named() {
    let (proxy, _cart, _shop) = start(&file("")).await;
    let text = file("[service.cart]\nbalance = \"random\"\n").replace("workers = 2", "workers = 1");
    proxy.write(&text);
    let (status, said) = ask(&proxy, json!({ "dry_run": true })).await;
    let changes = json!({
        "added": [], "removed": [], "changed": ["service cart"], "at_next_start": ["workers"],
    });
    assert_eq!((status.as_u16(), &said["changes"]), (200, &changes));
    assert_eq!(
        proxy.service("cart").await["balance"]["kind"],
        "round_robin"
    );
    assert_eq!(proxy.status().await["reload"]["applied"], 0);
    // What a reload could not have, it says as well.
    let lacks = "[service.cart]\ntls.ca = \"missing.pem\"\n";
    proxy.write(&file(lacks));
    let (status, said) = ask(&proxy, json!({ "dry_run": true })).await;
    assert_eq!((status.as_u16(), &said["errors"]), (422, &json!([])));
    assert!(
        said["error"].as_str().unwrap().contains("missing.pem"),
        "{said}"
    );
    assert_eq!(reloaded(&proxy, &text).await, changes);
    assert_eq!(proxy.service("cart").await["balance"]["kind"], "random");
    assert_eq!(proxy.status().await["workers"].as_array().unwrap().len(), 2);
    let (_, said) = ask(&proxy, json!({ "dry_run": true })).await;
    assert_eq!(said["changes"]["changed"], json!([]));
    assert_eq!(said["changes"]["at_next_start"], json!(["workers"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_a_journal_and_an_ejection_outlive_another_policy() {
    let eject = "[service.cart]\neject = { failures = 1, time = \"5m\" }\nretry.attempts = 1\n";
    let (proxy, cart, _shop) = start(&file(eject)).await;
    let bad = Backend::start("bad").await;
    proxy.register("cart", bad.address()).await;
    proxy
        .until_states(
            "cart",
            &[(cart.address(), "serving"), (bad.address(), "serving")],
        )
        .await;
    let pin = proxy
        .http
        .post(proxy.admin("/api/services/cart/pin"))
        .json(&json!({}));
    assert_eq!(pin.send().await.unwrap().status(), 200);
    let address = bad.address();
    drop(bad);
    let states = [(cart.address(), "serving"), (address, "ejected")];
    eventually(
        "it is ejected",
        async || {
            proxy.get("/cart").await;
            proxy.service("cart").await
        },
        |service| are(endpoints(service), &states),
    )
    .await;
    let journal = async || -> Value {
        proxy
            .page("/api/services/cart/journal")
            .await
            .json()
            .await
            .unwrap()
    };
    let before = journal().await;
    reloaded(&proxy, &file(&format!("{eject}drain = \"2s\"\n"))).await;
    proxy.until_states("cart", &states).await;
    assert_eq!(journal().await, before);
    assert!(proxy.service("cart").await["pin"].is_object());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_registry_takes_over_when_it_has_answered() {
    let (proxy, cart, _shop) = start(&file("")).await;
    let other = Backend::start("other").await;
    let list = proxy.folder().join("list.toml");
    let text = format!(
        "{}\n[registry.embedded]\naddress = \"127.0.0.1:0\"\n\
         [registry.list]\nkind = \"file\"\npath = \"list.toml\"\n\
         [defaults]\nregistry = \"embedded\"\n[service.cart]\nregistry = \"list\"\n",
        file("")
    );
    // The file is not there yet: what was known serves.
    reloaded(&proxy, &text).await;
    for _ in 0..5 {
        assert_eq!(by(&proxy.get("/cart").await), "cart");
    }
    let beside = list.with_extension("new");
    let text = format!("[cart]\nendpoints = [\"{}\"]\n", other.address());
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, &list).unwrap();
    let answered = async || proxy.get("/cart").await.headers().get(BACKEND).cloned();
    let by_other = |by: &Option<HeaderValue>| by.as_ref().is_some_and(|by| by == "other");
    eventually("the other registry's endpoint serves", answered, by_other).await;
    assert!(cart.requests() > 0);
}

/// What each reload adds to the file.
const KINDS: [&str; 10] = [
    "",
    "[service.cart]\nbalance = \"p2c\"\n",
    "[service.cart]\nlimits = { concurrent = 500 }\n",
    "[service.cart]\nhealth = { kind = \"tcp\" }\neject = false\n",
    "[defaults]\nslow_start = \"1s\"\npool = { connections = 2 }\n",
    "[[route]]\npath = \"/cart/v2\"\nservice = \"cart\"\nbalance = \"random\"\n",
    "[[route]]\npath = \"/{service}/x\"\nservice = \"{service}\"\n",
    "[service.cart]\nbalance = { kind = \"hash\", by = \"path\" }\nretry = { attempts = 2 }\n",
    "[service.new]\nendpoints = [\"127.0.0.1:1\"]\n[[route]]\npath = \"/new\"\nservice = \"new\"\n",
    "[[route]]\npath = \"/cart/split\"\nsplit = [{ service = \"cart\", weight = 1 }, { service = \"shop\", weight = 0 }]\n",
];

/// Reloads while a load runs, one of seven with a file that has an error; each `pause` after the one
/// before.
async fn reloads_under_load(reloads: usize, per_second: u32, pause: Duration) {
    let ledger = Ledger::default();
    let mut backends = Vec::new();
    let proxy = Proxy::start(&file("")).await;
    for id in ["a", "b", "c"] {
        let backend = ledger.backend(id).start().await;
        proxy.register("cart", backend.address()).await;
        backends.push(backend);
    }
    proxy.until_served("/cart").await;
    let load = Load::start(proxy.address(), "/cart", per_second).await;
    for n in 0..reloads {
        let (text, expected) = match n % 7 {
            6 => ("[[route]\n".to_owned(), 422),
            _ => (file(KINDS[n % KINDS.len()]), 200),
        };
        let (status, said) = reload(&proxy, &text).await;
        assert_eq!(status.as_u16(), expected, "{said}");
        tokio::time::sleep(pause).await;
    }
    let report = load.stop(&ledger).await;
    println!("{reloads} reloads: {report}");
    report.assert_flawless("reloads");
    let opened = proxy.service("cart").await;
    assert_eq!(endpoints(&opened).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_over_reloads_of_every_kind() {
    reloads_under_load(30, 300, Duration::from_millis(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn none_of_a_hundred_thousand_requests_fails_over_fifty_reloads() {
    reloads_under_load(50, 1_000, Duration::from_secs(2)).await;
}

/// How long a reload of 20,000 routes takes, and the slowest of the requests that are made meanwhile,
/// one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures"]
async fn figures_of_a_reload_of_twenty_thousand_routes() {
    let routes = |last: usize| {
        let route = |n| {
            format!("[[route]]\nhost = \"h{n}.example\"\npath = \"/{n}\"\nservice = \"cart\"\n")
        };
        file("") + &(0..last).map(route).collect::<String>()
    };
    let (proxy, _cart, _shop) = start(&routes(20_000)).await;
    for last in [20_001, 20_000, 20_002] {
        let began = tokio::time::Instant::now();
        let (asked, mut slowest) = (
            async { reloaded(&proxy, &routes(last)).await },
            Duration::ZERO,
        );
        let mut asked = std::pin::pin!(asked);
        loop {
            let sent = tokio::time::Instant::now();
            tokio::select! {
                _ = &mut asked => break,
                answer = proxy.get("/cart") => assert_eq!(answer.status(), 200),
            }
            slowest = slowest.max(sent.elapsed());
        }
        let seconds = proxy.status().await["reload"]["last"]["seconds"].as_f64();
        println!(
            "{last} routes: {seconds:?} s, answered after {:?}, slowest {slowest:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn a_signal_and_a_file_that_has_changed_reload_and_a_bad_file_is_logged() {
    let backend = Backend::start("a").await;
    let folder = TempDir::new().unwrap();
    let text = |lines: &str| {
        format!(
            "{lines}\n[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [service.cart]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"cart\"\n",
            backend.address()
        )
    };
    let mut callboard = Callboard::run(folder.path(), &text(""));
    callboard.until_logged("ready").await;
    let write = |text: &str| std::fs::write(folder.path().join("proxy.toml"), text).unwrap();
    write(&text("workers = 0"));
    callboard.signal(Signal::SIGHUP);
    let line = callboard
        .until_logged("not reloaded: what ran before goes on")
        .await;
    assert!(line.contains("proxy.toml:1:1: workers: "), "{line}");
    write(&text("watch_config = true"));
    callboard.signal(Signal::SIGHUP);
    callboard.until_logged("\"reloaded\"").await;
    write(&text("watch_config = true\n[drain]\nnotice = \"1s\""));
    callboard.until_logged("\"reloaded\"").await;
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_file_that_is_included_is_followed_too_and_an_error_in_it_has_its_name() {
    let folder = TempDir::new().unwrap();
    let included = folder.path().join("conf.d/a.toml");
    std::fs::create_dir(included.parent().unwrap()).unwrap();
    let text = "watch_config = true\ninclude = \"conf.d/*.toml\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [service.cart]\nendpoints = [\"127.0.0.1:1\"]\n[[route]]\nservice = \"cart\"\n";
    let mut callboard = Callboard::run(folder.path(), text);
    callboard.until_logged("ready").await;
    std::fs::write(&included, "[drain]\nnotice = 3\n").unwrap();
    callboard.signal(Signal::SIGHUP);
    let line = callboard
        .until_logged("not reloaded: what ran before goes on")
        .await;
    assert!(line.contains("conf.d/a.toml:2:1: drain.notice: "), "{line}");
    std::fs::write(&included, "[drain]\nnotice = \"1s\"\n").unwrap();
    callboard.until_logged("\"reloaded\"").await;
    std::fs::remove_file(&included).unwrap();
    callboard.until_logged("\"reloaded\"").await;
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
}

#[tokio::test]
async fn what_changes_between_the_reading_of_the_file_and_its_first_look_is_taken_over() {
    let folder = TempDir::new().unwrap();
    let text = file("watch_config = true\n");
    let more = format!("{text}[[route]]\npath = \"/v2\"\nservice = \"cart\"\n");
    let then = |file: &std::path::Path| std::fs::write(file, more).unwrap();
    let proxy = Proxy::start_after(folder, &text, then).await;
    let routes = async || proxy.status().await["routes"].as_array().map(Vec::len);
    eventually("the new route is there", routes, |routes| {
        *routes == Some(3)
    })
    .await;
    proxy.drain().await;
}

/// As Kubernetes has the files of a ConfigMap: links to a folder by way of one link, which is swapped.
#[tokio::test]
async fn files_that_are_swapped_by_a_link_are_taken_over_at_once_and_a_bad_one_ends_nothing() {
    let backend = Backend::start("a").await;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
    for (version, of_b) in [("one", "1s"), ("two", "2s"), ("bad", "3")] {
        std::fs::create_dir_all(at("conf.d").join(version)).unwrap();
        let write = |name: &str, text: String| {
            std::fs::write(at("conf.d").join(version).join(name), text).unwrap();
        };
        let route = format!("[[route]]\npath = \"/{version}\"\nservice = \"cart\"\n");
        write("a.toml", route);
        write("b.toml", format!("[drain]\nnotice = \"{of_b}\"\n"));
    }
    link("one", "conf.d/..data");
    link("..data/a.toml", "conf.d/a.toml");
    link("..data/b.toml", "conf.d/b.toml");
    let text = format!(
        "watch_config = true\ninclude = \"conf.d/*.toml\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [service.cart]\nendpoints = [\"{}\"]\n",
        backend.address()
    );
    let mut callboard = Callboard::run(folder.path(), &text);
    let line = callboard.until_logged("listening on").await;
    let listener = line.split("listening on ").nth(1).unwrap();
    let listener = listener.split('"').next().unwrap().to_owned();
    let swap = |version: &str| {
        link(version, "conf.d/..new");
        std::fs::rename(at("conf.d/..new"), at("conf.d/..data")).unwrap();
    };
    swap("two");
    callboard.until_logged("\"reloaded\"").await;
    swap("bad");
    let line = callboard
        .until_logged("not reloaded: what ran before goes on")
        .await;
    assert!(line.contains("conf.d/b.toml:2:1: drain.notice: "), "{line}");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, status) in [("two", 200), ("one", 404), ("bad", 404)] {
        let answer = http.get(format!("http://{listener}/{path}")).send().await;
        assert_eq!(answer.unwrap().status(), status, "{path}");
    }
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
}

/// A pipe stands for a disk that does not answer.
#[tokio::test]
async fn a_reload_that_waits_for_its_file_holds_no_signal_up() {
    let folder = TempDir::new().unwrap();
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [service.cart]\nendpoints = [\"127.0.0.1:1\"]\n[[route]]\nservice = \"cart\"\n";
    let mut callboard = Callboard::run(folder.path(), text);
    callboard.until_logged("ready").await;
    let file = folder.path().join("proxy.toml");
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    callboard.signal(Signal::SIGHUP);
    // A pipe can be opened to be written without waiting where it is being read.
    let writer = eventually(
        "the file is being read",
        async || {
            let mut options = std::fs::OpenOptions::new();
            let options = options.write(true).custom_flags(nix::libc::O_NONBLOCK);
            options.open(&file).ok()
        },
        Option::is_some,
    )
    .await;
    callboard.signal(Signal::SIGTERM);
    assert_eq!(callboard.ended().await.0, Some(0));
    drop(writer);
}
