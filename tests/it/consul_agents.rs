//! Several agents, and what all questions of a registry heed together: an agent that is busy or
//! silent, a token that is unknown, and the number of watches.

use std::{sync::Arc, time::Duration};

use callboard::{
    config::{self, Secret},
    instance::InstanceSet,
    registry::{Registry as _, ServiceQuery, Source, Usage, Watches},
};
use serde_json::json;

use crate::support::{
    eventually,
    fake_consul::{Answer, Asked, FakeConsul},
    watched::{Watched, named, registry, settings},
};

fn list(ids: &[&str]) -> serde_json::Value {
    let entry = |id: &&str| {
        json!({
            "Node": {"Node": "n", "Address": "10.0.0.1"},
            "Service": {"ID": id, "Service": "cart", "Port": 80},
            "Checks": [],
        })
    };
    ids.iter().map(entry).collect()
}

fn are(ids: &[&'static str]) -> impl Fn(&InstanceSet) -> bool {
    let ids: Vec<_> = ids.iter().map(|id| format!("n/{id}")).collect();
    move |set| {
        set.instances
            .iter()
            .map(|i| i.id.to_string())
            .eq(ids.iter().cloned())
    }
}

fn agents(urls: &[&str]) -> config::Consul {
    config::Consul {
        addresses: urls.iter().map(|url| (*url).to_owned()).collect(),
        ..settings("")
    }
}

fn has(asked: &Asked, parameter: &str) -> bool {
    let mut parameters = asked.parameters().into_iter();
    parameters.any(|(key, _)| key == parameter)
}

async fn until_asked(fake: &FakeConsul, times: usize) -> Vec<Asked> {
    let asked = async || fake.asked();
    eventually("asked", asked, |asked| asked.len() >= times).await
}

/// Where nobody is.
const NOBODY: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn where_an_agent_fails_the_next_is_asked_at_once_and_from_then_on() {
    let [a, b] = [FakeConsul::start([]).await, FakeConsul::start([]).await];
    a.always(Answer::error(500, "No cluster leader"));
    b.holds(7, list(&["x"]));
    let all = agents(&[NOBODY, a.url(), b.url()]);
    let cart = Watched::service(&all, "cart");
    cart.until("the third has it", are(&["x"])).await;
    b.holds(8, list(&["y"]));
    cart.until("it is watched there", are(&["y"])).await;
    assert_eq!(cart.status().failures, 0);
    assert_eq!(a.asked().len(), 1, "the one that works is stuck to");
}

#[tokio::test]
async fn an_index_is_of_no_use_at_another_agent() {
    let a = FakeConsul::start([Answer::good(700, list(&["x"]))]).await;
    let b = FakeConsul::start([]).await;
    b.holds(5, list(&["y"]));
    let cart = Watched::service(&agents(&[a.url(), b.url()]), "cart");
    cart.until("the first has it", are(&["x"])).await;
    until_asked(&a, 2).await;
    a.always(Answer::error(503, ""));
    cart.until("the second has it", are(&["y"])).await;
    let asked = until_asked(&b, 2).await;
    assert!(!has(&asked[0], "index") && has(&asked[1], "index"));
    assert!(asked[1].target.contains("index=5&"), "{asked:?}");
    assert_eq!(cart.status().failures, 0);
}

#[tokio::test]
async fn the_error_names_every_agent_that_failed() {
    let fake = FakeConsul::start([]).await;
    fake.always(Answer::error(500, "No cluster leader"));
    let error = Watched::service(&agents(&[fake.url(), NOBODY]), "cart");
    assert_eq!(
        error.error().await,
        format!(
            "main at {} answered 500 for service `cart`: No cluster leader, and at {NOBODY} cannot \
             be asked for service `cart`: Connection refused (os error 111); check registry.main.address",
            fake.url()
        )
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_question_is_not_tried_at_the_next_agent() {
    for answer in [
        Answer::error(403, "Permission denied"),
        Answer::error(400, "Invalid query parameter: \"ns\""),
        Answer::error(500, "Failed to create boolean expression evaluator"),
        Answer::retry_after(429, 1),
        Answer::retry_after(503, 1),
        Answer::good(7, "garbage"),
    ] {
        let fake = FakeConsul::start([answer.clone()]).await;
        let next = FakeConsul::start([]).await;
        let both = agents(&[fake.url(), next.url()]);
        let mut cart = registry(&both).service(named("cart"));
        let error = cart.next().await.unwrap_err();
        assert!(!error.message.contains(next.url()), "{error}");
        assert_eq!(next.asked().len(), 0, "{answer:?}");
    }
}

#[tokio::test]
async fn what_waits_at_an_agent_that_says_nothing_is_asked_of_the_next() {
    let a = FakeConsul::start([Answer::good(7, list(&["x"]))]).await;
    let b = FakeConsul::start([]).await;
    b.holds(5, list(&["y"]));
    let registry = registry(&agents(&[a.url(), b.url()]));
    let cart = Watched::start(registry.service(named("cart")));
    cart.until("the first has it", are(&["x"])).await;
    until_asked(&a, 2).await;
    // This one is due at once, and so it is noticed that nobody answers.
    let shop = Watched::start(registry.service(named("shop")));
    shop.until("it is asked elsewhere", are(&["y"])).await;
    cart.until("so is what would have waited for a minute", are(&["y"]))
        .await;
    assert_eq!((cart.status().failures, shop.status().failures), (0, 0));
}

#[tokio::test]
async fn an_agent_that_is_busy_is_left_alone_by_all() {
    let fake = FakeConsul::start([Answer::retry_after(429, 1)]).await;
    fake.holds(7, list(&["x"]));
    let registry = registry(&settings(fake.url()));
    let watch = |name: &str| Watched::start(registry.service(named(name)));
    let mut watches = vec![watch("first")];
    watches[0].error().await;
    watches.extend((0..20).map(|n| watch(&n.to_string())));
    for watch in &watches {
        watch.until("it is there", are(&["x"])).await;
    }
    let asked = fake.asked();
    let rest = asked[1].at - asked[0].at;
    assert!(rest >= Duration::from_secs(1), "{rest:?}");
    let failures: Vec<_> = watches
        .iter()
        .map(|watch| watch.status().failures)
        .collect();
    assert_eq!(failures.iter().sum::<u64>(), 1, "{failures:?}");
}

/// A token in a file, and settings with it.
fn with_token(url: &str, text: &str) -> (tempfile::NamedTempFile, config::Consul) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let settings = config::Consul {
        token: Some(Secret::File(file.path().to_owned())),
        ..settings(url)
    };
    (file, settings)
}

#[tokio::test]
async fn an_unknown_token_is_not_tried_again_and_again_and_a_new_one_at_once() {
    const WATCHES: usize = 30;
    let fake = FakeConsul::start([]).await;
    fake.always(Answer::error(403, "ACL not found"));
    let (file, settings) = with_token(fake.url(), "old");
    let registry = registry(&settings);
    let watch = |n: usize| Watched::start(registry.service(named(&n.to_string())));
    let first = watch(0);
    first.error().await;
    let others: Vec<_> = (1..WATCHES).map(watch).collect();
    for watch in &others {
        let error = watch.error().await;
        let says = "answered 403 for service `";
        assert!(error.contains(says), "{error}");
        assert!(error.ends_with("ACL not found; check registry.main.token"));
    }
    // Long enough for each to have tried three times, had it been let.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fake.asked().len(), 1);

    fake.holds(7, list(&["x"]));
    std::fs::write(file.path(), "new").unwrap();
    for watch in others.iter().chain([&first]) {
        watch.until("it is there", are(&["x"])).await;
    }
    for asked in &fake.asked()[1..] {
        assert_eq!(asked.headers["x-consul-token"], "new");
    }
}

#[tokio::test]
async fn what_one_service_may_not_have_the_others_may() {
    let fake = FakeConsul::start([Answer::error(403, "Permission denied")]).await;
    fake.holds(7, list(&["x"]));
    let (_file, settings) = with_token(fake.url(), "token");
    let registry = registry(&settings);
    let denied = Watched::start(registry.service(named("denied")));
    denied.error().await;
    let cart = Watched::start(registry.service(named("cart")));
    cart.until("it is there", are(&["x"])).await;
    assert!(!denied.status().healthy, "it is asked again after a while");
    let asked = fake.asked();
    let of_denied = |asked: &&Asked| asked.target.contains("denied");
    assert_eq!(asked.iter().filter(of_denied).count(), 1);
}

#[tokio::test]
async fn a_new_token_takes_effect_while_a_question_waits() {
    let fake = FakeConsul::start([Answer::good(7, list(&["x"]))]).await;
    let (file, settings) = with_token(fake.url(), "old");
    let cart = Watched::service(&settings, "cart");
    cart.until("it is there", are(&["x"])).await;
    until_asked(&fake, 2).await;
    std::fs::write(file.path(), "new").unwrap();
    let asked = until_asked(&fake, 3).await;
    assert_eq!(asked[1].headers["x-consul-token"], "old");
    assert_eq!(asked[2].headers["x-consul-token"], "new");
    assert!(
        has(&asked[1], "index") && !has(&asked[2], "index"),
        "the new one may see something else"
    );
    fake.holds(3, list(&["y"]));
    cart.until("nothing is lost", are(&["y"])).await;
    assert_eq!(cart.status().failures, 0);
}

#[tokio::test]
async fn a_namespace_and_a_partition_are_sent_with_every_query() {
    let fake = FakeConsul::start([]).await;
    fake.holds(7, list(&["x"]));
    let registry = registry(&config::Consul {
        namespace: Some("team a".to_owned()),
        partition: Some("east".to_owned()),
        ..settings(fake.url())
    });
    let cart = Watched::start(registry.service(named("cart")));
    cart.until("it is there", are(&["x"])).await;
    fake.holds(8, json!({"cart": []}));
    registry.catalog().unwrap().next().await.unwrap();
    let asked = until_asked(&fake, 4).await;
    for asked in asked {
        assert!(
            asked.target.contains("ns=team+a&partition=east"),
            "{}",
            asked.target
        );
    }
}

#[tokio::test]
async fn the_services_that_are_called_have_the_watches() {
    let fake = FakeConsul::start([]).await;
    fake.holds(7, list(&["x"]));
    let registry = registry(&config::Consul {
        max_watches: 1,
        ..settings(fake.url())
    });
    let watch = |name: &str| {
        let usage = Arc::new(Usage::default());
        let source = registry.service(ServiceQuery {
            usage: usage.clone(),
            ..named(name)
        });
        (Watched::start(source), usage)
    };
    let (first, _) = watch("first");
    first.until("it is there", are(&["x"])).await;
    until_asked(&fake, 2).await;
    let (called, usage) = watch("called");
    called.until("it is there", are(&["x"])).await;
    let watches = |held, in_turn| {
        Some(Watches {
            limit: 1,
            held,
            in_turn,
        })
    };
    assert_eq!(registry.watches(), watches(1, 1));
    let asked = fake.asked();
    assert_eq!(asked.len(), 3, "the second does not wait: {asked:?}");

    usage.note(tokio::time::Instant::now());
    let asked = until_asked(&fake, 4).await;
    assert!(asked[3].target.contains("called") && has(&asked[3], "index"));
    fake.holds(8, list(&["y"]));
    called.until("it sees a change at once", are(&["y"])).await;
    assert!(are(&["x"])(&first.published().pop().unwrap()));
    first.until("the other in its turn", are(&["y"])).await;
    assert_eq!(registry.watches(), watches(1, 1));
    drop(called);
    let given = async || registry.watches();
    eventually("the watch is given back", given, |now| {
        *now != watches(1, 1)
    })
    .await;
}

#[tokio::test]
async fn no_more_questions_are_under_way_than_watches_and_two() {
    let fake = FakeConsul::start([]).await;
    let registry = registry(&config::Consul {
        max_watches: 3,
        ..settings(fake.url())
    });
    let mut sources: Vec<Box<dyn Source<InstanceSet>>> = (0..20)
        .map(|n| registry.service(named(&n.to_string())))
        .collect();
    let asking = futures_util::future::join_all(sources.iter_mut().map(|source| source.next()));
    let answering = async {
        // Nobody is answered, so whoever may ask has asked.
        until_asked(&fake, 5).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(fake.asked().len(), 5);
        fake.holds(7, list(&["x"]));
    };
    let (sets, ()) = tokio::join!(asking, answering);
    assert!(sets.iter().all(|set| are(&["x"])(set.as_ref().unwrap())));
}
