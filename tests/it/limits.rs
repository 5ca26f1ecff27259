//! How many requests a service and its endpoints work on at once: never more than the limit, those
//! who find no room wait in a row, and who waits for too long, or finds the row full, is told so at
//! once and in words.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::support::{
    backend::Backend,
    eventually,
    load::{Ledger, Load},
    proxy::Proxy,
};

const ROUTE: &str = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n";

/// A backend that holds its requests until it is told to let one go, and notes how many it had at
/// once.
struct Slow {
    backend: Backend,
    gate: Arc<Semaphore>,
    most: Arc<AtomicUsize>,
}

impl Slow {
    async fn start(proxy: &Proxy) -> Self {
        let slow = Self::unregistered().await;
        proxy.register("cart", slow.backend.address()).await;
        slow
    }

    async fn unregistered() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let backend = Backend::named("slow").answering({
            let (gate, most) = (Arc::clone(&gate), Arc::clone(&most));
            move |_| {
                let (gate, now, most) = (Arc::clone(&gate), Arc::clone(&now), Arc::clone(&most));
                async move {
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    gate.acquire().await.unwrap().forget();
                    now.fetch_sub(1, SeqCst);
                    "done"
                }
            }
        });
        let backend = backend.start().await;
        Self {
            backend,
            gate,
            most,
        }
    }
}

async fn start(limits: &str, count: usize) -> (Arc<Proxy>, Vec<Slow>) {
    let proxy = Proxy::start(&format!("{ROUTE}[service.cart]\nlimits = {{ {limits} }}\n")).await;
    let mut backends = Vec::new();
    for _ in 0..count {
        backends.push(Slow::start(&proxy).await);
    }
    let states: Vec<_> = backends
        .iter()
        .map(|slow| (slow.backend.address(), "serving"))
        .collect();
    proxy.until_states("cart", &states).await;
    (Arc::new(proxy), backends)
}

/// So many at once; their statuses come as they end.
fn ask(proxy: &Arc<Proxy>, count: usize) -> JoinSet<u16> {
    let mut asking = JoinSet::new();
    for _ in 0..count {
        let proxy = Arc::clone(proxy);
        asking.spawn(async move { proxy.get("/cart/x").await.status().as_u16() });
    }
    asking
}

async fn until_limits(proxy: &Proxy, in_use: u64, waiting: u64) {
    let what = format!("{in_use} in use, {waiting} waiting");
    proxy
        .until_service("cart", &what, |service| {
            let limits = &service["limits"];
            limits["in_use"] == in_use && limits["waiting"] == waiting
        })
        .await;
}

