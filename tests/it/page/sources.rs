//! What the page is made of: its files, the events, the history, and all journals as one.

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::support::{backend::Backend, eventually, proxy::Proxy};

const CART: &str = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";

/// Events, as they come.
struct Events {
    answer: reqwest::Response,
    text: String,
}

impl Events {
    async fn of(proxy: &Proxy) -> Self {
        let answer = proxy.page("/api/events").await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            answer,
            text: String::new(),
        }
    }

    /// The next one; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.strip_prefix("data: ").map(serde_json::from_str);
                self.text = rest.to_owned();
                match data {
                    Some(data) => return Some(data.unwrap()),
                    None => continue, // A comment.
                }
            }
            let piece = self.answer.chunk().await.ok()??;
            self.text += std::str::from_utf8(&piece).unwrap();
        }
    }

    /// The next one that says something of this service.
    async fn until(&mut self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.next().await.expect("the events go on");
            let mut services = event["services"].as_array().unwrap().iter();
            if services.any(|one| one["name"] == name && holds(one)) {
                return event;
            }
        }
    }
}

#[tokio::test]
async fn the_first_event_has_everything_and_each_one_after_it_what_has_changed() {
    let routes = "[[route]]\npath = \"/users\"\nservice = \"users\"\n";
    let proxy = Proxy::start(&format!("{CART}{routes}")).await;
    let [a, b] = [Backend::start("a").await, Backend::start("b").await];
    proxy.register("users", a.address()).await;
    proxy
        .until_states("users", &[(a.address(), "serving")])
        .await;
    let mut events = Events::of(&proxy).await;
    let whole = events.next().await.unwrap();
    assert_eq!(whole["whole"], true);
    assert_eq!(whole["parts"]["version"], env!("CARGO_PKG_VERSION"));
    let services = whole["services"].as_array().unwrap();
    assert_eq!(services.len(), 2);
    assert_eq!(
        services[1]["endpoints"][0]["address"],
        a.address().to_string()
    );

    proxy.register("cart", b.address()).await;
    let joined = |cart: &Value| cart["endpoints"][0]["address"] == b.address().to_string();
    let change = events.until("cart", joined).await;
    assert_eq!(change["whole"], false);
    let named = change["services"].as_array().unwrap().iter();
    assert!(
        named.map(|one| &one["name"]).all(|name| name == "cart"),
        "{change}"
    );
    assert!(change["parts"].get("routes").is_none(), "{change}");
    proxy.deregister("cart", b.address()).await;
    let left = |cart: &Value| !cart["gone"].as_array().unwrap().is_empty();
    let change = events.until("cart", left).await;
    let cart = &change["services"][0];
    let key = format!("cart@{0} {0}", b.address());
    assert!(cart["gone"][0].as_str().unwrap().ends_with(&key), "{cart}");
    proxy.drain().await;
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn the_history_has_what_was_asked_and_the_journals_are_one() {
    let proxy = Proxy::start(CART).await;
    let a = Backend::start("a").await;
    proxy.register("cart", a.address()).await;
    proxy.until_served("/cart").await;
    for _ in 0..9 {
        assert_eq!(proxy.get("/cart").await.status(), StatusCode::OK);
    }
    let history = async || -> Value {
        let page = proxy.page("/api/history?service=cart&service=none").await;
        page.json().await.unwrap()
    };
    // Samples are of five seconds: all requests are in the first one, or in two.
    let count = |series: &Value| {
        let rates = series["requests_per_second"]
            .as_array()
            .into_iter()
            .flatten();
        rates
            .map(|rate| rate.as_f64().unwrap() * 5.0)
            .sum::<f64>()
            .round()
    };
    let asked = |history: &Value| count(&history["services"]["cart"]) >= 10.0;
    let history = eventually("the history has them", history, asked).await;
    assert_eq!(history["seconds"], 5);
    assert!(history["services"].get("none").is_none());
    assert!(count(&history["all"]) >= 10.0);
    let cart = proxy.page("/api/services/cart/history").await;
    let cart: Value = cart.json().await.unwrap();
    assert_eq!(cart["endpoints"][0]["address"], a.address().to_string());
    assert!(count(&cart["endpoints"][0]) >= 10.0, "{cart}");

    let journal: Value = proxy.page("/api/journal").await.json().await.unwrap();
    assert_eq!(journal[0]["service"], "cart");
    assert_eq!(journal[0]["changes"][0]["what"], "added");
    assert_eq!(journal[0]["more"], 0);
    let later = proxy.page("/api/journal?since=9999999999").await;
    assert_eq!(later.json::<Value>().await.unwrap(), json!([]));
    let wrong = proxy.page("/api/journal?limit=few").await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_page_is_for_browsers_and_its_files_are_asked_for_once() {
    let proxy = Proxy::start(CART).await;
    let list = proxy.page("/").await.text().await.unwrap();
    assert!(list.starts_with("Callboard\n"), "{list}");
    let get = async |path: &str, name: header::HeaderName, value: &str| {
        let request = proxy.http.get(proxy.admin(path)).header(name, value);
        request.send().await.unwrap()
    };
    let page = get("/", header::ACCEPT, "text/html,*/*;q=0.8").await;
    assert_eq!(page.headers()["vary"], "accept");
    let page = page.text().await.unwrap();
    assert!(page.starts_with("<!doctype html>"), "{page}");
    // Each file that it names is there, is its own, and is not sent twice.
    let names: Vec<_> = page
        .split('"')
        .filter(|part| part.starts_with("/ui/"))
        .collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let file = proxy.page(name).await;
        assert_eq!(file.status(), StatusCode::OK, "{name}");
        let policy = file.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self';"), "{policy}");
        let tag = file.headers()["etag"].to_str().unwrap().to_owned();
        let again = get(name, header::IF_NONE_MATCH, &tag).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{name}");
    }
    let none = proxy.page("/ui/none.js").await;
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
    let url = proxy.registry("/ui/");
    let led = proxy.http.get(url).send().await.unwrap();
    assert_eq!(led.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(led.headers()["location"], proxy.admin("/ui/"));
}
