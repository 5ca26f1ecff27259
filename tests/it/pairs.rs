//! Features that meet have a test that shows them together, which `tests/pairs.md` names; and those
//! pairs that nothing else shows.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use http::header::{COOKIE, SET_COOKIE};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    backend::{Backend, by},
    eventually,
    proxy::{Proxy, endpoints, set_cookie},
};

/// As the table has them, in its order.
const FEATURES: [&str; 18] = [
    "retry",
    "limits",
    "fallback",
    "shares",
    "sticky",
    "zone",
    "guard",
    "pin",
    "drain",
    "panic",
    "slow start",
    "tunnel",
    "gRPC",
    "HTTP/2",
    "PROXY header",
    "unix socket",
    "drain by hand",
    "weight",
];

#[test]
fn each_pair_of_features_stands_in_the_table_once_with_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in ["src", "tests/it"] {
        read(&root.join(folder), &mut sources);
    }
    let table = fs::read_to_string(root.join("tests/pairs.md")).unwrap();
    let mut pairs = BTreeSet::new();
    for row in table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(" \u{d7} "))
    {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (pair, shown) = (cells.next().unwrap(), cells.next().unwrap());
        assert!(pairs.insert(pair.to_owned()), "{pair} stands there twice");
        let tests: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        assert!(
            !tests.is_empty() || shown.starts_with("cannot meet: "),
            "{row}"
        );
        for test in tests {
            assert!(
                sources.contains(&format!("fn {test}(")),
                "{pair}: there is no test {test}"
            );
        }
    }
    let mut wanted = BTreeSet::new();
    for (at, one) in FEATURES.iter().enumerate() {
        wanted.extend(
            FEATURES[at + 1..]
                .iter()
                .map(|other| format!("{one} \u{d7} {other}")),
        );
    }
    assert_eq!(pairs, wanted);
}

fn read(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *into += &fs::read_to_string(path).unwrap();
        }
    }
}

/// A proxy with these keys for `cart`, which has a fallback and a cookie.
async fn proxy(sorry: &Backend, more: &str) -> Proxy {
    Proxy::start(&format!(
        "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [service.cart]\nfallback = \"sorry\"\nbalance = {{ kind = \"sticky\", cookie = \"shop\" }}\n\
         {more}\n[service.sorry]\nendpoints = [\"{}\"]\n",
        sorry.address()
    ))
    .await
}

/// Who answers one that has this cookie, and which cookie it is given.
async fn ask(proxy: &Proxy, cookie: &str) -> (String, Option<String>) {
    let answer = proxy.http.get(proxy.url("/cart")).header(COOKIE, cookie);
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    (by(&answer), set_cookie(&answer))
}

/// The cookie that leads to one of them.
async fn cookie_of(proxy: &Proxy, backend: &Backend) -> String {
    let ask = async || {
        let answer = proxy.get("/cart").await;
        (
            by(&answer),
            set_cookie(&answer),
            answer.headers().contains_key(SET_COOKIE),
        )
    };
    let found = eventually("it answers", ask, |(id, ..)| id == backend.id()).await;
    found.1.unwrap()
}

async fn pin(proxy: &Proxy, on: bool) {
    let url = proxy.admin("/api/services/cart/pin");
    let request = match on {
        true => proxy.http.post(url).json(&json!({})),
        false => proxy.http.delete(url),
    };
    assert_eq!(request.send().await.unwrap().status(), 200);
}

async fn until_there_are(proxy: &Proxy, count: usize, state: &str) {
    let are = |service: &Value| {
        let states = endpoints(service).filter(|one| one["state"] == state);
        states.count() == count
    };
    proxy
        .until_service("cart", &format!("{count} are {state}"), are)
        .await;
}

