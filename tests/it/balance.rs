//! Each way of balancing does what it says against real backends: who is slow gets less, a key and a
//! cookie stay where they are, and what happens to endpoints costs no request.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use callboard::{
    client::{AnsweredBy, Client},
    config::Config,
};
use http::{Request, header::SET_COOKIE};
use http_body_util::Empty;
use serde_json::{Value, json};
use tokio::{sync::Barrier, task::JoinSet};

use crate::support::{
    backend::{Backend, by},
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, set_cookie},
};

const ROUTE: &str = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n";

/// A proxy that balances so, over these backends.
async fn before(balance: &str, backends: &[&Backend]) -> Proxy {
    let proxy = Proxy::start(&format!("{ROUTE}[defaults]\nbalance = {balance}\n")).await;
    for backend in backends {
        proxy.register("cart", backend.address()).await;
    }
    until_there_are(&proxy, backends).await;
    proxy
}

async fn until_there_are(proxy: &Proxy, backends: &[&Backend]) {
    let serving = |backend: &&Backend| (backend.address(), "serving");
    let states: Vec<_> = backends.iter().map(serving).collect();
    proxy.until_states("cart", &states).await;
}

async fn some<const N: usize>(ids: [&str; N]) -> Vec<Backend> {
    let mut backends = Vec::new();
    for id in ids {
        backends.push(Backend::start(id).await);
    }
    backends
}

fn all(backends: &[Backend]) -> Vec<&Backend> {
    backends.iter().collect()
}

