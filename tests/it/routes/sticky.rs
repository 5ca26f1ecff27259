//! A client's cookie counts among those whom its route calls, and leads nobody out of them.

use std::collections::BTreeMap;

use serde_json::json;

use super::{sample, until_selected};
use crate::support::{
    backend::{Backend, by},
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, set_cookie},
};

/// All of a service, and two parts of it that overlap, whose routes say this too.
fn config(balance: &str, of_parts: &str) -> String {
    format!(
        r#"
        workers = 2
        [service.cart]
        guard = false
        balance = {balance}
        [[route]]
        path = "/all"
        service = "cart"
        strip_prefix = true
        [[route]]
        path = "/v1"
        service = "cart"
        tags = ["v1"]
        strip_prefix = true
        {of_parts}
        [[route]]
        path = "/v2"
        service = "cart"
        tags = ["v2"]
        strip_prefix = true
        {of_parts}
        "#
    )
}

const SHOP: &str = "{ kind = \"sticky\", cookie = \"shop\" }";

async fn sign_in(proxy: &Proxy, backend: &Backend, tags: &[&str]) {
    let tags = json!({ "Tags": tags });
    proxy.register_with("cart", backend.address(), tags).await;
}

/// Who answers one that brings this cookie, and the cookie that it is given.
async fn ask(proxy: &Proxy, path: &str, cookie: &str) -> (String, Option<String>) {
    let request = proxy.http.get(proxy.url(path)).header("cookie", cookie);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}, {cookie}");
    (by(&answer), set_cookie(&answer))
}

/// The cookie of each whom a route calls, from clients that bring none.
async fn cookies(proxy: &Proxy, path: &str, count: usize) -> BTreeMap<String, String> {
    let mut cookies = BTreeMap::new();
    while cookies.len() < count {
        let (owner, cookie) = ask(proxy, path, "a=b").await;
        cookies.insert(owner, cookie.expect("a client's first"));
    }
    cookies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_leads_nobody_out_of_a_subset_and_who_is_in_both_keeps_its_clients() {
    let proxy = Proxy::start(&config(SHOP, &format!("balance = {SHOP}"))).await;
    let ledger = Ledger::default();
    let [one, both, two, spare] = [
        ledger.backend("one").start().await,
        ledger.backend("both").start().await,
        ledger.backend("two").start().await,
        ledger.backend("spare").start().await,
    ];
    sign_in(&proxy, &one, &["v1"]).await;
    sign_in(&proxy, &both, &["v1", "v2"]).await;
    sign_in(&proxy, &two, &["v2"]).await;
    sign_in(&proxy, &spare, &["v2"]).await;
    until_selected(&proxy, "v1", 2).await;
    until_selected(&proxy, "v2", 3).await;
    let shop = cookies(&proxy, "/all", 4).await;
    let load = Load::start(proxy.address(), "/v2", 200).await;
    let keeps = async |path: &str, owner: &str| {
        for _ in 0..5 {
            let kept = ask(&proxy, path, &shop[owner]).await;
            assert_eq!(kept, (owner.to_owned(), None), "{path}");
        }
    };
    for path in ["/v1", "/v2", "/all"] {
        keeps(path, "both").await;
    }
    keeps("/v1", "one").await;
    keeps("/v2", "two").await;

    // Who is of the other part is not called, and another is named, which then stays.
    for (path, outside) in [("/v2", "one"), ("/v1", "two")] {
        let (owner, set) = ask(&proxy, path, &shop[outside]).await;
        assert_ne!(owner, outside);
        assert_eq!(set.as_ref(), Some(&shop[&owner]));
        keeps(path, &owner).await;
    }

    // From here on only a request of `/v2` that is led astray could reach it.
    let before = one.requests();

    // An update: it is of one part only, and its clients of the other find somebody else.
    sign_in(&proxy, &both, &["v1"]).await;
    until_selected(&proxy, "v1", 2).await;
    until_selected(&proxy, "v2", 2).await;
    let (owner, set) = ask(&proxy, "/v2", &shop["both"]).await;
    assert!(["two", "spare"].contains(&&*owner), "{owner}");
    assert_eq!(set.as_ref(), Some(&shop[&owner]));
    keeps("/v1", "both").await;

    // A retry: it refuses connections, and so the other one of its part is named.
    let address = two.address();
    two.close().await;
    let moved = ask(&proxy, "/v2", &shop["two"]).await;
    assert_eq!(moved, ("spare".to_owned(), Some(shop["spare"].clone())));
    proxy.deregister("cart", address).await;
    until_selected(&proxy, "v1", 2).await;
    until_selected(&proxy, "v2", 1).await;

    // A drain: `both` takes over.
    sign_in(&proxy, &both, &["v1", "v2"]).await;
    until_selected(&proxy, "v1", 2).await;
    until_selected(&proxy, "v2", 2).await;
    let asked = both.requests();
    let is_asked = async || both.requests();
    eventually("it is asked", is_asked, |now| *now > asked + 20).await;
    proxy.deregister("cart", spare.address()).await;
    spare.close().await;
    until_selected(&proxy, "v1", 2).await;
    until_selected(&proxy, "v2", 1).await;
    for gone in ["two", "spare", "one"] {
        let moved = ask(&proxy, "/v2", &shop[gone]).await;
        assert_eq!(moved, ("both".to_owned(), Some(shop["both"].clone())));
    }
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("a subset with cookies, an update, a retry, a drain");
    assert_eq!(one.requests(), before);
    keeps("/v1", "one").await;
}

#[tokio::test]
async fn where_routes_name_no_cookie_each_subset_has_one_of_its_own() {
    for balance in ["\"sticky\"", SHOP] {
        let proxy = Proxy::start(&config(balance, "")).await;
        let [one, both, two] = [
            Backend::start("one").await,
            Backend::start("both").await,
            Backend::start("two").await,
        ];
        sign_in(&proxy, &one, &["v1"]).await;
        sign_in(&proxy, &both, &["v1", "v2"]).await;
        sign_in(&proxy, &two, &["v2"]).await;
        until_selected(&proxy, "v1", 2).await;
        until_selected(&proxy, "v2", 2).await;
        let of_v1 = &cookies(&proxy, "/v1", 2).await["one"];
        let of_v2 = &cookies(&proxy, "/v2", 2).await["two"];
        let name = |cookie: &str| cookie.split('=').next().unwrap().to_owned();
        assert_ne!(name(of_v1), name(of_v2));
        // A client of both has both, and neither route sets the other's anew.
        let cookie = format!("{of_v1}; {of_v2}");
        for _ in 0..5 {
            assert_eq!(ask(&proxy, "/v1", &cookie).await, ("one".to_owned(), None));
            assert_eq!(ask(&proxy, "/v2", &cookie).await, ("two".to_owned(), None));
        }
        let moved = "callboard_balance_moved_total{service=\"cart\"}";
        assert_eq!(sample(&proxy, moved).await, Some(0));
    }
}