#[tokio::test]
async fn who_is_kept_by_the_guard_or_a_pin_keeps_its_clients_and_no_fallback_serves() {
    for keeper in ["guard", "pin"] {
        let [a, sorry] = [Backend::start("a").await, Backend::start("sorry").await];
        let proxy = proxy(
            &sorry,
            "slow_start = \"60s\"\nlimits = { per_endpoint = 1 }",
        )
        .await;
        proxy.register("cart", a.address()).await;
        until_there_are(&proxy, 1, "serving").await;
        let cookie = cookie_of(&proxy, &a).await;
        if keeper == "pin" {
            pin(&proxy, true).await;
        }
        // The registry lists no service at all any more.
        proxy.deregister("cart", a.address()).await;
        if keeper == "guard" {
            until_there_are(&proxy, 1, "held").await;
            let why = proxy.service("cart").await["endpoints"][0]["held"]["why"].clone();
            assert!(why.is_string(), "{why}");
        }
        for _ in 0..5 {
            assert_eq!(
                ask(&proxy, &cookie).await,
                ("a".to_owned(), None),
                "{keeper}"
            );
        }
        // It is registered again, and is nobody new: it has its whole share at once.
        proxy.register("cart", a.address()).await;
        if keeper == "pin" {
            pin(&proxy, false).await;
        }
        until_there_are(&proxy, 1, "serving").await;
        assert_eq!(
            ask(&proxy, &cookie).await,
            ("a".to_owned(), None),
            "{keeper}"
        );
        assert_eq!(sorry.requests(), 0, "{keeper}");
        // And gone with its process.
        proxy.deregister("cart", a.address()).await;
        a.close().await;
        let answers = async || proxy.get("/cart").await.text().await.unwrap();
        eventually("the fallback serves", answers, |text| text == "sorry").await;
    }
}

#[tokio::test]
async fn a_cookie_leads_to_one_that_is_new_and_a_retry_and_nobody_else_stand_for_the_rest() {
    let [a, sorry] = [Backend::start("a").await, Backend::start("sorry").await];
    let proxy = proxy(
        &sorry,
        "slow_start = \"60s\"\nlimits = { per_endpoint = 1 }",
    )
    .await;
    proxy.register("cart", a.address()).await;
    until_there_are(&proxy, 1, "serving").await;
    let old = cookie_of(&proxy, &a).await;
    let b = Backend::start("b").await;
    proxy.register("cart", b.address()).await;
    until_there_are(&proxy, 1, "warming").await;
    let new = cookie_of(&proxy, &b).await;
    for _ in 0..10 {
        assert_eq!(ask(&proxy, &new).await, ("b".to_owned(), None));
    }
    // The other is gone without a word: the new one has all, however new it is.
    a.kill().await;
    for _ in 0..10 {
        assert_eq!(ask(&proxy, &old).await.0, "b");
    }
    assert_eq!(sorry.requests(), 0, "as long as one is there");
}

#[tokio::test]
async fn who_is_full_is_no_reason_for_a_fallback_and_a_cookie_leads_past_it() {
    let sorry = Backend::start("sorry").await;
    let proxy = proxy(&sorry, "limits = { per_endpoint = 1, pending = 0 }").await;
    let gate = Arc::new(Semaphore::new(0));
    let slow = Backend::named("slow").answering({
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                "done"
            }
        }
    });
    let slow = slow.start().await;
    proxy.register("cart", slow.address()).await;
    until_there_are(&proxy, 1, "serving").await;
    let held = proxy.http.get(proxy.url("/cart"));
    let held = tokio::spawn(held.send());
    eventually("it is asked", async || slow.requests(), |n| *n == 1).await;
    let full = proxy.get("/cart").await;
    assert_eq!(full.status(), 503);
    assert_eq!(sorry.requests(), 0, "it is there, and full");
    gate.add_permits(1);
    let answer = held.await.unwrap().unwrap();
    let cookie = set_cookie(&answer).unwrap();
    let free = Backend::start("free").await;
    proxy.register("cart", free.address()).await;
    until_there_are(&proxy, 2, "serving").await;
    let again = proxy.http.get(proxy.url("/cart")).header(COOKIE, &cookie);
    let again = tokio::spawn(again.send());
    eventually("it is asked again", async || slow.requests(), |n| *n == 2).await;
    assert_eq!(ask(&proxy, &cookie).await.0, "free");
    gate.add_permits(1);
    again.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_share_of_a_service_that_has_nobody_goes_to_its_fallback() {
    let [a, sorry] = [Backend::start("a").await, Backend::start("sorry").await];
    let proxy = Proxy::start(&format!(
        "workers = 1\n[[route]]\npath = \"/cart\"\n\
         split = [{{ service = \"cart\", weight = 1 }}, {{ service = \"none\", weight = 1 }}]\n\
         [service.cart]\nendpoints = [\"{}\"]\n\
         [service.none]\nfallback = \"sorry\"\n[service.sorry]\nendpoints = [\"{}\"]\n",
        a.address(),
        sorry.address()
    ))
    .await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/cart").await.status(), 200);
    }
    assert_eq!((a.requests(), sorry.requests()), (10, 10));
}
