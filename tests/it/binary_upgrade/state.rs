//! What a new process has from the one before: the embedded registry, the last good sets, listeners as the
//! new file has them; and what it has not.

use super::*;
use crate::support::{
    backend::Backend,
    fake_consul::{Answer, FakeConsul, entry},
    raw::{RawBackend, Then, Wire, ok},
    server::free_ports,
};

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";
const ROUTE: &str = "[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n";

async fn register(line: &Line, backend: &Backend) {
    let url = line.registry("/v1/agent/service/register");
    let (ip, port) = (backend.address().ip(), backend.address().port());
    let entry = json!({ "ID": backend.id(), "Name": "cart", "Address": ip, "Port": port });
    let put = line.http.put(url).json(&entry).send().await.unwrap();
    assert!(put.status().is_success(), "{put:?}");
}

async fn served(line: &Line) -> u16 {
    Wire::connect(line.address()).await.ask(GET).await.status()
}

#[tokio::test]
async fn the_embedded_registry_goes_over_with_what_it_knows_and_its_clients_wait_a_moment() {
    let mut line = Line::start(ROUTE).await;
    let [one, two] = [Backend::start("one").await, Backend::start("two").await];
    register(&line, &one).await;
    let is_served = |status: &u16| *status == 200;
    eventually("it is served", async || served(&line).await, is_served).await;
    // A blocking query is answered, and comes again.
    let url = line.registry("/v1/health/service/cart?wait=10m&index=100000000000000");
    let waits = tokio::spawn(line.http.get(url).send());
    line.upgrade().await;
    assert_eq!(served(&line).await, 200);
    assert!(waits.await.unwrap().is_ok());
    register(&line, &two).await;
    let listed = async || {
        let url = line.registry("/v1/health/service/cart");
        let answer = line.http.get(url).send().await.unwrap();
        let listed: Value = answer.json().await.unwrap();
        listed.as_array().unwrap().len()
    };
    assert_eq!(listed().await, 2);
    line.until_gone(0).await;
    assert_eq!(listed().await, 2);
}

#[tokio::test]
async fn a_listener_may_come_and_another_go_and_workers_may_be_more_or_fewer() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [second, third] = free_ports();
    let listen = |port: u16| format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\n");
    let route = format!(
        "[service.cart]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"cart\"\n",
        backend.address()
    );
    let mut line = Line::start(&format!("{}{route}", listen(second))).await;
    let file = line.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).unwrap();
    let asks = async |port: u16| {
        let mut wire = Wire::connect(([127, 0, 0, 1], port).into()).await;
        for _ in 0..20 {
            wire.ask(GET).await;
            wire = Wire::connect(([127, 0, 0, 1], port).into()).await;
        }
        wire.ask(GET).await.text().to_owned()
    };
    for (workers, before, after) in [(3, second, third), (1, third, second)] {
        let next = text.replace("workers = 2", &format!("workers = {workers}"));
        fs::write(&file, next.replace(&listen(second), &listen(after))).unwrap();
        line.upgrade().await;
        assert_eq!(asks(line.ports[0]).await, "well");
        assert_eq!(asks(after).await, "well");
        line.until_gone(line.pids.len() - 2).await;
        let gone = tokio::net::TcpStream::connect(("127.0.0.1", before)).await;
        assert!(gone.is_err(), "{before}");
    }
}

#[tokio::test]
async fn the_last_good_sets_go_over_though_the_registry_is_away_and_changes_for_a_while_end_where_that_is_forced()
 {
    let backend = Backend::start("one").await;
    let consul = FakeConsul::start([]).await;
    consul.holds(7, json!([entry("cart", backend.address())]));
    let text = format!(
        "[registry.consul]\naddress = \"{}\"\n[service.cart]\nregistry = \"consul\"\n\
         balance = \"weighted\"\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [[route]]\npath = \"/parts\"\nsplit = [{{ service = \"cart\", weight = 1 }}]\n",
        consul.url()
    );
    let mut line = Line::start(&text).await;
    let is_served = |status: &u16| *status == 200;
    eventually("it is served", async || served(&line).await, is_served).await;
    consul.always(Answer::error(500, "No cluster leader"));
    let address = backend.address().to_string();
    for (path, body) in [
        ("/api/services/cart/pin", json!({})),
        (
            "/api/services/cart/weight",
            json!({ "endpoint": address, "weight": 7 }),
        ),
        (
            "/api/share",
            json!({ "route": "/parts", "weights": { "cart": 7 } }),
        ),
        (
            "/api/services/cart/drain",
            json!({ "endpoint": address, "force": true }),
        ),
    ] {
        let asked = line.http.post(line.admin(path)).json(&body).send().await;
        let answer = asked.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }
    assert_eq!(served(&line).await, 503);
    let saved = line.folder().join("callboard-data/snapshot.json");
    eventually("the sets are saved", async || saved.exists(), |is| *is).await;
    let (status, said) = line.try_upgrade("20s").await;
    assert_eq!(status, 409, "{said}");
    for would_end in [
        "the pin of cart".to_owned(),
        format!("the drain of cart: {address}"),
        format!("the weight of cart: {address}"),
        "the shares of /parts".to_owned(),
    ] {
        assert!(said["error"].to_string().contains(&would_end), "{said}");
    }
    let said = line
        .upgrade_by(json!({ "within": "20s", "force": true }))
        .await;
    let status = line.http.get(line.admin("/api/status")).send();
    let status: Value = status.await.unwrap().json().await.unwrap();
    let found = &status["snapshot"]["found"];
    assert!(found["usable"].is_object(), "{found}");
    assert_eq!(said["unpinned"], json!(["cart"]));
    assert_eq!(said["undrained"], json!([format!("cart: {address}")]));
    assert_eq!(said["unweighed"], json!([format!("cart: {address}")]));
    assert_eq!(said["shares_reset"], json!(["/parts"]));
    line.until_gone(0).await;
    assert_eq!(served(&line).await, 200);
    let said = line.upgrade().await;
    for ended in ["unpinned", "undrained", "unweighed", "shares_reset"] {
        assert_eq!(said[ended], json!([]), "{ended}");
    }
    line.until_gone(1).await;
    assert_eq!(served(&line).await, 200);
}

#[tokio::test]
async fn a_new_process_gets_the_listeners_of_the_last_reload_and_none_that_is_gone() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let [second, third] = free_ports();
    let listen = |port: u16| format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\n");
    let route = format!(
        "[service.cart]\nendpoints = [\"{}\"]\n[[route]]\nservice = \"cart\"\n",
        backend.address()
    );
    let mut line = Line::start(&format!("{}{route}", listen(second))).await;
    let text = format!("{}{}{route}", head(line.ports), listen(third));
    fs::write(line.folder().join("proxy.toml"), text).unwrap();
    let url = line.admin("/api/reload");
    let reloaded = line.http.post(url).json(&json!({})).send().await.unwrap();
    assert_eq!(reloaded.status(), 200);
    let refused = async |port: u16| {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        connected.is_err()
    };
    // No descriptor that is kept for a new process keeps the socket.
    let is = |refused: &bool| *refused;
    eventually("it is gone", async || refused(second).await, is).await;
    line.upgrade().await;
    for port in [line.ports[0], third] {
        let mut client = Wire::connect(([127, 0, 0, 1], port).into()).await;
        assert_eq!(client.ask(GET).await.text(), "well");
    }
    assert!(refused(second).await);
    line.until_gone(0).await;
    for port in [line.ports[0], third] {
        let mut client = Wire::connect(([127, 0, 0, 1], port).into()).await;
        assert_eq!(client.ask(GET).await.text(), "well");
    }
}