/// Who answers a request with these fields.
async fn ask(proxy: &Proxy, path: &str, fields: &[(&str, &str)]) -> reqwest::Response {
    let mut request = proxy.http.get(proxy.url(path));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

/// Who answers for each of these keys.
async fn owners(proxy: &Proxy, keys: std::ops::Range<usize>) -> BTreeMap<usize, String> {
    let mut owners = BTreeMap::new();
    for key in keys {
        let user = format!("user-{key}");
        let answer = ask(proxy, "/cart", &[("x-user", &user)]).await;
        owners.insert(key, by(&answer));
    }
    owners
}

async fn metric(proxy: &Proxy, name: &str) -> f64 {
    let page = proxy.page("/metrics").await.text().await.unwrap();
    let start = format!("{name}{{service=\"cart\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("{name} in {page}"))
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_backend_gets_clearly_less_where_loads_are_compared() {
    for balance in ["least_request", "p2c", "peak_ewma"] {
        let fast = some(["a", "b", "c"]).await;
        let slow = Backend::named("slow").answering(|_| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            "slow"
        });
        let slow = slow.start().await;
        let mut backends = all(&fast);
        backends.push(&slow);
        let proxy = before(&format!("\"{balance}\""), &backends).await;
        let mut lanes = JoinSet::new();
        for _ in 0..16 {
            let request = proxy.http.get(proxy.url("/cart"));
            lanes.spawn(async move {
                for _ in 0..40 {
                    let answer = request.try_clone().unwrap().send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                }
            });
        }
        lanes.join_all().await;
        let counts: Vec<_> = backends.iter().map(|backend| backend.requests()).collect();
        println!("{balance}: {counts:?}");
        let [.., slow] = counts[..] else {
            unreachable!("there are four");
        };
        // In turn it would be 160. It is a few tens where the machine has nothing else to do.
        assert!(slow < 120, "{balance}: {counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), 640);
        assert!(
            counts.iter().all(|count| *count > 0),
            "{balance}: {counts:?}"
        );
    }
}

#[tokio::test]
async fn anyone_is_picked_at_random_and_by_weight_as_the_weights_ask() {
    let backends = some(["a", "b"]).await;
    let counts = async |balance: &str, times: usize| {
        let proxy = Proxy::start(&format!("{ROUTE}[defaults]\nbalance = \"{balance}\"\n")).await;
        for (backend, weight) in std::iter::zip(&backends, [3, 1]) {
            let weights = json!({ "Weights": { "Passing": weight, "Warning": 1 } });
            let address = backend.address();
            proxy.register_with("cart", address, weights).await;
        }
        until_there_are(&proxy, &all(&backends)).await;
        let before: Vec<_> = backends.iter().map(Backend::requests).collect();
        for _ in 0..times {
            ask(&proxy, "/cart", &[]).await;
        }
        let after = backends.iter().map(Backend::requests);
        let counts: Vec<_> = after
            .zip(before)
            .map(|(after, before)| after - before)
            .collect();
        counts
    };
    assert_eq!(counts("weighted", 80).await, [60, 20]);
    let random = counts("random", 200).await;
    assert!(random.iter().all(|count| *count > 50), "{random:?}");
    // Who is idle and has more weight is the less busy one.
    assert_eq!(counts("p2c", 20).await, [20, 0]);
    assert_eq!(counts("least_request", 20).await, [20, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_under_load_loses_nothing_however_it_is_balanced() {
    for balance in [
        "\"random\"",
        "\"least_request\"",
        "\"p2c\"",
        "\"peak_ewma\"",
        "{ kind = \"hash\", by = \"path\", load = 1.25 }",
        "{ kind = \"sticky\", fallback = \"p2c\" }",
    ] {
        let ledger = Ledger::default();
        let mut backends = Vec::new();
        for id in ["a", "b", "c"] {
            backends.push(ledger.backend(id).start().await);
        }
        let proxy = before(balance, &all(&backends)).await;
        let load = Load::start(proxy.address(), "/cart", 200).await;
        for id in ["d", "e"] {
            let next = ledger.backend(id).start().await;
            proxy.register("cart", next.address()).await;
            backends.push(next);
            until_there_are(&proxy, &all(&backends)).await;
            let gone = backends.remove(0);
            proxy.deregister("cart", gone.address()).await;
            gone.close().await;
            until_there_are(&proxy, &all(&backends)).await;
        }
        let new = &backends[2];
        let busy = async || new.requests();
        eventually("who came is called", busy, |requests| *requests > 20).await;
        load.stop(&ledger)
            .await
            .assert_flawless_but_for_closes(balance);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stays_with_its_endpoint_and_moves_when_that_is_removed_without_a_failure() {
    let ledger = Ledger::default();
    let mut backends = Vec::new();
    for id in ["a", "b", "c", "d"] {
        backends.push(ledger.backend(id).start().await);
    }
    let balance = "{ kind = \"hash\", by = { header = \"X-User\" } }";
    let proxy = before(balance, &all(&backends)).await;
    // Its requests have no key.
    let load = Load::start(proxy.address(), "/cart", 100).await;
    let first = owners(&proxy, 0..60).await;
    let serve: BTreeSet<_> = first.values().cloned().collect();
    assert_eq!(serve.len(), 4, "{first:?}");
    assert_eq!(owners(&proxy, 0..60).await, first);

    // Another service is no business of theirs, and who comes takes keys only to itself.
    proxy.register("hat", backends[0].address()).await;
    assert_eq!(owners(&proxy, 0..60).await, first);
    let comes = ledger.backend("e").start().await;
    proxy.register("cart", comes.address()).await;
    backends.push(comes);
    until_there_are(&proxy, &all(&backends)).await;
    let second = owners(&proxy, 0..60).await;
    for (key, owner) in &second {
        assert!(owner == "e" || *owner == first[key], "{key}: {owner}");
    }
    let taken = second.values().filter(|owner| *owner == "e").count();
    assert!((1..30).contains(&taken), "{taken}");

    // Who leaves moves its own keys only, and gracefully.
    let leaves = backends.remove(1);
    proxy.deregister("cart", leaves.address()).await;
    leaves.close().await;
    until_there_are(&proxy, &all(&backends)).await;
    let third = owners(&proxy, 0..60).await;
    for (key, owner) in &third {
        assert_ne!(owner, "b");
        assert!(
            second[key] == "b" || *owner == second[key],
            "{key}: {owner}"
        );
    }

    // Who is killed is passed over: a request of its keys is repeated elsewhere.
    let killed = backends.remove(1);
    let address = killed.address();
    killed.kill().await;
    let fourth = owners(&proxy, 0..60).await;
    for (key, owner) in &fourth {
        assert_ne!(owner, "c");
        assert!(third[key] == "c" || *owner == third[key], "{key}: {owner}");
    }
    // And when it is back, so are its keys.
    let _back = ledger.backend("c").at(address).start().await;
    let owners = async || owners(&proxy, 0..60).await;
    eventually("its keys are back", owners, |now| *now == third).await;
    let report = load.stop(&ledger).await;
    report.assert_nothing_twice("keys that move");
    // What the one that was killed worked on, or had just been sent, cannot be saved if it is a POST.
    let lost = report.failed.iter();
    assert!(lost.clone().count() < 20, "{report}");
    assert!(metric(&proxy, "callboard_balance_keyless_total").await > 50.0);
}

#[tokio::test]
async fn a_key_is_taken_from_where_the_file_says() {
    let backends = some(["a", "b", "c"]).await;
    let header = |name: &'static str| move |n: usize| (String::new(), vec![(name, format!("{n}"))]);
    type Asks = Box<dyn Fn(usize) -> (String, Vec<(&'static str, String)>)>;
    let cases: [(&str, Asks); 5] = [
        ("{ header = \"x-user\" }", Box::new(header("x-user"))),
        (
            "{ cookie = \"user\" }",
            Box::new(|n| (String::new(), vec![("cookie", format!("a=b; user={n}"))])),
        ),
        (
            "{ query = \"user\" }",
            Box::new(|n| (format!("?a=b&user={n}"), Vec::new())),
        ),
        ("\"path\"", Box::new(|n| (format!("/{n}?x=y"), Vec::new()))),
        (
            "\"client\"",
            // The proxy in front has it from another, and a stranger has made the first one up.
            Box::new(|n| {
                let hops = format!("10.9.9.{}, 203.0.113.{n}, 127.0.0.9", fastrand::u8(..));
                (String::new(), vec![("x-forwarded-for", hops)])
            }),
        ),
    ];
    for (by_what, asks) in cases {
        let proxy = Proxy::start(&format!(
            "{ROUTE}[[listen]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n\
             [defaults]\nbalance = {{ kind = \"hash\", by = {by_what} }}\n"
        ))
        .await;
        for backend in &backends {
            proxy.register("cart", backend.address()).await;
        }
        until_there_are(&proxy, &all(&backends)).await;
        let mut owners = BTreeSet::new();
        for n in 0..20 {
            let mut answers = BTreeSet::new();
            for _ in 0..3 {
                let (target, fields) = asks(n);
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| (*name, &**value))
                    .collect();
                let answer = ask(&proxy, &format!("/cart{target}"), &fields).await;
                answers.insert(by(&answer));
            }
            assert_eq!(answers.len(), 1, "{by_what}: {n}");
            owners.append(&mut answers);
        }
        assert_eq!(owners.len(), 3, "{by_what}");
        assert_eq!(metric(&proxy, "callboard_balance_keyless_total").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_all_ask_for_is_shared_as_the_bound_says() {
    let all_are_there = Arc::new(Barrier::new(30));
    let held = || {
        let all_are_there = Arc::clone(&all_are_there);
        move |_: Request<hyper::body::Incoming>| {
            let all_are_there = Arc::clone(&all_are_there);
            async move {
                all_are_there.wait().await;
                "x"
            }
        }
    };
    let mut backends = Vec::new();
    for id in ["a", "b", "c"] {
        backends.push(Backend::named(id).answering(held()).start().await);
    }
    for (load, shared) in [("false", false), ("1.1", true)] {
        let balance =
            format!("{{ kind = \"hash\", by = {{ header = \"x-user\" }}, load = {load} }}");
        let proxy = before(&balance, &all(&backends)).await;
        let mut lanes = JoinSet::new();
        for _ in 0..30 {
            let request = proxy.http.get(proxy.url("/cart")).header("x-user", "all");
            lanes.spawn(async move { by(&request.send().await.unwrap()) });
        }
        let mut counts = BTreeMap::<String, usize>::new();
        for owner in lanes.join_all().await {
            *counts.entry(owner).or_default() += 1;
        }
        let balance = &proxy.service("cart").await["balance"];
        if shared {
            assert_eq!(counts.len(), 3, "{counts:?}");
            // 1.1 times 10, and one that was picked at the same time.
            assert!(counts.values().all(|count| *count <= 12), "{counts:?}");
            let overflowed = balance["overflowed"].as_u64().unwrap();
            assert!(overflowed >= 10, "{balance}");
            let counted = metric(&proxy, "callboard_balance_overflowed_total").await;
            assert_eq!(counted, overflowed as f64);
        } else {
            assert_eq!(counts.len(), 1, "{counts:?}");
            assert_eq!(balance["overflowed"], Value::Null);
        }
    }
}

/// Asks with a cookie: who answers, and which cookie is set.
async fn ask_as(proxy: &Proxy, cookie: &str) -> (String, Option<String>) {
    let answer = ask(proxy, "/cart", &[("cookie", cookie)]).await;
    (by(&answer), set_cookie(&answer))
}

#[tokio::test]
async fn a_client_stays_with_the_endpoint_that_its_cookie_names() {
    let mut backends = some(["a", "b", "c"]).await;
    let balance = "{ kind = \"sticky\", cookie = \"shop\", path = \"/cart\", max_age = \"1h\" }";
    let proxy = before(balance, &all(&backends)).await;
    let mut cookies = BTreeMap::new();
    for _ in 0..3 {
        let answer = ask(&proxy, "/cart", &[]).await;
        let set = answer.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        let (pair, attributes) = set.split_once(';').unwrap();
        assert_eq!(
            attributes,
            " Path=/cart; Max-Age=3600; HttpOnly; SameSite=Lax"
        );
        assert!(
            pair.starts_with("shop=") && pair.len() == "shop=".len() + 16,
            "{pair}"
        );
        cookies.insert(by(&answer), pair.to_owned());
    }
    assert_eq!(cookies.len(), 3, "those without one go round");
    for (owner, cookie) in &cookies {
        for _ in 0..5 {
            assert_eq!(ask_as(&proxy, cookie).await, (owner.clone(), None));
        }
    }
    assert_eq!(metric(&proxy, "callboard_balance_moved_total").await, 0.0);

    // A stranger's cookie is as good as none.
    let (owner, set) = ask_as(&proxy, "shop=0123456789abcdef").await;
    assert_eq!(set.as_ref(), Some(&cookies[&owner]));

    // Signed out: another answers, at once, and is named from then on.
    let drained = backends.remove(0);
    let cookie = &cookies[drained.id()];
    proxy.deregister("cart", drained.address()).await;
    until_there_are(&proxy, &all(&backends)).await;
    let (next, set) = ask_as(&proxy, cookie).await;
    assert_ne!(next, drained.id());
    let set = set.unwrap();
    assert_eq!(set, cookies[&next]);
    assert_eq!(ask_as(&proxy, &set).await, (next, None));

    // Killed: the request is repeated elsewhere, and that one is named.
    let killed = backends.remove(0);
    let (id, address) = (killed.id().to_owned(), killed.address());
    killed.kill().await;
    let left = backends[0].id();
    let expected = (left.to_owned(), Some(cookies[left].clone()));
    assert_eq!(ask_as(&proxy, &cookies[&id]).await, expected);
    // Doubted from now on: it is not tried again by each.
    assert_eq!(ask_as(&proxy, &cookies[&id]).await, expected);
    assert_eq!(metric(&proxy, "callboard_balance_moved_total").await, 4.0);
    // It is back, with the identity that it had: so are those who have not been named another.
    let _back = Backend::named(&id).at(address).start().await;
    let ask = async || ask_as(&proxy, &cookies[&id]).await;
    eventually("it is tried again", ask, |(owner, set)| {
        *owner == id && set.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_cookie_is_the_same_in_every_proxy_and_leads_there_under_its_services_own_name() {
    let backends = some(["a", "b", "c"]).await;
    let proxies = [
        before("\"sticky\"", &all(&backends)).await,
        before("\"sticky\"", &all(&backends)).await,
    ];
    for _ in 0..3 {
        let answer = ask(&proxies[0], "/cart", &[]).await;
        let cookie = set_cookie(&answer).unwrap();
        assert!(cookie.starts_with("callboard-"), "{cookie}");
        assert_eq!(ask_as(&proxies[1], &cookie).await, (by(&answer), None));
    }
}

#[tokio::test]
async fn the_status_shows_how_a_service_is_balanced() {
    let backends = some(["a"]).await;
    let shown = async |balance: &str| {
        let proxy = before(balance, &all(&backends)).await;
        proxy.service("cart").await["balance"].take()
    };
    assert_eq!(
        shown("\"round_robin\"").await,
        json!({ "kind": "round_robin" })
    );
    assert_eq!(
        shown("{ kind = \"peak_ewma\", decay = \"5s\" }").await,
        json!({ "kind": "peak_ewma", "decay_seconds": 5.0 })
    );
    assert_eq!(
        shown("{ kind = \"hash\", by = { header = \"X-User\" }, load = 1.25 }").await,
        json!({
            "kind": "hash", "by": "header x-user", "load": 1.25, "keyless": 0, "overflowed": 0,
        })
    );
    assert_eq!(
        shown("{ kind = \"sticky\", cookie = \"shop\", fallback = \"p2c\" }").await,
        json!({ "kind": "sticky", "cookie": "shop", "fallback": { "kind": "p2c" }, "moved": 0 })
    );
}

#[tokio::test]
async fn a_program_that_calls_services_itself_has_keys_and_cookies_too() {
    let backends = some(["a", "b", "c"]).await;
    let proxy = before("\"round_robin\"", &all(&backends)).await;
    let client = |balance: &str| {
        let text = format!(
            "[registry.main]\nkind = \"consul\"\naddress = \"{}\"\n[defaults]\nbalance = {balance}\n",
            proxy.registry("")
        );
        Client::start(Config::parse_for_client(&text, Path::new(".")).unwrap()).unwrap()
    };
    let call = async |client: &Client, name: &str, value: &str| {
        let request = Request::get("/x").header(name, value);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = client.service("cart").unwrap().send(request).await.unwrap();
        let by = answer.extensions().get::<AnsweredBy>().unwrap().clone();
        let set = answer.headers().get(SET_COOKIE).cloned();
        let set = set.map(|set| set.to_str().unwrap().split(';').next().unwrap().to_owned());
        (by.endpoint.port(), set)
    };

    let keyed = client("{ kind = \"hash\", by = { header = \"x-user\" }, load = 100 }");
    let mut owners = BTreeSet::new();
    for user in 0..20 {
        let user = user.to_string();
        let (owner, _) = call(&keyed, "x-user", &user).await;
        assert_eq!(call(&keyed, "x-user", &user).await.0, owner);
        owners.insert(owner);
    }
    assert_eq!(owners.len(), 3);

    let sticky = client("\"sticky\"");
    let (owner, cookie) = call(&sticky, "x-user", "ann").await;
    for _ in 0..5 {
        let again = call(&sticky, "cookie", cookie.as_ref().unwrap()).await;
        assert_eq!(again, (owner, None));
    }
    for client in [keyed, sticky, client("\"p2c\""), client("\"peak_ewma\"")] {
        let picked = client.balancer("cart").unwrap().endpoint().await.unwrap();
        let address: SocketAddr = picked.address().to_string().parse().unwrap();
        assert!(backends.iter().any(|backend| backend.address() == address));
        client.close().await;
    }
}
