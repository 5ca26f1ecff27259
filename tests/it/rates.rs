//! How many requests a client may make of a route: as many as it says, counted apart by what it
//! says, told when to come again; and what is refused reaches nobody.

use http::{HeaderMap, StatusCode};

use crate::support::{backend::Backend, eventually, proxy::Proxy};

async fn start(rate: &str) -> (Proxy, Backend) {
    let config = format!(
        "workers = 2\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\nrate = {{ {rate} }}\n\
         [[route]]\nservice = \"cart\"\n"
    );
    let proxy = Proxy::start(&config).await;
    let backend = Backend::start("a").await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/free").await;
    (proxy, backend)
}

/// Over a connection of its own, so that each worker has some.
async fn ask(proxy: &Proxy, path: &str, fields: &[(&str, &str)]) -> (StatusCode, HeaderMap) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(proxy.url(path));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.headers().clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_all_workers_a_client_has_its_burst_and_then_waits() {
    let (proxy, backend) = start("requests = 1, per = \"1h\", burst = 20").await;
    let before = backend.requests();
    let mut left = Vec::new();
    for _ in 0..20 {
        let (status, headers) = ask(&proxy, "/cart", &[]).await;
        assert_eq!(status, 200);
        assert_eq!(headers["ratelimit-policy"], "\"route\";q=20;w=72000");
        left.push(headers["ratelimit"].to_str().unwrap().to_owned());
    }
    assert!(left[0].starts_with("\"route\";r=19;t="), "{left:?}");
    assert!(left[19].starts_with("\"route\";r=0;t="), "{left:?}");
    for _ in 0..10 {
        let (status, headers) = ask(&proxy, "/cart", &[]).await;
        assert_eq!(status, 429);
        let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((3_500..=3_600).contains(&wait), "{headers:?}");
        assert!(
            headers["ratelimit"]
                .to_str()
                .unwrap()
                .starts_with("\"route\";r=0;")
        );
    }
    assert_eq!(
        backend.requests() - before,
        20,
        "what is refused reaches nobody"
    );
    // The other route has no limit, and says nothing of one.
    let (status, headers) = ask(&proxy, "/free", &[]).await;
    assert_eq!((status, headers.get("ratelimit")), (StatusCode::OK, None));
    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    let line = "callboard_requests_limited_total{route=\"/cart\",line=\"2\"} 10";
    assert!(metrics.contains(line), "{metrics}");
    let status = proxy.status().await;
    let shown = &status["routes"][0]["rate"];
    assert_eq!(
        (&shown["limited"], &shown["by"]),
        (&10.into(), &"client".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_apart_by_the_key_and_those_without_one_by_their_address() {
    for (by, field, values) in [
        ("{ header = \"x-api-key\" }", "x-api-key", ["ann", "bob"]),
        ("{ cookie = \"id\" }", "cookie", ["id=ann", "x=1; id=bob"]),
    ] {
        let (proxy, _backend) = start(&format!("requests = 2, per = \"1h\", by = {by}")).await;
        for fields in [&[(field, values[0])][..], &[(field, values[1])], &[]] {
            let mut statuses = Vec::new();
            for _ in 0..3 {
                statuses.push(ask(&proxy, "/cart", fields).await.0.as_u16());
            }
            assert_eq!(statuses, [200, 200, 429], "{by} {fields:?}");
        }
    }
    let (proxy, _backend) = start("requests = 2, per = \"1h\", by = \"route\"").await;
    let mut statuses = Vec::new();
    for user in ["ann", "bob", "eve"] {
        statuses.push(
            ask(&proxy, "/cart", &[("x-api-key", user)])
                .await
                .0
                .as_u16(),
        );
    }
    assert_eq!(statuses, [200, 200, 429]);
}

/// Some balancers write the port too. Else all of their clients would have one bucket.
#[tokio::test]
async fn a_client_behind_a_balancer_is_its_address_with_or_without_a_port() {
    let proxy = Proxy::start(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [[route]]\nservice = \"cart\"\nrate = { requests = 1, per = \"1h\" }\n",
    )
    .await;
    let backend = Backend::start("a").await;
    proxy.register("cart", backend.address()).await;
    proxy
        .until_states("cart", &[(backend.address(), "serving")])
        .await;
    for (forwarded, status) in [
        ("192.0.2.1:4000", 200),
        ("192.0.2.2:4000", 200),
        ("192.0.2.1:4001", 429),
        ("192.0.2.1", 429),
        ("[2001:db8::1]:4000", 200),
        // A network of IPv6 is one client.
        ("[2001:db8::2]", 429),
        ("[2001:db8:0:1::2]", 200),
        ("2001:db8:0:1::1", 429),
        ("[2001:db8:0:1::2]:1", 429),
        ("192.0.2.1, 192.0.2.3:4000, 127.0.0.1:80", 200),
        ("192.0.2.3", 429),
    ] {
        let (answered, _) = ask(&proxy, "/", &[("x-forwarded-for", forwarded)]).await;
        assert_eq!(answered, status, "{forwarded}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_flows_in_may_be_used_and_tags_that_change_routes_refill_nothing() {
    let config = "[registry.embedded]\naddress = \"127.0.0.1:0\"\nroutes = \"urlprefix\"\n\
        [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
        rate = { requests = 2, per = \"1h\" }\n[[route]]\npath = \"/soon\"\nservice = \"cart\"\n\
        rate = { requests = 1, per = \"3s\", burst = 1 }\n";
    let proxy = Proxy::start(config).await;
    let backend = Backend::start("a").await;
    proxy.register("cart", backend.address()).await;
    proxy
        .until_states("cart", &[(backend.address(), "serving")])
        .await;
    for expected in [200, 200, 429] {
        assert_eq!(ask(&proxy, "/cart", &[]).await.0, expected);
    }
    let tags = serde_json::json!({"Tags": ["urlprefix-/tagged"]});
    proxy.register_with("other", backend.address(), tags).await;
    proxy.until_served("/tagged").await;
    assert_eq!(ask(&proxy, "/cart", &[]).await.0, 429, "a new generation");
    assert_eq!(ask(&proxy, "/soon", &[]).await.0, 200);
    assert_eq!(ask(&proxy, "/soon", &[]).await.0, 429);
    let soon = async || ask(&proxy, "/soon", &[]).await.0;
    eventually("three seconds are over", soon, |status| *status == 200).await;
}