async fn shed(proxy: &Proxy, reason: &str) -> usize {
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    let name = format!("callboard_requests_shed_total{{service=\"cart\",reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}

fn with_status(statuses: &[u16], wanted: u16) -> usize {
    statuses.iter().filter(|status| **status == wanted).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_works_on_so_many_so_many_wait_and_the_rest_is_told() {
    let (proxy, slow) = start("concurrent = 3, pending = 4, wait = \"20s\"", 1).await;
    let asking = ask(&proxy, 7);
    until_limits(&proxy, 3, 4).await;
    let answer = proxy.get("/cart/x").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("service `cart` has as much to do as it may"),
        "{text}"
    );
    assert_eq!(shed(&proxy, "concurrent").await, 1);
    slow[0].gate.add_permits(7);
    assert_eq!(with_status(&asking.join_all().await, 200), 7);
    until_limits(&proxy, 0, 0).await;
    assert_eq!(slow[0].most.load(SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_too_long_is_told_and_a_client_that_leaves_makes_room() {
    let (proxy, slow) = start("concurrent = 1, pending = 4, wait = \"300ms\"", 1).await;
    let mut first = ask(&proxy, 1);
    until_limits(&proxy, 1, 0).await;
    let began = Instant::now();
    assert_eq!(proxy.get("/cart/x").await.status(), 503);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(shed(&proxy, "pending").await, 1);
    first.abort_all();
    until_limits(&proxy, 0, 0).await;
    slow[0].gate.add_permits(2);
    assert_eq!(proxy.get("/cart/x").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_has_more_than_its_own_limit() {
    let (proxy, slow) = start("per_endpoint = 2, pending = 1, wait = \"20s\"", 3).await;
    let asking = ask(&proxy, 6);
    until_limits(&proxy, 6, 0).await;
    let waits = ask(&proxy, 1);
    until_limits(&proxy, 6, 1).await;
    assert_eq!(proxy.get("/cart/x").await.status(), 503);
    assert_eq!(shed(&proxy, "per_endpoint").await, 1, "the row is full");
    // One that comes takes what waits, as soon as somebody leaves.
    slow[1].gate.add_permits(1);
    eventually(
        "it is asked",
        async || slow[1].backend.requests(),
        |now| *now == 3,
    )
    .await;
    for slow in &slow {
        slow.gate.add_permits(3);
    }
    assert_eq!(with_status(&asking.join_all().await, 200), 6);
    assert_eq!(with_status(&waits.join_all().await, 200), 1);
    for slow in &slow {
        assert!(slow.most.load(SeqCst) <= 2);
    }
    until_limits(&proxy, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_load_with_updates_retries_and_a_drain_nobody_is_lost_and_every_seat_comes_back() {
    let config = format!(
        "{ROUTE}[service.cart]\nlimits = {{ concurrent = 6, per_endpoint = 3, pending = 1000, \
         wait = \"10s\" }}\ndrain = \"5s\"\n"
    );
    let proxy = Proxy::start(&config).await;
    let ledger = Ledger::default();
    let mut backends = Vec::new();
    for id in ["a", "b", "c"] {
        let backend = ledger.backend(id).start().await;
        proxy.register("cart", backend.address()).await;
        backends.push(backend);
    }
    proxy.until_served("/cart/x").await;
    let load = Load::start(proxy.address(), "/cart", 100).await;
    for round in 0..8 {
        let new = ledger.backend(&format!("{round}")).start().await;
        proxy.register("cart", new.address()).await;
        let old = std::mem::replace(&mut backends[round % 3], new);
        proxy.deregister("cart", old.address()).await;
        // Half of them go without a word: what is on its way there is tried elsewhere.
        match round % 2 {
            0 => old.close().await,
            _ => drop(old),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut report = load.stop(&ledger).await;
    report.assert_nothing_twice("limits, updates, kills");
    report.failed.retain(|one| one.method != http::Method::POST);
    report.assert_flawless_but_for_closes("limits, updates, kills, but for POSTs");
    until_limits(&proxy, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_waited_has_all_of_its_time_before_it() {
    let config = format!(
        "{ROUTE}[service.cart]\nlimits = {{ concurrent = 1, pending = 50, wait = \"20s\" }}\n\
         retry = {{ try_timeout = \"1s\" }}\neject = {{ failures = 1, time = \"1m\" }}\n"
    );
    let proxy = Arc::new(Proxy::start(&config).await);
    let mut backends = Vec::new();
    for id in ["a", "b"] {
        let backend = Backend::named(id).answering(|_| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        });
        let backend = backend.start().await;
        proxy.register("cart", backend.address()).await;
        backends.push(backend);
    }
    let states: Vec<_> = backends
        .iter()
        .map(|one| (one.address(), "serving"))
        .collect();
    proxy.until_states("cart", &states).await;
    // The last of them waits for three times as long as an attempt may take.
    let statuses = ask(&proxy, 12).join_all().await;
    assert_eq!(with_status(&statuses, 200), 12, "{statuses:?}");
    proxy.until_states("cart", &states).await;
    assert_eq!(proxy.service("cart").await["retries"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_full_of_this_request_takes_it_again_over_another_connection() {
    use crate::support::raw::{RawBackend, Then, ok};

    let limits = "limits = { per_endpoint = 1 }\n";
    let proxy = Proxy::start(&format!("workers = 1\n{ROUTE}[service.cart]\n{limits}")).await;
    // It says that it keeps the connection, and ends it.
    let brief = RawBackend::saying(ok("done"), Then::Close).await;
    proxy.register("cart", brief.address()).await;
    proxy
        .until_states("cart", &[(brief.address(), "serving")])
        .await;
    for _ in 0..200 {
        assert_eq!(proxy.get("/cart/x").await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retry_on_names_goes_out_as_it_is_where_all_others_are_full_and_costs_no_retry() {
    let config = format!(
        "workers = 1\n{ROUTE}[service.cart]\neject = false\nretry = {{ on = 503 }}\n\
         limits = {{ per_endpoint = 1, pending = 100, wait = \"20s\" }}\n"
    );
    let proxy = Arc::new(Proxy::start(&config).await);
    let slow = Slow::start(&proxy).await;
    let busy = Backend::named("busy").answering(|_| async {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        (status, "later")
    });
    let busy = busy.start().await;
    proxy.register("cart", busy.address()).await;
    let states = [&slow.backend, &busy].map(|one| (one.address(), "serving"));
    proxy.until_states("cart", &states).await;

    // Whoever is answered first, it ends where there is room.
    let held = ask(&proxy, 1);
    let is_held = async || slow.backend.requests();
    eventually("one is held", is_held, |count| *count == 1).await;
    let asked = busy.requests();
    let began = Instant::now();
    // More than the budget has for all of them.
    for round in 1..=15 {
        let statuses = ask(&proxy, 10).join_all().await;
        assert_eq!(with_status(&statuses, 503), 10, "{statuses:?}");
        assert_eq!(busy.requests(), asked + round * 10, "each was answered");
    }
    let answer = proxy.get("/cart/x").await;
    assert_eq!(answer.text().await.unwrap(), "later");
    assert!(began.elapsed() < Duration::from_secs(10), "nobody waited");
    for reason in ["concurrent", "per_endpoint", "pending"] {
        assert_eq!(shed(&proxy, reason).await, 0, "{reason}");
    }
    until_limits(&proxy, 1, 0).await;

    // Where there is room again, so is the budget.
    slow.gate.add_permits(100);
    assert_eq!(with_status(&held.join_all().await, 200), 1);
    let asked = busy.requests();
    for _ in 0..10 {
        assert_eq!(proxy.get("/cart/x").await.status(), 200);
    }
    assert!(busy.requests() > asked, "it was asked first");
    until_limits(&proxy, 0, 0).await;
    assert_eq!(slow.most.load(SeqCst), 1);
}

/// Writes a file of endpoints in which `cart` has these, beside another service.
fn write(path: &Path, cart: &[&Slow]) {
    let addresses = cart.iter().map(|slow| slow.backend.address().to_string());
    let cart: Vec<_> = addresses.collect();
    let text = format!("[other]\nendpoints = [\"127.0.0.1:1\"]\n[cart]\nendpoints = {cart:?}\n");
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

async fn pin(proxy: &Proxy, on: bool) {
    let url = proxy.admin("/api/services/cart/pin");
    let request = match on {
        true => proxy.http.post(url).json(&serde_json::json!({})),
        false => proxy.http.delete(url),
    };
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_guard_or_a_pin_keeps_has_its_seats_and_its_row_as_before() {
    for keeper in ["guard", "pin"] {
        let slow = Slow::unregistered().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services.toml");
        write(&path, &[&slow]);
        let config = format!(
            "{ROUTE}[registry.file]\npath = \"services.toml\"\n\
             [service.cart]\nguard = {{ settle = \"10m\", hold = \"10m\" }}\n\
             limits = {{ per_endpoint = 1, pending = 1, wait = \"60s\" }}\n"
        );
        let proxy = Arc::new(Proxy::start_in(folder, &config).await);
        let serving = (slow.backend.address(), "serving");
        proxy.until_states("cart", &[serving]).await;
        let first = ask(&proxy, 1);
        until_limits(&proxy, 1, 0).await;
        if keeper == "pin" {
            pin(&proxy, true).await;
        }
        // It is dropped while it has all that it may.
        write(&path, &[]);
        let journal = async || {
            let url = proxy.admin("/api/services/cart/journal");
            proxy
                .http
                .get(url)
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap()
        };
        let what = if keeper == "pin" {
            "\"removed\""
        } else {
            "\"held\""
        };
        eventually("it is dropped, and kept", journal, |told| {
            told.contains(what)
        })
        .await;
        let second = ask(&proxy, 1);
        until_limits(&proxy, 1, 1).await;
        assert_eq!(proxy.get("/cart/x").await.status(), 503, "{keeper}");
        // Back, it has no second seat: it is who it was.
        write(&path, &[&slow]);
        if keeper == "pin" {
            pin(&proxy, false).await;
        }
        proxy.until_states("cart", &[serving]).await;
        until_limits(&proxy, 1, 1).await;
        assert_eq!(proxy.get("/cart/x").await.status(), 503, "{keeper}");
        assert_eq!(slow.backend.requests(), 1);
        slow.gate.add_permits(2);
        assert_eq!(first.join_all().await, [200], "{keeper}");
        assert_eq!(second.join_all().await, [200], "{keeper}");
        until_limits(&proxy, 0, 0).await;
        assert_eq!(slow.most.load(SeqCst), 1, "{keeper}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_warms_up_takes_what_others_have_no_room_for_up_to_its_own_limit() {
    let config = format!(
        "workers = 1\n{ROUTE}[service.cart]\nslow_start = \"10m\"\n\
         limits = {{ per_endpoint = 20, pending = 1, wait = \"60s\" }}\n"
    );
    let proxy = Arc::new(Proxy::start(&config).await);
    let old = Slow::start(&proxy).await;
    let serving = (old.backend.address(), "serving");
    proxy.until_states("cart", &[serving]).await;
    let new = Slow::start(&proxy).await;
    let both = [serving, (new.backend.address(), "warming")];
    proxy.until_states("cart", &both).await;
    let mut asking = ask(&proxy, 20);
    until_limits(&proxy, 20, 0).await;
    let early = new.backend.requests();
    assert!(early < 10, "{early} of 20 to one that is new");
    // The other has no room for as many again.
    for _ in 0..20 {
        asking.spawn({
            let proxy = Arc::clone(&proxy);
            async move { proxy.get("/cart/x").await.status().as_u16() }
        });
    }
    until_limits(&proxy, 40, 0).await;
    let waits = ask(&proxy, 1);
    until_limits(&proxy, 40, 1).await;
    assert_eq!(proxy.get("/cart/x").await.status(), 503);
    for slow in [&old, &new] {
        slow.gate.add_permits(21);
    }
    assert_eq!(with_status(&asking.join_all().await, 200), 40);
    assert_eq!(waits.join_all().await, [200]);
    assert_eq!([&old, &new].map(|slow| slow.most.load(SeqCst)), [20, 20]);
    proxy.until_states("cart", &both).await;
}
