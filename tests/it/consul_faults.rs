//! Whatever a Consul answers, or does not: the last set stays, the error says why, nobody is
//! hammered, and the next good answer is believed.

use std::{sync::Arc, time::Duration};

use callboard::{
    config::{self, ClientTls, Secret},
    instance::InstanceSet,
    registry::{
        Registry, RegistryError, ServiceQuery, Source,
        consul::Consul,
        merged::{Merged, Part},
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::support::{
    eventually,
    fake_consul::{Answer, FakeConsul, Pace},
    watched::{Watched, named, registry, settings},
};

fn entry(id: &str) -> Value {
    json!({
        "Node": {"Node": "n", "Address": "10.0.0.1"},
        "Service": {"ID": id, "Service": "cart", "Port": 80},
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
    })
}

/// An answer of Consul's with these instances.
fn with(index: u64, ids: &[&str]) -> Answer {
    let entries: Vec<_> = ids.iter().map(|id| entry(id)).collect();
    Answer::good(index, json!(entries))
}

fn ids(set: &InstanceSet) -> Vec<String> {
    set.instances
        .iter()
        .map(|instance| instance.id.to_string())
        .collect()
}

fn cart(settings: &config::Consul) -> Box<dyn Source<InstanceSet>> {
    registry(settings).service(named("cart"))
}

async fn until_asked(fake: &FakeConsul, times: usize) {
    let asked = eventually(
        "asked",
        async || fake.asked().len(),
        |asked| *asked >= times,
    );
    asked.await;
}

#[tokio::test]
async fn parts_of_one_set_ask_once_each_for_each_change() {
    let fake = FakeConsul::start([]).await;
    fake.holds(1, "[]");
    let parts = ["cart", "hat"].map(|service| Part {
        service: service.to_owned(),
        tags: Vec::new(),
        tls: false,
        weight: None,
    });
    let (_sender, wanted) = tokio::sync::watch::channel(parts.to_vec());
    let consul = Arc::new(registry(&settings(fake.url())));
    let merged = Merged::new(consul, wanted, ServiceQuery::default());
    let _watched = Watched::start(Box::new(merged));
    // Both have read it, and wait for a change.
    until_asked(&fake, 4).await;
    for index in 2..12 {
        fake.holds(index, "[]");
        until_asked(&fake, 2 + 2 * index as usize).await;
    }
    assert_eq!(fake.asked().len(), 24);
    let mut indexes = indexes(&fake);
    indexes.sort();
    let each = (1..12).map(|index| index.to_string());
    let mut expected: Vec<_> = each
        .chain(["-".to_owned()])
        .flat_map(|one| [one.clone(), one])
        .collect();
    expected.sort();
    assert_eq!(indexes, expected);
}

/// The `index` of each query up to now; `-` where the present state was asked for.
fn indexes(fake: &FakeConsul) -> Vec<String> {
    let index = |(key, value): (String, String)| (key == "index").then_some(value);
    let of = |parameters: Vec<_>| parameters.into_iter().find_map(index);
    let asked = fake.asked();
    asked
        .iter()
        .map(|asked| of(asked.parameters()).unwrap_or("-".to_owned()))
        .collect()
}

#[tokio::test]
async fn a_bad_answer_is_an_error_that_says_so_and_never_a_set() {
    let hidden = vec![
        ("X-Consul-Index", "9".to_owned()),
        ("X-Consul-Results-Filtered-By-ACLs", "true".to_owned()),
    ];
    let long = Answer::error(500, &"long ".repeat(500));
    let all = [
        (
            Answer::error(500, "rpc error:\n no leader \n"),
            "answered 500 for service `cart`: rpc error: no leader",
        ),
        (long, "answered 500 for service `cart`: long long"),
        (
            Answer::error(503, ""),
            "answered 503 for service `cart`: Service Unavailable",
        ),
        (
            Answer::error(403, "no"),
            "answered 403 for service `cart`: no; check registry.main.token",
        ),
        (
            Answer::error(
                400,
                "Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise feature",
            ),
            "answered 400 for service `cart`: Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise feature; check registry.main.partition",
        ),
        (
            Answer::error(301, ""),
            "answered 301 for service `cart`: Moved Permanently; check registry.main.address",
        ),
        (
            Answer::error(204, ""),
            "answered 204 for service `cart`: No Content",
        ),
        (
            Answer::error(200, "[]"),
            "answered without X-Consul-Index for service `cart`; check registry.main.address",
        ),
        (
            Answer::with_index("0", "[]"),
            "answered with X-Consul-Index `0` for service `cart`",
        ),
        (
            Answer::with_index("-4", "[]"),
            "answered with X-Consul-Index `-4` for service `cart`",
        ),
        (
            Answer::with_index("soon", "[]"),
            "answered with X-Consul-Index `soon` for service `cart`",
        ),
        (
            Answer::good(9, "<html>"),
            "answered something else than Consul's JSON for service `cart`: expected value",
        ),
        (
            Answer::good(9, "null"),
            "answered something else than Consul's JSON for service `cart`: invalid type: null",
        ),
        (
            Answer::good(9, "[{"),
            "answered something else than Consul's JSON for service `cart`: EOF",
        ),
        (
            Answer::good(9, " ".repeat((64 << 20) + 1)),
            "answered more than 67108864 bytes for service `cart`",
        ),
        (
            Answer::Send(200, hidden, "[]\n".to_owned()),
            "has an answer for service `cart`, but the token's policies hide all of it; check registry.main.token",
        ),
    ];
    // At once: what is denied is asked again only after a while.
    let all = all.map(|(answer, says)| one_bad_answer(answer, says));
    futures_util::future::join_all(all).await;
}

async fn one_bad_answer(answer: Answer, says: &str) {
    let fake = FakeConsul::start([with(7, &["a"]), answer, with(8, &["b"])]).await;
    let mut source = cart(&settings(fake.url()));
    assert_eq!(ids(&source.next().await.unwrap()), ["n/a"]);
    let RegistryError { message, .. } = source.next().await.unwrap_err();
    let expected = format!("main at {} {says}", fake.url());
    assert!(message.starts_with(&expected), "{message}\n{expected}");
    assert!(
        message.len() < 400 && !message.contains('\n'),
        "one line: {message}"
    );
    assert_eq!(
        ids(&source.next().await.unwrap()),
        ["n/b"],
        "the next one counts"
    );
    assert_eq!(
        indexes(&fake),
        ["-", "7", "-"],
        "{says}: from the beginning"
    );
}

#[tokio::test]
async fn one_bad_entry_costs_itself_only() {
    let list = json!([entry("a"), {"Node": 7}, entry("b")]);
    let fake = FakeConsul::start([Answer::good(7, list)]).await;
    let set = cart(&settings(fake.url())).next().await.unwrap();
    assert_eq!(ids(&set), ["n/a", "n/b"]);
    assert_eq!(set.skipped.len(), 1);
}

#[tokio::test]
async fn an_index_that_goes_back_is_read_again_from_its_start() {
    let fake = FakeConsul::start([with(7, &["a"]), with(3, &["b"]), with(3, &["c"])]).await;
    let cart = Watched::start(cart(&settings(fake.url())));
    cart.until("the last one", |set| ids(set) == ["n/c"]).await;
    until_asked(&fake, 4).await;
    assert_eq!(indexes(&fake), ["-", "7", "-", "3"]);
    assert_eq!(cart.status().failures, 0);
}

#[tokio::test]
async fn a_return_without_a_change_publishes_nothing() {
    let fake = FakeConsul::start([
        with(7, &["a", "b"]),
        with(7, &["a", "b"]),
        with(8, &["b", "a"]),
        with(9, &["a"]),
    ])
    .await;
    let cart = Watched::start(cart(&settings(fake.url())));
    cart.until("the last one", |set| ids(set) == ["n/a"]).await;
    assert_eq!(cart.published().len(), 2);
    until_asked(&fake, 5).await;
    assert_eq!(indexes(&fake), ["-", "7", "7", "8", "9"]);
}

#[tokio::test]
async fn errors_leave_the_last_set_and_the_next_answer_is_believed() {
    let fake = FakeConsul::start([
        with(7, &["a"]),
        Answer::error(500, "no"),
        Answer::good(8, "garbage"),
        Answer::with_index("0", "[]"),
        with(2, &["a", "b"]),
    ])
    .await;
    let cart = Watched::start(cart(&settings(fake.url())));
    cart.until("the last one", |set| ids(set) == ["n/a", "n/b"])
        .await;
    let status = cart
        .until_status("well again", |status| status.healthy)
        .await;
    assert_eq!((status.failures, status.updates), (3, 2));
}

#[tokio::test]
async fn a_registry_that_says_when_to_come_back_is_obeyed() {
    let fake = FakeConsul::start([
        Answer::retry_after(429, 1),
        Answer::retry_after(503, 1),
        with(7, &["a"]),
    ])
    .await;
    let cart = Watched::start(cart(&settings(fake.url())));
    cart.until("the answer", |set| ids(set) == ["n/a"]).await;
    let asked = fake.asked();
    for pair in asked[..3].windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= Duration::from_secs(1), "{gap:?}");
    }
    assert_eq!(cart.status().failures, 2, "no query in between");
}

