//! In a real browser: what changes is shown, found and changed, without an error, a request to another server or
//! anything in a person's way.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{backend::Backend, browser::Browser, proxy::Proxy};

/// A route for a service that is there before a request has named it.
const CART: &str = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";

/// What the row of a service says in its cell with this number, from 1.
fn cell(service: &str, number: u32) -> String {
    format!(
        "[...document.querySelectorAll('#service-table > tbody > tr:not(.detail)')]\
         .find((row) => row.querySelector('button').innerText === '{service}')\
         ?.children[{}].textContent",
        number - 1
    )
}

fn shows(service: &str, endpoints: &str) -> String {
    format!("{} === '{endpoints}'", cell(service, 3))
}

async fn page(proxy: &Proxy, scheme: &str, width: u32) -> Option<Browser> {
    let mut browser = Browser::start(scheme, width).await?;
    browser.open(&proxy.admin("/")).await;
    Some(browser)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_and_a_kill_are_shown_as_they_happen() {
    let proxy = Proxy::start(CART).await;
    let [a, b] = [Backend::start("a").await, Backend::start("b").await];
    let Some(mut browser) = page(&proxy, "light", 1280).await else {
        return;
    };
    browser.until_text("#link", "live").await;
    browser.until_text("#findings", "no registry knows").await;
    proxy.register("cart", a.address()).await;
    browser.until(&shows("cart", "1 / 1")).await;
    browser.until_text("#findings", "Nothing is unusual").await;
    proxy.register("cart", b.address()).await;
    browser.until(&shows("cart", "2 / 2")).await;
    browser
        .until_text("#timeline", &b.address().to_string())
        .await;

    browser.click("#service-table button.name").await;
    browser.until_text("tr.detail", "serving").await;
    browser.assert_sound().await;
    let killed = b.address();
    b.kill().await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/cart").await.status(), 200);
    }
    browser.until(&shows("cart", "1 / 2")).await;
    browser.until_text("#findings", "1 of 2 endpoints is").await;
    browser.until_text("#findings", &killed.to_string()).await;
    browser.until_text("tr.detail", &killed.to_string()).await;
    proxy.deregister("cart", killed).await;
    browser.until(&shows("cart", "1 / 1")).await;
    browser.assert_sound().await;
    drop(a);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_searched_for_is_found_by_name_route_address_and_tag() {
    let routes = "[[route]]\npath = \"/shop/basket\"\nservice = \"cart\"\n\
                  [[route]]\npath = \"/users\"\nservice = \"users\"\n";
    let proxy = Proxy::start(routes).await;
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    for (name, port, tag) in [
        ("cart", 11, "blue"),
        ("cart", 12, "green"),
        ("users", 21, "blue"),
    ] {
        let tags = json!({ "Tags": [tag] });
        proxy.register_with(name, address(port), tags).await;
    }
    let Some(mut browser) = page(&proxy, "light", 1280).await else {
        return;
    };
    browser.until(&shows("cart", "2 / 2")).await;
    browser.until(&shows("users", "1 / 1")).await;
    let names = "[...document.querySelectorAll('#service-table button.name')]\
                 .map((button) => button.innerText).join()";
    for (sought, found) in [
        ("", "cart,users"),
        ("CAR", "cart"),
        ("basket", "cart"),
        ("127.0.0.1:21", "users"),
        ("blue", "cart,users"),
        ("users green", ""),
        ("embedded serving", "cart,users"),
    ] {
        browser.fill("#search", sought).await;
        browser.until(&format!("{names} === '{found}'")).await;
    }
    // Of an open service only the endpoints that are sought.
    browser.fill("#search", "cart").await;
    browser.click("#service-table button.name").await;
    let rows = "document.querySelectorAll('tr.detail .panes > div:nth-of-type(2) tbody tr').length";
    browser.until(&format!("{rows} === 2")).await;
    browser.fill("#search", "cart green").await;
    browser.until(&format!("{rows} === 1")).await;
    browser.until_text("tr.detail", "127.0.0.1:12").await;
    browser.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_pinned_with_the_token_and_nothing_is_shown_without_it() {
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\ntoken = { file = \"token\" }\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "s3cret").unwrap();
    let proxy = Proxy::start_in(folder, &format!("{CART}{admin}")).await;
    let a = Backend::start("a").await;
    proxy.register("cart", a.address()).await;
    proxy.until_served("/cart").await;
    let Some(mut browser) = page(&proxy, "light", 1280).await else {
        return;
    };
    browser
        .until("document.querySelector('#token-dialog').open")
        .await;
    assert_eq!(
        browser
            .value("document.querySelectorAll('#service-table button').length")
            .await,
        0
    );
    browser.click("#token-cancel").await;
    browser
        .until_text("#trouble", "Without the token nothing is shown")
        .await;
    browser.click("#token").await;
    browser.fill("#token-text", "s3cret").await;
    browser.click("#token-dialog button.main").await;
    browser.until(&shows("cart", "1 / 1")).await;
    browser.click("#service-table button.name").await;
    browser
        .click(".pins button:text('Pin the set it has')")
        .await;
    browser.until_text(".pins", "Pinned to set 1").await;
    browser
        .until_text("#findings", "pinned to set 1 for another 30 min")
        .await;
    let kept = "sessionStorage.getItem('callboard-token') === 's3cret' && localStorage.length === 0 \
                && document.cookie === ''";
    browser.until(kept).await;
    browser.click(".pins button:text('Unpin')").await;
    browser.until_text("#findings", "Nothing is unusual").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_drained_and_has_requests_again_by_its_button() {
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\ntoken = { file = \"token\" }\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "s3cret").unwrap();
    let proxy = Proxy::start_in(folder, &format!("{CART}{admin}")).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    for backend in [&a, &b] {
        proxy.register("cart", backend.address()).await;
    }
    proxy.until_served("/cart").await;
    let Some(mut browser) = page(&proxy, "light", 1280).await else {
        return;
    };
    browser
        .until("document.querySelector('#token-dialog').open")
        .await;
    browser.fill("#token-text", "s3cret").await;
    browser.click("#token-dialog button.main").await;
    browser.until(&shows("cart", "2 / 2")).await;
    browser.click("#service-table button.name").await;
    let button = |says: &str| format!("button[aria-label='{says} {}']", a.address());
    browser.click(&button("Drain")).await;
    let drained = format!("{} is drained for another 30 min", a.address());
    browser.until_text("#findings", &drained).await;
    browser.until_text("tr.detail", "maintenance").await;
    // The last is refused, and why is said.
    browser
        .click(&format!("button[aria-label='Drain {}']", b.address()))
        .await;
    browser
        .until_text("tr.detail", "is the last endpoint that can be picked")
        .await;
    browser.click(&button("Undrain")).await;
    browser.until_text("#findings", "Nothing is unusual").await;
    browser.until(&shows("cart", "2 / 2")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_chose_is_text_and_nothing_else() {
    const MARKUP: &str = "<img src=x onerror=\"document.title = 'taken'\">";
    let proxy = Proxy::start(CART).await;
    let tags = json!({ "Tags": [MARKUP], "Meta": { "a": MARKUP } });
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    proxy.register_with("cart", address, tags).await;
    let Some(mut browser) = page(&proxy, "light", 1280).await else {
        return;
    };
    browser.until(&shows("cart", "1 / 1")).await;
    browser.click("#service-table button.name").await;
    browser.until_text("tr.detail", MARKUP).await;
    assert_eq!(browser.value("document.title").await, "Callboard");
    let images = "document.querySelectorAll('main img').length";
    assert_eq!(browser.value(images).await, 0);
    browser.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_used_in_the_dark_and_on_a_phone() {
    let proxy = Proxy::start(CART).await;
    for port in 1..5 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        proxy.register("cart", address).await;
    }
    let Some(mut browser) = page(&proxy, "dark", 360).await else {
        return;
    };
    browser.until(&shows("cart", "4 / 4")).await;
    browser.click("#service-table button.name").await;
    browser.until_text("tr.detail", "serving").await;
    for width in [360, 800, 1280] {
        browser.resize(width).await;
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        browser.until(fits).await;
        browser.assert_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_explained_and_none_is_made() {
    let proxy = Proxy::start(CART).await;
    let a = Backend::start("a").await;
    proxy.register("cart", a.address()).await;
    proxy
        .until_states("cart", &[(a.address(), "serving")])
        .await;
    let Some(mut browser) = page(&proxy, "light", 1280).await else {
        return;
    };
    browser.until(&shows("cart", "1 / 1")).await;
    browser.fill("#explain-url", "/cart?n=1").await;
    browser.click("#explain-form button").await;
    for said in ["/cart", &a.address().to_string(), "GET /cart?n=1 HTTP/1.1"] {
        browser.until_text("#explained", said).await;
    }
    browser.assert_sound().await;
    browser.fill("#explain-url", "/nothing").await;
    browser.click("#explain-form button").await;
    browser
        .until_text("#explained", "Answered by the proxy: 404")
        .await;
    browser.resize(360).await;
    browser.assert_sound().await;
    assert_eq!(a.requests(), 0);
}

/// The times of this are those of a quiet machine alone: they are held to their bounds where
/// `CALLBOARD_TEST_TIMED` is set, and said in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_endpoints_are_shown_and_followed() {
    const SERVICES: usize = 50;
    const EACH: usize = 100;
    let mut text = String::new();
    for service in 0..SERVICES {
        let ports = (1..=EACH).map(|n| format!("\"127.1.{service}.1:{n}\""));
        let ports = ports.collect::<Vec<_>>().join(", ");
        text += &format!(
            "[[route]]\npath = \"/s{service}\"\nservice = \"s{service:02}\"\n\
             [service.s{service:02}]\nendpoints = [{ports}]\n"
        );
    }
    let proxy = Proxy::start(&format!("{text}{CART}")).await;
    let Some(mut browser) = page(&proxy, "light", 1280).await else {
        return;
    };
    browser
        .until_text("#services-count", "5,000 endpoints")
        .await;
    browser
        .until("performance.getEntriesByType('paint').length > 0")
        .await;
    // The service with all of its endpoints is open while changes come.
    browser.click("#service-table button.name >> nth=1").await;
    browser.until_text("tr.detail", "Show more endpoints").await;
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    proxy.register("cart", address).await;
    browser.until(&shows("cart", "1 / 1")).await;
    browser.fill("#search", "127.1.49.1:100").await;
    browser.until(&shows("s49", "100 / 100")).await;
    let paint = browser
        .value("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        .await;
    let longest = browser
        .value(
            "Math.max(...['callboard-update', 'callboard-apply'].flatMap((name) => \
             performance.getEntriesByName(name).slice(1).map((one) => one.duration)))",
        )
        .await;
    println!("first paint after {paint} ms; the longest update took {longest} ms");
    if std::env::var_os("CALLBOARD_TEST_TIMED").is_some() {
        let within = |value: &Value, bound| value.as_f64().unwrap() < bound;
        assert!(within(&paint, 1000.0) && within(&longest, 100.0));
    }
    browser.assert_sound().await;
}
