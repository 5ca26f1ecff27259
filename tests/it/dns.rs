//! What a real DNS server holds (Knot, and Consul's own) is what a watcher publishes, as soon as the
//! TTL allows, and whole however large it is.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use callboard::{
    config::{self, DnsRecord},
    instance::InstanceSet,
    registry::Registry,
};
use serde_json::json;

use crate::support::{
    consul::Consul,
    dns::{Knot, registry, settings},
    server::{free_ports, refusing},
    watched::{Watched, named},
};

fn watch(settings: &config::Dns, name: &str) -> Watched<InstanceSet> {
    Watched::start(registry(settings).service(named(name)))
}

fn addresses(set: &InstanceSet) -> Vec<String> {
    let addresses = set.instances.iter().map(|one| one.address.to_string());
    addresses.collect()
}

fn healthy(set: &InstanceSet) -> Vec<String> {
    let mut set = set.clone();
    set.instances.retain(|instance| instance.healthy);
    addresses(&set)
}

/// A and AAAA of `{service}.example.test`.
fn of_addresses(resolver: SocketAddr) -> config::Dns {
    config::Dns {
        query: "{service}.example.test.".to_owned(),
        record: DnsRecord::Address { port: 8080 },
        ..settings(&[resolver])
    }
}

#[tokio::test]
async fn priorities_weights_and_addresses_make_the_instances() {
    let Some(knot) = Knot::start(
        "_http._tcp.cart SRV 10 5 8080 Web1\n\
         _http._tcp.cart SRV 10 0 8081 web2\n\
         _http._tcp.cart SRV 10 9 0 web2\n\
         _http._tcp.cart SRV 20 1 8082 web3\n\
         _http._tcp.cart SRV 5 1 8083 gone\n\
         web1 A 10.0.0.1\nweb1 A 10.0.0.2\nweb1 AAAA fd00::1\nweb2 A 10.0.0.3\nweb3 A 10.0.0.4\n",
    )
    .await
    else {
        return;
    };
    let cart = watch(&settings(&[knot.address()]), "cart");
    let set = cart.until("a set", |_| true).await;
    let shown = set
        .instances
        .iter()
        .map(|one| (one.address.to_string(), one.weight, one.healthy));
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            ("10.0.0.1:8080".to_owned(), 5, true),
            ("10.0.0.2:8080".to_owned(), 5, true),
            ("10.0.0.3:8081".to_owned(), 1, true),
            ("10.0.0.4:8082".to_owned(), 1, false),
            ("[fd00::1]:8080".to_owned(), 5, true),
        ]
    );
    let target = &set.instances[0].meta["dns-target"];
    assert_eq!(
        target.to_lowercase(),
        "web1.example.test",
        "without its dot"
    );
    assert_eq!(set.instances[3].meta["dns-priority"], "20");
    let skipped: Vec<_> = set.skipped.iter().map(|skipped| &*skipped.id).collect();
    assert_eq!(skipped, ["gone.example.test:8083", "web2.example.test:0"]);
}

#[tokio::test]
async fn a_set_follows_the_zone_as_soon_as_the_ttl_is_over() {
    let records = |ports: &[u16]| {
        let record = |port| format!("_http._tcp.cart 2 SRV 1 1 {port} web\n");
        let records: String = ports.iter().map(record).collect();
        format!("{records}web 9 A 10.0.0.1\n")
    };
    let Some(mut knot) = Knot::start(&records(&[80])).await else {
        return;
    };
    let asked = Instant::now();
    let cart = watch(&settings(&[knot.address()]), "cart");
    cart.until("one", |set| addresses(set) == ["10.0.0.1:80"])
        .await;
    knot.holds(&records(&[80, 81]));
    cart.until("two", |set| set.instances.len() == 2).await;
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_millis(1_900),
        "a TTL of 2 s is honoured: {took:?}"
    );
    knot.holds("_http._tcp.cart 2 SRV 0 0 0 .\n");
    cart.until("a dot is nobody", |set| *set == InstanceSet::default())
        .await;
    knot.holds(&records(&[82]));
    cart.until("back", |set| addresses(set) == ["10.0.0.1:82"])
        .await;
    knot.holds("web A 10.0.0.1\n");
    cart.until("a name that is gone is nobody", |set| {
        set.instances.is_empty()
    })
    .await;
    assert_eq!(cart.status().failures, 0);
}