#[tokio::test]
async fn a_registry_that_always_answers_at_once_is_asked_at_a_bounded_rate() {
    let fake = FakeConsul::start((1..=70).map(|index| with(index, &["a"]))).await;
    let cart = Watched::start(cart(&settings(fake.url())));
    until_asked(&fake, 70).await;
    let asked = fake.asked();
    let time = asked[69].at - asked[0].at;
    // 50 at once, and 20 a second after that.
    assert!(time >= Duration::from_millis(900), "{time:?}");
    assert_eq!(cart.published().len(), 1);
}

/// Waits for the next state, with a clock that is let run once the question has arrived.
async fn next_of_a_silent(
    source: &mut Box<dyn Source<InstanceSet>>,
    fake: &FakeConsul,
    asked: usize,
) -> (RegistryError, Duration) {
    let arrived = async {
        until_asked(fake, asked).await;
        tokio::time::pause();
        tokio::time::Instant::now()
    };
    let silent = async {
        let error = source.next().await.unwrap_err();
        (error, tokio::time::Instant::now())
    };
    let (since, (error, at)) = tokio::join!(arrived, silent);
    tokio::time::resume();
    (error, at - since)
}

#[tokio::test]
async fn silence_is_an_error_once_it_lasts_longer_than_the_agent_may_wait() {
    let fake = FakeConsul::start([Answer::Hang, with(7, &["a"])]).await;
    let mut source = cart(&settings(fake.url()));
    let (error, time) = next_of_a_silent(&mut source, &fake, 1).await;
    assert_eq!(
        error.message,
        format!(
            "main at {} gave no answer for service `cart` within 10 s",
            fake.url()
        )
    );
    assert!(
        time <= Duration::from_secs(11),
        "the first answer is due at once: {time:?}"
    );

    source.next().await.unwrap();
    let (error, time) = next_of_a_silent(&mut source, &fake, 3).await;
    assert!(error.message.ends_with("within 73 s"), "{error}");
    let wait = Duration::from_secs(60);
    assert!(
        time > wait + wait / 16,
        "longer than the agent's own wait: {time:?}"
    );
    let wait = ("wait".to_owned(), "60000ms".to_owned());
    assert!(fake.asked()[2].parameters().contains(&wait));
}

