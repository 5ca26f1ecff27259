//! Whatever a Eureka server answers, or does not: the last set stays, the error says why, nobody
//! is hammered however many services are watched, and the next good answer is believed.

use std::time::Duration;

use callboard::{
    config::{self, RegistryKind, Secret},
    instance::InstanceSet,
    register::{self, Registrar, SignedIn},
    registry::{Registry, RegistryError, ServiceQuery, Source, eureka::Eureka},
};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    eureka::{ids, provider, registry, settings},
    support::{
        eventually,
        // It says whatever it is told to, also what no Consul would say.
        fake_consul::{Answer, Asked, FakeConsul as Fake},
        watched::{Watched, named},
    },
};

/// Longer than any test takes: whatever is asked meanwhile is asked for another reason.
const LONG: Duration = Duration::from_secs(600);

fn instance(id: &str, more: Value) -> Value {
    let mut instance = json!({
        "instanceId": id, "ipAddr": "10.0.0.1", "status": "UP", "actionType": "ADDED",
        "port": {"$": 80, "@enabled": "true"},
    });
    for (key, value) in more.as_object().unwrap() {
        instance[key] = value.clone();
    }
    instance
}

fn up(id: &str) -> Value {
    instance(id, json!({}))
}

fn body(hash: &str, instances: &[Value]) -> String {
    let application = json!([{"name": "CART", "instance": instances}]);
    json!({"applications": {"apps__hashcode": hash, "application": application}}).to_string()
}

fn good(hash: &str, instances: &[Value]) -> Answer {
    Answer::Send(200, Vec::new(), body(hash, instances))
}

fn tagged(tag: &str, hash: &str, instances: &[Value]) -> Answer {
    Answer::Send(200, vec![("ETag", tag.to_owned())], body(hash, instances))
}

fn status(status: u16) -> Answer {
    Answer::error(status, "")
}

fn cart(registry: &Eureka) -> Box<dyn Source<InstanceSet>> {
    registry.service(named("cart"))
}

fn quick(fake: &Fake) -> config::Eureka {
    config::Eureka {
        poll: Duration::from_millis(10),
        ..settings(fake.url())
    }
}

fn targets(fake: &Fake) -> Vec<String> {
    fake.asked().into_iter().map(|asked| asked.target).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("-", |value| value.to_str().unwrap())
}

/// What the source says in turn: ids, or the error.
async fn states(source: &mut Box<dyn Source<InstanceSet>>, times: usize) -> Vec<String> {
    let mut states = Vec::new();
    for _ in 0..times {
        states.push(match source.next().await {
            Ok(set) => ids(&set).join(" "),
            Err(error) => error.message,
        });
    }
    states
}