#[tokio::test]
async fn hundreds_of_records_come_whole() {
    let records: String = (0..400)
        .map(|i| {
            format!(
                "_http._tcp.cart SRV 1 1 {} web{i}\nweb{i} A 10.1.{}.{}\n",
                8000 + i,
                i / 200,
                i % 200
            )
        })
        .collect();
    let Some(knot) = Knot::start(&records).await else {
        return;
    };
    let cart = watch(&settings(&[knot.address()]), "cart");
    let set = cart.until("a set", |_| true).await;
    assert_eq!((set.instances.len(), set.skipped.len()), (400, 0));
}

#[tokio::test]
async fn addresses_of_a_name_are_instances_on_the_port() {
    let Some(mut knot) =
        Knot::start("cart A 10.0.0.1\ncart A 10.0.0.2\ncart AAAA fd00::1\nalias CNAME cart\n")
            .await
    else {
        return;
    };
    let settings = of_addresses(knot.address());
    let whole = ["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"];
    let watched = ["cart", "alias"].map(|name| watch(&settings, name));
    for watched in &watched {
        watched.until("all", |set| healthy(set) == whole).await;
    }
    knot.holds("cart AAAA fd00::1\nalias CNAME cart\n");
    for watched in &watched {
        watched
            .until("one is left", |set| addresses(set) == ["[fd00::1]:8080"])
            .await;
    }
    let many: String = (1..250).map(|i| format!("cart A 10.2.0.{i}\n")).collect();
    knot.holds(&many);
    watched[0]
        .until("many", |set| set.instances.len() == 249)
        .await;
}

#[tokio::test]
async fn no_such_name_is_nobody_and_a_server_that_fails_is_an_error() {
    let Some(knot) = Knot::start("empty TXT nothing\n").await else {
        return;
    };
    let with = |query: &str| config::Dns {
        query: query.to_owned(),
        ..settings(&[knot.address()])
    };
    for query in ["{service}.none.example.test", "{service}.example.test"] {
        let empty = watch(&with(query), "empty");
        empty
            .until(query, |set| *set == InstanceSet::default())
            .await;
    }
    let address = knot.address();
    for (query, says) in [
        (
            "{service}.broken.test",
            format!(
                "main has no answer for service `cart` (SRV of cart.broken.test.): {address} answered SERVFAIL"
            ),
        ),
        (
            "{service}.elsewhere",
            format!(
                "main has no answer for service `cart` (SRV of cart.elsewhere.): {address} answered REFUSED; check registry.main.query"
            ),
        ),
    ] {
        let cart = watch(&with(query), "cart");
        assert_eq!(cart.error().await, says);
        assert_eq!(cart.published(), [], "an error is nobody's set");
    }
}

#[tokio::test]
async fn a_server_on_ipv6_is_asked_like_any_other() {
    let Some(knot) = Knot::start("_http._tcp.cart SRV 1 1 80 web\nweb AAAA ::1\n").await else {
        return;
    };
    let Some(address) = knot.address_v6() else {
        println!("left out: this machine has no IPv6");
        return;
    };
    let cart = watch(&settings(&[address]), "cart");
    cart.until("it answers", |set| addresses(set) == ["[::1]:80"])
        .await;
}