#[tokio::test]
async fn a_query_that_is_cut_after_a_silence_is_asked_again_and_is_no_failure() {
    let script = [with(7, &["a"]), Answer::error(504, "gateway time-out")];
    let fake = FakeConsul::start(script).await;
    fake.at_pace(Pace::Late(Duration::from_millis(1_200)));
    let settings = config::Consul {
        wait: Duration::from_secs(5),
        ..settings(fake.url())
    };
    let cart = Watched::start(cart(&settings));
    cart.until("the first", |set| ids(set) == ["n/a"]).await;
    until_asked(&fake, 3).await;
    fake.at_pace(Pace::AtOnce);
    fake.always(with(8, &["b"]));
    cart.until("the next", |set| ids(set) == ["n/b"]).await;
    assert_eq!(indexes(&fake)[..3], ["-", "7", "-"]);
    let waits = fake.asked()[1].parameters();
    assert!(waits.contains(&("wait".to_owned(), "5000ms".to_owned())));
    assert_eq!(cart.status().failures, 0);

    // One that is refused at once is a failure as ever.
    fake.always(Answer::error(504, "gateway time-out"));
    assert!(cart.error().await.contains("answered 504"));
}

#[tokio::test]
async fn a_connection_that_is_cut_after_a_silence_is_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Answers, ends the next without a word after a while, answers, and says nothing more.
    let balancer = tokio::spawn(async move {
        for id in [Some("a"), None, Some("b")] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let Some(id) = id else {
                tokio::time::sleep(Duration::from_millis(1_200)).await;
                continue;
            };
            let body = json!([entry(id)]).to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        let _waits = listener.accept().await;
        std::future::pending::<()>().await;
    });
    let cart = Watched::start(cart(&settings(&url)));
    cart.until("the next", |set| ids(set) == ["n/b"]).await;
    assert_eq!(cart.status().failures, 0);
    balancer.abort();
}