#[tokio::test]
async fn a_bad_answer_is_an_error_that_says_so_and_never_a_set() {
    for (answer, says) in [
        (
            Answer::error(500, "Internal\n error \n"),
            "answered 500 for its applications: Internal error",
        ),
        (
            status(503),
            "answered 503 for its applications: Service Unavailable",
        ),
        (
            status(401),
            "answered 401 for its applications: Unauthorized; check registry.main.user and password",
        ),
        (
            status(302),
            "answered 302 for its applications: Found; check registry.main.address",
        ),
        (
            Answer::error(404, r#"{"status":404}"#),
            r#"answered 404 for its applications: {"status":404}; check registry.main.address"#,
        ),
        (
            status(304),
            "answered 304 for its applications: Not Modified",
        ),
        (
            Answer::error(200, "<html><body/></html>"),
            "answered something else than Eureka's JSON or XML for its applications: its root is <html>; check registry.main.address",
        ),
        (
            Answer::error(200, "{\"applications\":{"),
            "answered something else than Eureka's JSON or XML for its applications: EOF",
        ),
        (
            Answer::error(200, ""),
            "answered something else than Eureka's JSON or XML for its applications: EOF",
        ),
        (
            Answer::error(200, &" ".repeat((64 << 20) + 1)),
            "answered more than 67108864 bytes for its applications",
        ),
    ] {
        let everything = good("UP_1_", &[up("a")]);
        let fake = Fake::start([everything, answer, good("UP_1_", &[up("b")])]).await;
        let registry = registry(&config::Eureka {
            delta: false,
            ..quick(&fake)
        });
        let mut source = cart(&registry);
        assert_eq!(states(&mut source, 1).await, ["a"]);
        let RegistryError { message, .. } = source.next().await.unwrap_err();
        let expected = format!("main at {} {says}", fake.url());
        assert!(message.starts_with(&expected), "{message}\n{expected}");
        assert!(message.len() < 400 && !message.contains('\n'), "{message}");
        assert_eq!(states(&mut source, 1).await, ["b"], "the next one counts");
    }
}

#[tokio::test]
async fn changes_are_asked_for_and_where_they_do_not_fit_everything_is() {
    let fake = Fake::start([
        good("UP_2_", &[up("a"), up("b")]),
        // One more, one that changes, one that goes; each told for a while.
        good("UP_3_", &[up("c")]),
        good(
            "DOWN_1_UP_2_",
            &[up("c"), instance("a", json!({"status": "DOWN"}))],
        ),
        good(
            "DOWN_1_UP_1_",
            &[instance("b", json!({"actionType": "DELETED"}))],
        ),
        // Something was missed.
        good("UP_9_", &[]),
        good("UP_1_", &[up("z")]),
        good("UP_1_", &[]),
    ])
    .await;
    let registry = registry(&quick(&fake));
    let mut source = cart(&registry);
    let seen = states(&mut source, 6).await;
    assert_eq!(seen, ["a b", "a b c", "a b c", "a c", "z", "z"]);
    let (all, delta) = ("/apps", "/apps/delta");
    assert_eq!(
        targets(&fake)[..7],
        [all, delta, delta, delta, delta, all, delta]
    );
}

#[tokio::test]
async fn a_server_that_gives_no_changes_is_asked_for_them_once() {
    for refusal in [403, 404, 405] {
        let everything = || good("UP_1_", &[up("a")]);
        let script = [everything(), status(refusal), everything(), everything()];
        let fake = Fake::start(script).await;
        let registry = registry(&quick(&fake));
        assert_eq!(states(&mut cart(&registry), 3).await, ["a"; 3]);
        let asked = targets(&fake);
        assert_eq!(asked[..4], ["/apps", "/apps/delta", "/apps", "/apps"]);
    }
}

#[tokio::test]
async fn changes_are_not_asked_for_where_that_is_off_or_nobody_could_check_them() {
    let everything = |hash: &str| good(hash, &[up("a")]);
    for (delta, hash) in [(false, "UP_1_"), (true, "UP_7_"), (true, "")] {
        let fake = Fake::start([everything(hash), everything(hash)]).await;
        let registry = registry(&config::Eureka {
            delta,
            ..quick(&fake)
        });
        assert_eq!(states(&mut cart(&registry), 2).await, ["a"; 2]);
        assert_eq!(targets(&fake)[..2], ["/apps"; 2], "{delta} {hash}");
    }
}

#[tokio::test]
async fn everything_is_read_again_in_time_whatever_the_changes_say() {
    let everything = |id: &str| good("UP_1_", &[up(id)]);
    let fake = Fake::start([everything("a"), good("UP_1_", &[]), everything("b")]).await;
    let registry = registry(&quick(&fake));
    let mut source = cart(&registry);
    assert_eq!(states(&mut source, 2).await, ["a"; 2]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(121)).await;
    tokio::time::resume();
    assert_eq!(states(&mut source, 1).await, ["b"]);
    assert_eq!(targets(&fake)[..3], ["/apps", "/apps/delta", "/apps"]);
}

#[tokio::test]
async fn after_an_error_everything_is_read() {
    let everything = || good("UP_1_", &[up("a")]);
    let fake = Fake::start([everything(), status(500), everything()]).await;
    let registry = registry(&quick(&fake));
    let seen = states(&mut cart(&registry), 3).await;
    assert!(seen[1].contains("answered 500"), "{seen:?}");
    assert_eq!(seen[2], "a");
    assert_eq!(targets(&fake)[..3], ["/apps", "/apps/delta", "/apps"]);
}

#[tokio::test]
async fn a_tag_spares_what_has_not_changed() {
    let fake = Fake::start([
        tagged("\"one\"", "UP_1_", &[up("a")]),
        status(304),
        tagged("\"two\"", "UP_1_", &[up("b")]),
        good("UP_1_", &[up("c")]),
        good("UP_1_", &[up("d")]),
    ])
    .await;
    let registry = registry(&config::Eureka {
        delta: false,
        ..quick(&fake)
    });
    let mut source = cart(&registry);
    assert_eq!(states(&mut source, 5).await, ["a", "a", "b", "c", "d"]);
    let sent = |asked: &Asked| header(&asked.headers, "if-none-match").to_owned();
    let sent: Vec<_> = fake.asked()[..5].iter().map(sent).collect();
    assert_eq!(sent, ["-", "\"one\"", "\"one\"", "\"two\"", "-"]);
}

#[tokio::test]
async fn changes_have_a_tag_of_their_own_and_make_that_of_everything_worthless() {
    let fake = Fake::start([
        tagged("\"all\"", "UP_1_", &[up("a")]),
        tagged("\"delta\"", "UP_2_", &[up("b")]),
        status(304),
        good("UP_9_", &[]),
        good("UP_1_", &[up("a")]),
    ])
    .await;
    let registry = registry(&quick(&fake));
    let mut source = cart(&registry);
    assert_eq!(states(&mut source, 4).await, ["a", "a b", "a b", "a"]);
    let sent = |asked: &Asked| header(&asked.headers, "if-none-match").to_owned();
    let sent: Vec<_> = fake.asked()[..5].iter().map(sent).collect();
    assert_eq!(sent, ["-", "-", "\"delta\"", "\"delta\"", "-"]);
}

#[tokio::test]
async fn answers_in_xml_are_understood_too() {
    let xml = |hash: &str, rest: &str| {
        let body = format!(
            "<applications><apps__hashcode>{hash}</apps__hashcode><application><name>CART</name>\
             <instance><instanceId>a</instanceId><ipAddr>10.0.0.1</ipAddr>\
             <port enabled=\"false\">8080</port>{rest}</instance></application></applications>"
        );
        let format = vec![("Content-Type", "application/xml".to_owned())];
        Answer::Send(200, format, body)
    };
    let fake = Fake::start([
        xml(
            "UP_1_",
            "<status>UP</status><metadata><my__zone>a</my__zone></metadata>",
        ),
        xml(
            "DOWN_1_",
            "<status>DOWN</status><actionType>MODIFIED</actionType>",
        ),
        xml("", "<status>DOWN</status><actionType>DELETED</actionType>"),
    ])
    .await;
    let registry = registry(&quick(&fake));
    let mut source = cart(&registry);
    let set = source.next().await.unwrap();
    assert_eq!(set.instances[0].address.to_string(), "10.0.0.1:8080");
    assert_eq!(set.instances[0].meta["my_zone"], "a");
    assert!(set.instances[0].healthy);
    assert!(!source.next().await.unwrap().instances[0].healthy);
    assert_eq!(source.next().await.unwrap(), InstanceSet::default());
    let accepts = header(&fake.asked()[0].headers, "accept").to_owned();
    assert_eq!(accepts, "application/json, application/xml;q=0.5");
}

#[tokio::test]
async fn one_question_serves_all_services_and_the_catalog() {
    let fake = Fake::start([]).await;
    fake.always(good("UP_1_", &[up("a")]));
    let registry = registry(&config::Eureka {
        poll: Duration::from_millis(100),
        ..settings(fake.url())
    });
    let watched: Vec<_> = (0..200)
        .map(|n| Watched::start(registry.service(named(&format!("service-{n}")))))
        .collect();
    let catalog = Watched::start(registry.catalog().unwrap());
    catalog
        .until("the catalog", |names| names.contains_key("cart"))
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for one in &watched {
        one.until("nobody", |set| set.instances.is_empty()).await;
    }
    let asked = fake.asked().len();
    assert!(asked >= 3, "it is asked again: {asked}");

    fake.always(status(500));
    for one in &watched {
        one.until_status("all are told", |status| !status.healthy)
            .await;
    }
    let (before, began) = (fake.asked().len(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rate = (fake.asked().len() - before) as f64 / began.elapsed().as_secs_f64();
    assert!(
        rate <= 20.0,
        "{rate} a second, of 200 services that try again"
    );
    fake.always(good("UP_1_", &[up("a")]));
    for one in &watched {
        one.until_status("all are well", |status| status.healthy)
            .await;
    }
}

#[tokio::test]
async fn a_server_that_refuses_us_is_told_who_we_are_and_not_hammered() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong\n").unwrap();
    let fake = Fake::start([]).await;
    fake.always(Answer::error(401, "Bad credentials"));
    let with_login = config::Eureka {
        login: Some(("proxy".to_owned(), Secret::File(file.path().to_owned()))),
        poll: LONG,
        ..settings(fake.url())
    };
    let registry = registry(&with_login);
    let watched: Vec<_> = (0..20).map(|_| Watched::start(cart(&registry))).collect();
    let error = watched[0].error().await;
    let expected = format!(
        "main at {} answered 401 for its applications: Bad credentials; check registry.main.user and password",
        fake.url()
    );
    assert_eq!(error, expected);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = fake.asked();
    assert!((2..=7).contains(&asked.len()), "{} in 3 s", asked.len());
    // proxy:wrong
    assert_eq!(
        header(&asked[0].headers, "authorization"),
        "Basic cHJveHk6d3Jvbmc="
    );

    std::fs::write(file.path(), "right\n").unwrap();
    let read_anew = |asked: &Vec<Asked>| {
        asked.last().is_some_and(|last| {
            // proxy:right
            header(&last.headers, "authorization") == "Basic cHJveHk6cmlnaHQ="
        })
    };
    eventually("the new password", async || fake.asked(), read_anew).await;
    std::fs::remove_file(file.path()).unwrap();
    let missing = format!(
        "main at {} was not asked for its applications: cannot read {}",
        fake.url(),
        file.path().display()
    );
    watched[0]
        .until_status("the missing file is named", |status| {
            let error = status.error.as_deref().unwrap_or_default();
            error.starts_with(&missing) && error.ends_with("; check registry.main.password")
        })
        .await;
}

#[tokio::test]
async fn a_server_that_says_when_to_come_back_is_obeyed_by_all() {
    let fake = Fake::start([Answer::retry_after(429, 1), Answer::retry_after(503, 1)]).await;
    fake.always(good("UP_1_", &[up("a")]));
    let registry = registry(&quick(&fake));
    let watched: Vec<_> = (0..5).map(|_| Watched::start(cart(&registry))).collect();
    for one in &watched {
        one.until("the answer", |set| ids(set) == ["a"]).await;
    }
    for pair in fake.asked()[..3].windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= Duration::from_secs(1), "{gap:?}");
    }
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_fails_and_kept_until_it_fails() {
    let (one, other) = (Fake::start([]).await, Fake::start([]).await);
    one.always(status(503));
    other.always(good("UP_1_", &[up("b")]));
    let several = config::Eureka {
        addresses: [
            "http://127.0.0.1:1/eureka",
            &format!("{}/eureka", one.url()),
            &format!("{}/eureka/v2/", other.url()),
        ]
        .map(str::to_owned)
        .into(),
        ..quick(&other)
    };
    let registry = registry(&several);
    let mut source = cart(&registry);
    assert_eq!(states(&mut source, 3).await, ["b"; 3]);
    assert_eq!(targets(&one), ["/eureka/apps"]);
    let asked = targets(&other);
    let (all, delta) = ("/eureka/v2/apps", "/eureka/v2/apps/delta");
    assert_eq!(asked, [all, delta, delta]);

    one.always(good("UP_1_", &[up("a")]));
    assert_eq!(states(&mut source, 1).await, ["b"], "it is kept");
    other.always(status(500));
    assert_eq!(states(&mut source, 1).await, ["a"]);
    let last = targets(&one).pop();
    assert_eq!(last.as_deref(), Some("/eureka/apps"), "from the beginning");

    one.always(Answer::retry_after(503, 1));
    let error = source.next().await.unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "main at {}/eureka answered 503 for its applications: slow down; \
             at {}/eureka/v2 answered 500 for its applications: Internal Server Error; \
             at http://127.0.0.1:1/eureka cannot be asked for its applications: \
             Connection refused (os error 111); check registry.main.address",
            one.url(),
            other.url()
        )
    );
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn silence_is_an_error_after_a_while() {
    let fake = Fake::start([Answer::Hang, good("UP_1_", &[up("a")])]).await;
    let registry = registry(&quick(&fake));
    let mut source = cart(&registry);
    let arrived = async {
        eventually("asked", async || fake.asked().len(), |asked| *asked == 1).await;
        tokio::time::pause();
        tokio::time::Instant::now()
    };
    let silent = async {
        let error = source.next().await.unwrap_err();
        (error, tokio::time::Instant::now())
    };
    let (since, (error, at)) = tokio::join!(arrived, silent);
    tokio::time::resume();
    let message = format!(
        "main at {} gave no answer for its applications within 10 s",
        fake.url()
    );
    assert_eq!(error.message, message);
    assert!(at - since <= Duration::from_secs(11));
    assert_eq!(states(&mut source, 1).await, ["a"]);
}

