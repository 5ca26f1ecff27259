//! What the admin server shows of many services is had a part at a time.

use std::fmt::Write as _;

use http::StatusCode;
use serde_json::Value;

use super::support::proxy::Proxy;

/// A proxy of so many services, with an endpoint each.
async fn start(count: usize) -> Proxy {
    let mut text = String::new();
    for n in 0..count {
        let _ = write!(
            text,
            "[[route]]\npath = \"/s{n}\"\nservice = \"s{n}\"\n\
             [service.s{n}]\nendpoints = [\"127.0.0.1:{}\"]\n",
            n + 1
        );
    }
    Proxy::start(&text).await
}

async fn text(proxy: &Proxy, path: &str) -> String {
    let answer = proxy.page(path).await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.text().await.unwrap()
}

async fn status(proxy: &Proxy, query: &str) -> Value {
    serde_json::from_str(&text(proxy, &format!("/api/status{query}")).await).unwrap()
}

fn names(page: &Value, of: &str, key: &str) -> Vec<String> {
    let listed = page[of].as_array().unwrap().iter();
    listed
        .map(|one| one[key].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_status_comes_in_pages_and_of_the_services_that_are_named() {
    let proxy = start(7).await;
    let whole = status(&proxy, "").await;
    let all = names(&whole, "services", "name");
    assert_eq!(all.len(), 7);
    assert!(whole.get("next").is_none());

    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = status(&proxy, &query).await;
        let routes = names(&page, "routes", "service").len();
        assert_eq!(routes, if seen.is_empty() { 7 } else { 0 });
        seen.extend(names(&page, "services", "name"));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        query = format!("?limit=3&after={next}");
    }
    assert_eq!(seen, all);

    let two = status(&proxy, "?service=s5&service=s2&service=none").await;
    assert_eq!(names(&two, "services", "name"), ["s5", "s2"]);
    assert_eq!(names(&two, "routes", "service"), ["s2", "s5"]);
    let wrong = proxy.page("/api/status?limit=none").await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    proxy.drain().await;
}

#[tokio::test]
async fn the_metrics_are_had_of_the_services_that_are_named() {
    let proxy = start(5).await;
    let some = text(&proxy, "/metrics?service=s3").await;
    assert!(some.contains("callboard_requests_total{service=\"s3\"}"));
    assert!(!some.contains("service=\"s1\""));
    assert!(some.contains("callboard_ready"), "what is of no service");
    assert!(text(&proxy, "/metrics").await.contains("service=\"s1\""));
    proxy.drain().await;
}