#[tokio::test]
async fn every_setting_is_sent_where_it_means_something() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), " 7c0ffee\n").unwrap();
    let fake = FakeConsul::start([with(7, &[]), Answer::good(7, "{}")]).await;
    let text = |text: &str| Some(text.to_owned());
    let registry = registry(&config::Consul {
        addresses: vec![fake.url().to_owned() + "/behind/a/prefix"],
        token: Some(Secret::File(token.path().to_owned())),
        datacenters: vec!["dc2".to_owned()],
        namespace: text("team"),
        partition: text("part"),
        tags: vec!["public".to_owned()],
        near: text("_agent"),
        filter: text(r#"Service.Meta.zone == "a b" and Node.Meta.x != 1"#),
        stale: true,
        warnings: config::Warnings::Critical,
        wait: Duration::from_secs(60),
        max_watches: 100,
        tls: ClientTls::default(),
    });
    let query = ServiceQuery {
        name: "my cart/1".to_owned(),
        tags: vec!["v&2".to_owned()],
        ..ServiceQuery::default()
    };
    registry.service(query).next().await.unwrap();
    registry.catalog().unwrap().next().await.unwrap();
    let [service, catalog] = &fake.asked()[..] else {
        panic!("{:?}", fake.asked());
    };
    let path = |target: &str| target.split('?').next().unwrap().to_owned();
    assert_eq!(
        path(&service.target),
        "/behind/a/prefix/v1/health/service/my%20cart%2F1"
    );
    assert_eq!(
        path(&catalog.target),
        "/behind/a/prefix/v1/catalog/services"
    );
    let of_both = [
        ("dc", "dc2"),
        ("ns", "team"),
        ("partition", "part"),
        ("stale", ""),
    ];
    let of_instances = [
        ("near", "_agent"),
        (
            "filter",
            r#"Service.Meta.zone == "a b" and Node.Meta.x != 1"#,
        ),
        ("tag", "public"),
        ("tag", "v&2"),
    ];
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let of_catalog = [("filter", "ServiceKind == \"\"")];
    assert_eq!(
        catalog.parameters(),
        owned(&[&of_both[..], &of_catalog].concat())
    );
    assert_eq!(
        service.parameters(),
        owned(&[&of_both[..], &of_instances].concat())
    );
    for asked in [service, catalog] {
        assert_eq!(asked.headers["x-consul-token"], "7c0ffee");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_sent_is_not_guessed_at() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "two\nlines").unwrap();
    let fake = FakeConsul::start([]).await;
    let with_token = config::Consul {
        token: Some(Secret::File(token.path().to_owned())),
        ..settings(fake.url())
    };
    let error = cart(&with_token).next().await.unwrap_err();
    assert!(
        error
            .message
            .ends_with("the token is not one line of plain text; check registry.main.token"),
        "{error}"
    );
    assert_eq!(fake.asked().len(), 0);
}

#[tokio::test]
async fn a_token_goes_nowhere_but_to_the_agent() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "7c0ffee").unwrap();
    let other = FakeConsul::start([with(7, &["a"])]).await;
    let location = (
        "Location",
        format!("{}/v1/health/service/cart", other.url()),
    );
    let fake = FakeConsul::start([Answer::Send(307, vec![location], String::new())]).await;
    let with_token = config::Consul {
        token: Some(Secret::File(token.path().to_owned())),
        ..settings(fake.url())
    };
    let error = cart(&with_token).next().await.unwrap_err();
    assert!(
        error.message.ends_with("check registry.main.address"),
        "{error}"
    );
    assert_eq!(other.asked().len(), 0);
}

#[tokio::test]
async fn what_is_secret_in_an_address_is_not_shown() {
    let nobody = "http://user:pa55@127.0.0.1:1";
    let error = cart(&settings(nobody)).next().await.unwrap_err();
    assert!(
        error.message.starts_with(
            "main at http://127.0.0.1:1 cannot be asked for service `cart`: Connection refused"
        ),
        "{error}"
    );
    assert!(!error.message.contains("pa55"), "{error}");
}

#[test]
fn settings_that_cannot_work_are_refused_at_once_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let absent = folder.path().join("absent.pem");
    let plain = settings("https://127.0.0.1:1");
    let tls = |tls: ClientTls| config::Consul {
        tls,
        ..plain.clone()
    };
    let ca = |path: &std::path::Path| {
        tls(ClientTls {
            ca: Some(path.to_owned()),
            ..ClientTls::default()
        })
    };
    let identity = tls(ClientTls {
        identity: Some((empty.clone(), empty.clone())),
        ..ClientTls::default()
    });
    for (wrong, says) in [
        (
            settings("127.0.0.1:8500"),
            "registry.main.address: `127.0.0.1:8500` is not an http".to_owned(),
        ),
        (
            settings("ftp://a"),
            "registry.main.address: `ftp://a` is not an http".to_owned(),
        ),
        (
            ca(&absent),
            format!(
                "registry.main.tls: cannot read {}: No such file",
                absent.display()
            ),
        ),
        (
            ca(&empty),
            format!(
                "registry.main.tls: {} holds no certificate",
                empty.display()
            ),
        ),
        (
            identity,
            format!(
                "registry.main.tls: {} holds no certificate",
                empty.display()
            ),
        ),
    ] {
        // As `run` prints it: with its cause.
        let error = anyhow::Error::from(Consul::new("main", &wrong).unwrap_err());
        let error = format!("{error:#}");
        assert!(error.starts_with(&says), "{error}");
    }
}