#[tokio::test]
async fn one_resolver_answers_for_those_before_it_that_do_not() {
    let Some(knot) = Knot::start("_http._tcp.cart SRV 1 1 80 web\nweb A 10.0.0.1\n").await else {
        return;
    };
    let Some(paused) = Knot::start("_http._tcp.cart SRV 1 1 81 web\nweb A 10.0.0.1\n").await else {
        return;
    };
    paused.pause();
    let closed = refusing();
    let settings = config::Dns {
        timeout: Duration::from_secs(3),
        ..settings(&[closed, paused.address(), knot.address()])
    };
    let registry = registry(&settings);
    let mut source = registry.service(named("cart"));
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(addresses(&source.next().await.unwrap()), ["10.0.0.1:80"]);
    }
    // One time-out of the paused one, and twice the zone's TTL of 1 s.
    let took = start.elapsed();
    assert!(
        took < Duration::from_millis(7_500),
        "it costs its time-out once: {took:?}"
    );
    drop(knot);
    let error = source.next().await.unwrap_err().message;
    let starts = "main has no answer for service `cart` (SRV of _http._tcp.cart.example.test.): ";
    assert!(error.starts_with(starts), "{error}");
    for said in [
        format!("{closed} cannot be asked: Connection refused"),
        format!("{} gave no answer within 3s", paused.address()),
        "; check registry.main.address".to_owned(),
    ] {
        assert!(error.contains(&said), "{error}");
    }
    paused.resume();
    let source = Watched::start(source);
    source
        .until("one that is back is asked", |set| {
            addresses(set) == ["10.0.0.1:81"]
        })
        .await;
}

/// Consul's DNS leaves instances out where an answer gets long, without a word, and its TTL is 0.
#[tokio::test]
async fn all_of_consuls_instances_are_found_through_its_dns() {
    let [port] = free_ports();
    let Some(consul) = Consul::start_with(json!({"ports": {"dns": port}})).await else {
        return;
    };
    let service = |name: &str, i: u16| {
        json!({
            "ID": format!("{name}-{i}"), "Name": name, "Address": format!("127.0.0.{i}"),
            "Port": 8000 + i, "Weights": {"Passing": i, "Warning": 1},
        })
    };
    let long = "a-service-with-a-name-so-long-that-few-of-its-records-fit-in-full";
    let long = &long[..60];
    for name in ["cart", long] {
        for i in 1..=10 {
            consul.register(service(name, i)).await;
        }
    }
    let resolver = SocketAddr::from(([127, 0, 0, 1], port));
    let srv = config::Dns {
        query: "{service}.service.consul".to_owned(),
        ..settings(&[resolver])
    };
    let by_address = config::Dns {
        record: DnsRecord::Address { port: 80 },
        ..srv.clone()
    };
    for name in ["cart", long] {
        let found = watch(&srv, name)
            .until("all ten", |set| set.instances.len() == 10)
            .await;
        let weights: u32 = found.instances.iter().map(|one| one.weight).sum();
        assert_eq!(weights, 55);
        watch(&by_address, name)
            .until("all ten addresses", |set| set.instances.len() == 10)
            .await;
    }

    let cart = watch(&srv, "cart");
    cart.until("all ten", |set| set.instances.len() == 10).await;
    for i in 11..=25 {
        consul.register(service("cart", i)).await;
    }
    cart.until("more", |set| set.instances.len() == 25).await;
    // Its address is a name outside of Consul's domain, of which it does not know.
    let mut elsewhere = service("cart", 26);
    elsewhere["Address"] = json!("cart.example.test");
    consul.register(elsewhere).await;
    let set = cart.until("a name", |set| set.instances.len() == 26).await;
    assert!(addresses(&set).contains(&"cart.example.test:8026".to_owned()));
    for i in 2..=26 {
        consul.deregister(&format!("cart-{i}")).await;
    }
    cart.until("fewer", |set| addresses(set) == ["127.0.0.1:8001"])
        .await;
    consul.deregister("cart-1").await;
    cart.until("nobody", |set| set.instances.is_empty()).await;
    assert_eq!(cart.status().failures, 0);
}