#[tokio::test]
async fn whoever_comes_later_is_told_what_is_known_and_not_what_is_old() {
    let everything = |id: &str| good("UP_1_", &[up(id)]);
    let fake = Fake::start([everything("a"), everything("b")]).await;
    let registry = registry(&config::Eureka {
        poll: Duration::from_secs(60),
        delta: false,
        ..settings(fake.url())
    });
    assert_eq!(states(&mut cart(&registry), 1).await, ["a"]);
    assert_eq!(states(&mut cart(&registry), 1).await, ["a"]);
    assert_eq!(fake.asked().len(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    assert_eq!(fake.asked().len(), 1, "nobody waits, and nobody asks");
    assert_eq!(states(&mut cart(&registry), 1).await, ["b"]);
}

#[tokio::test]
async fn one_that_goes_while_it_asks_for_all_leaves_that_to_another() {
    let fake = Fake::start([Answer::Hang, good("UP_1_", &[up("a")])]).await;
    let registry = registry(&quick(&fake));
    let asks = Watched::start(cart(&registry));
    let waits = Watched::start(cart(&registry));
    eventually("asked", async || fake.asked().len(), |asked| *asked == 1).await;
    drop(asks);
    waits.until("the answer", |set| ids(set) == ["a"]).await;
    assert_eq!(waits.status().failures, 0);
}

#[tokio::test]
async fn what_is_secret_in_an_address_is_not_shown() {
    let registry = registry(&settings("http://proxy:pa55@127.0.0.1:1/eureka"));
    let error = cart(&registry).next().await.unwrap_err();
    let says = "main at http://127.0.0.1:1/eureka cannot be asked for its applications: Connection";
    assert!(error.message.starts_with(says), "{error}");
    assert!(!error.message.contains("pa55"), "{error}");
}

#[tokio::test]
async fn an_entry_is_written_where_a_server_answers_and_its_loss_is_seen() {
    let fake = Fake::start([
        // The sign-in, a heartbeat, one for which there is nothing, and the sign-in again.
        status(204),
        status(200),
        status(404),
        status(204),
    ])
    .await;
    fake.always(status(200));
    let several = config::Eureka {
        addresses: vec!["http://127.0.0.1:1".to_owned(), fake.url().to_owned()],
        ..settings("")
    };
    let kind = RegistryKind::Eureka(several);
    let mut provider = provider("cart", "a;1", ([127, 0, 0, 1], 8001).into());
    provider.check = register::Check::Ttl(Duration::from_millis(300));
    let registrar = Registrar::start(register::entry("main", &kind, provider).unwrap());
    eventually("kept", async || fake.asked().len(), |asked| *asked >= 5).await;
    registrar.deregister().await.unwrap();
    let asked = targets(&fake);
    let one = "/apps/cart/a%3B1";
    assert_eq!(asked[..5], ["/apps/cart", one, one, "/apps/cart", one]);
    assert_eq!(asked.last().map(String::as_str), Some(one));
}

#[tokio::test]
async fn why_an_entry_is_not_written_is_said_with_its_name() {
    let fake = Fake::start([]).await;
    fake.always(Answer::error(
        400,
        r#"{"error": "cannot parse request body"}"#,
    ));
    let kind = RegistryKind::Eureka(settings(fake.url()));
    let provider = provider("cart", "a", ([127, 0, 0, 1], 8001).into());
    let registrar = Registrar::start(register::entry("main", &kind, provider).unwrap());
    let mut standing = registrar.standing();
    let out = SignedIn::Out(Some(format!(
        "main at {} answered 400 for the sign-in of `a` in `cart`: {{\"error\": \"cannot parse request body\"}}",
        fake.url()
    )));
    standing
        .wait_for(|standing| *standing == out)
        .await
        .unwrap();
    let error = registrar.deregister().await.unwrap_err();
    let says = "for the sign-out of `a` in `cart`";
    assert!(error.message.contains(says), "{error}");
}

#[tokio::test]
async fn a_consistent_question_is_asked_and_not_answered_with_what_is_known() {
    let fake = Fake::start([good("", &[up("a"), up("b")]), good("", &[])]).await;
    let settings = config::Eureka {
        poll: LONG,
        ..settings(fake.url())
    };
    let registry = Eureka::new("main", &settings).unwrap();
    let mut watched = cart(&registry);
    assert_eq!(ids(&watched.next().await.unwrap()), ["a", "b"]);
    // One waits for what comes when it is time, and keeps none from asking before.
    let waiting = tokio::spawn(async move { watched.next().await });
    let query = ServiceQuery {
        name: "cart".to_owned(),
        consistent: true,
        ..ServiceQuery::default()
    };
    let mut second = registry.service(query);
    assert!(second.next().await.unwrap().instances.is_empty());
    assert!(waiting.await.unwrap().unwrap().instances.is_empty());
    assert_eq!(targets(&fake).len(), 2);
}
