//! Whatever a resolver answers, or does not: an error says why and is no set, one target's trouble
//! is its own, and an answer is believed as long as it may be.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use callboard::{
    config,
    instance::InstanceSet,
    registry::{Registry, ServiceQuery},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        RData, RecordType,
        rdata::{CNAME, NS, SOA},
    },
};

use crate::support::{
    dns::{Asked, FakeDns, Say, a, name, record, registry, settings, srv},
    watched::{Watched, named},
};

const CART: &str = "_http._tcp.cart.example.test.";

/// One instance, with the address of its target.
fn one(mut answer: Message, ttl: u32) -> Message {
    answer.add_answer(record(CART, ttl, srv(80, "web.example.test.")));
    answer.add_additional(record("web.example.test.", ttl, a("10.0.0.1")));
    answer
}

fn addresses(set: &InstanceSet) -> Vec<String> {
    let addresses = set.instances.iter().map(|one| one.address.to_string());
    addresses.collect()
}

fn cart(settings: &config::Dns) -> Watched<InstanceSet> {
    Watched::start(registry(settings).service(named("cart")))
}

fn quick(fake: &FakeDns) -> config::Dns {
    config::Dns {
        timeout: Duration::from_millis(300),
        ..settings(&[fake.address()])
    }
}

fn kinds(asked: &[Asked]) -> Vec<(RecordType, bool)> {
    asked.iter().map(|asked| (asked.kind, asked.tcp)).collect()
}

fn with_code(mut answer: Message, code: ResponseCode) -> Message {
    answer.metadata.response_code = code;
    answer
}

#[tokio::test]
async fn a_bad_answer_is_an_error_that_says_so_and_the_next_good_one_counts() {
    type Says = fn(Message) -> Say;
    let bad: [(Says, &str); 9] = [
        (
            |answer| Say::Answer(with_code(answer, ResponseCode::ServFail)),
            "answered SERVFAIL",
        ),
        (
            |answer| Say::Answer(with_code(answer, ResponseCode::Refused)),
            "answered REFUSED; check registry.main.query",
        ),
        (
            |mut answer| {
                // As those answer that cannot read a question.
                answer.queries.clear();
                Say::Answer(with_code(answer, ResponseCode::FormErr))
            },
            "answered FORMERR",
        ),
        (
            |answer| Say::Answer(with_code(answer, ResponseCode::NotImp)),
            "answered NOTIMP",
        ),
        (
            |_| Say::Nothing,
            "gave no answer within 300ms; check registry.main.address",
        ),
        (
            |_| Say::Bytes(b"HTTP/1.1 400 Bad Request".to_vec()),
            "answered something else than DNS: ",
        ),
        (
            |mut answer| {
                answer.metadata.id ^= 1;
                Say::Answer(one(answer, 1))
            },
            "gave no answer within 300ms; check registry.main.address",
        ),
        (
            |mut answer| {
                answer.metadata.recursion_available = false;
                let ns = RData::NS(NS(name("ns.example.test.")));
                answer.add_authority(record("example.test.", 9, ns));
                Say::Answer(answer)
            },
            "points to other servers, as one that resolves nothing; check registry.main.address",
        ),
        (
            |mut answer| {
                answer.metadata.recursion_available = false;
                let alias = RData::CNAME(CNAME(name("cart.elsewhere.")));
                answer.add_answer(record(CART, 9, alias));
                Say::Answer(answer)
            },
            "points to other servers, as one that resolves nothing; check registry.main.address",
        ),
    ];
    for (says, said) in bad {
        let fake = FakeDns::start(|_, answer| Say::Answer(one(answer, 0))).await;
        let registry = registry(&quick(&fake));
        let mut source = registry.service(named("cart"));
        assert_eq!(addresses(&source.next().await.unwrap()), ["10.0.0.1:80"]);
        fake.says(move |_, answer| says(answer));
        let message = source.next().await.unwrap_err().message;
        let expected = format!(
            "main has no answer for service `cart` (SRV of {CART}): {} {said}",
            fake.address()
        );
        assert!(message.starts_with(&expected), "{message}\n{expected}");
        assert!(!message.contains('\n') && message.len() < 300, "{message}");
        fake.says(|_, answer| Say::Answer(one(answer, 0)));
        let again = source.next().await.unwrap();
        assert_eq!(addresses(&again), ["10.0.0.1:80"], "{said}");
    }
}

#[tokio::test]
async fn what_is_cut_or_may_be_is_asked_again_over_tcp() {
    // Says nothing of what it leaves out, as Consul does.
    let silently = |asked: &Asked, answer: Message| many(answer, if asked.tcp { 40 } else { 6 });
    let openly = |asked: &Asked, answer: Message| {
        let mut answer = many(answer, if asked.tcp { 40 } else { 1 });
        answer.metadata.truncation = !asked.tcp;
        answer
    };
    for (cut, says) in [
        (
            "silently",
            Box::new(silently) as Box<dyn Fn(&Asked, Message) -> Message + Send + Sync>,
        ),
        ("openly", Box::new(openly)),
    ] {
        let fake = FakeDns::start(move |asked, answer| Say::Answer(says(asked, answer))).await;
        let cart = cart(&settings(&[fake.address()]));
        let set = cart.until(cut, |_| true).await;
        assert_eq!(set.instances.len(), 40, "{cut}");
        let asked = fake.asked();
        assert_eq!(
            kinds(&asked),
            [(RecordType::SRV, false), (RecordType::SRV, true)]
        );
        assert!(
            asked.iter().all(|asked| asked.payload == Some(1232)),
            "{asked:?}"
        );
    }
}

fn many(mut answer: Message, count: u8) -> Message {
    for i in 0..count {
        let target = format!("web-{i}.example.test.");
        answer.add_answer(record(CART, 60, srv(80, &target)));
        answer.add_additional(record(&target, 60, a(&format!("10.0.0.{i}"))));
    }
    answer
}

#[tokio::test]
async fn an_answer_cut_over_tcp_too_is_no_answer() {
    let fake = FakeDns::start(|_, answer| {
        let mut answer = one(answer, 1);
        answer.metadata.truncation = true;
        Say::Answer(answer)
    })
    .await;
    let error = cart(&quick(&fake)).error().await;
    assert!(
        error.contains("another question's answer, or a part"),
        "{error}"
    );
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again_in_time() {
    let lost = AtomicUsize::new(0);
    let fake = FakeDns::start(move |_, answer| match lost.fetch_add(1, Relaxed) {
        0 => Say::Nothing,
        _ => Say::Answer(one(answer, 60)),
    })
    .await;
    let cart = cart(&quick(&fake));
    cart.until("answered", |set| addresses(set) == ["10.0.0.1:80"])
        .await;
    assert_eq!(cart.status().failures, 0);
    // Twice where no answer was slow.
    assert!(fake.asked().len() >= 2, "{:?}", fake.asked());
}

/// The times between the first `count` questions for SRV.
async fn pauses(fake: &FakeDns, settings: &config::Dns, count: usize) -> Vec<u128> {
    let registry = registry(settings);
    let mut source = registry.service(named("cart"));
    for _ in 0..count {
        source.next().await.unwrap();
    }
    let srv = fake
        .asked()
        .into_iter()
        .filter(|asked| asked.kind == RecordType::SRV);
    let at: Vec<_> = srv.map(|asked| asked.at).collect();
    at.windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis())
        .collect()
}

#[tokio::test]
async fn an_answer_is_believed_for_its_shortest_ttl_within_floor_and_ceiling() {
    type Says = fn(&Asked, Message) -> Say;
    let soa = |ttl, minimum| {
        let (mname, rname) = (name("ns.example.test."), name("hostmaster.example.test."));
        record(
            "example.test.",
            ttl,
            RData::SOA(SOA::new(mname, rname, 1, 1, 1, 1, minimum)),
        )
    };
    let cases: [(&str, Says, u128); 6] = [
        ("floor", |_, answer| Say::Answer(one(answer, 0)), 200),
        (
            "ceiling",
            |_, answer| Say::Answer(one(answer, 86_400)),
            1_500,
        ),
        (
            "no sensible TTL",
            |_, answer| Say::Answer(one(answer, u32::MAX)),
            200,
        ),
        (
            "the target's",
            |_, mut answer| {
                answer.add_answer(record(CART, 60, srv(80, "web.example.test.")));
                answer.add_additional(record("web.example.test.", 1, a("10.0.0.1")));
                Say::Answer(answer)
            },
            1_000,
        ),
        (
            "that of a target which was asked for",
            |asked, mut answer| {
                match asked.kind {
                    RecordType::SRV => answer.add_answer(record(CART, 60, srv(80, "web."))),
                    RecordType::A => answer.add_answer(record("web.", 1, a("10.0.0.1"))),
                    _ => answer.add_answer(record(
                        "web.",
                        60,
                        RData::AAAA("::1".parse::<std::net::Ipv6Addr>().unwrap().into()),
                    )),
                };
                Say::Answer(answer)
            },
            1_000,
        ),
        (
            "nobody, and no word of how long",
            |_, answer| Say::Answer(answer),
            200,
        ),
    ];
    let measured = cases.map(|(what, says, millis)| async move {
        let fake = FakeDns::start(says).await;
        let settings = config::Dns {
            ttl: Duration::from_millis(200)..=Duration::from_millis(1_500),
            ..settings(&[fake.address()])
        };
        for pause in pauses(&fake, &settings, 3).await {
            assert!(
                (millis - 5..millis + 1_000).contains(&pause),
                "{what}: {pause} ms"
            );
        }
    });
    futures_util::future::join_all(measured).await;
    // A zone says how long nobody is nobody: the shorter of two times.
    let fake = FakeDns::start(move |_, mut answer| {
        answer.add_authority(soa(60, 1));
        Say::Answer(with_code(answer, ResponseCode::NXDomain))
    })
    .await;
    let pauses = pauses(&fake, &settings(&[fake.address()]), 2).await;
    assert!((995..2_000).contains(&pauses[0]), "{pauses:?}");
}

#[tokio::test]
async fn targets_are_asked_for_where_they_do_not_come_along_and_one_in_trouble_is_alone() {
    let good = |asked: &Asked, mut answer: Message| {
        match (asked.kind, asked.name.as_str()) {
            (RecordType::SRV, _) => {
                for target in ["good.", "bad."] {
                    answer.add_answer(record(CART, 0, srv(80, target)));
                }
            }
            (RecordType::A, "good.") => drop(answer.add_answer(record("good.", 0, a("10.0.0.1")))),
            (RecordType::A, "bad.") => drop(answer.add_answer(record("bad.", 0, a("10.0.0.2")))),
            _ => {}
        }
        answer
    };
    let bad = move |asked: &Asked, answer: Message| match asked.name.as_str() {
        "bad." => with_code(answer, ResponseCode::ServFail),
        _ => good(asked, answer),
    };
    let fake = FakeDns::start(move |asked, answer| Say::Answer(bad(asked, answer))).await;
    let registry = registry(&settings(&[fake.address()]));
    let mut source = registry.service(named("cart"));
    let set = source.next().await.unwrap();
    assert_eq!(
        addresses(&set),
        ["10.0.0.1:80", "bad:80"],
        "left to whoever connects"
    );

    fake.says(move |asked, answer| Say::Answer(good(asked, answer)));
    let set = source.next().await.unwrap();
    assert_eq!(addresses(&set), ["10.0.0.1:80", "10.0.0.2:80"]);
    fake.says(move |asked, answer| Say::Answer(bad(asked, answer)));
    let set = source.next().await.unwrap();
    assert_eq!(
        addresses(&set),
        ["10.0.0.1:80", "10.0.0.2:80"],
        "what was known stays"
    );
}

/// Addresses of `cart.example.test`, on port 80.
fn of_addresses(fake: &FakeDns) -> config::Dns {
    config::Dns {
        query: "{service}.example.test".to_owned(),
        record: config::DnsRecord::Address { port: 80 },
        ..quick(fake)
    }
}

const HOST: &str = "cart.example.test.";

fn aaaa(ip: &str) -> RData {
    RData::AAAA(ip.parse::<std::net::Ipv6Addr>().unwrap().into())
}

/// Both families, the second of which is what `of` makes of it.
fn families(
    of: impl Fn(Message) -> Say + Send + Sync + 'static,
) -> impl Fn(&Asked, Message) -> Say + Send + Sync {
    move |asked, mut answer| match asked.kind {
        RecordType::SRV => {
            answer.add_answer(record(CART, 0, srv(80, HOST)));
            Say::Answer(answer)
        }
        RecordType::A => {
            answer.add_answer(record(HOST, 0, a("10.0.0.1")));
            Say::Answer(answer)
        }
        _ => of(answer),
    }
}

#[tokio::test]
async fn one_family_that_cannot_be_had_takes_nothing_from_the_other() {
    type Of = fn(Message) -> Say;
    let bad: [(&str, Of); 4] = [
        ("SERVFAIL", |m| {
            Say::Answer(with_code(m, ResponseCode::ServFail))
        }),
        ("NOTIMP", |m| {
            Say::Answer(with_code(m, ResponseCode::NotImp))
        }),
        ("REFUSED", |m| {
            Say::Answer(with_code(m, ResponseCode::Refused))
        }),
        ("silence", |_| Say::Nothing),
    ];
    for (what, bad) in bad {
        let fake = FakeDns::start(families(bad)).await;
        for settings in [of_addresses(&fake), quick(&fake)] {
            fake.says(families(bad));
            let registry = registry(&settings);
            let mut source = registry.service(named("cart"));
            let set = source.next().await.unwrap();
            assert_eq!(addresses(&set), ["10.0.0.1:80"], "{what}");
            fake.says(families(|mut answer| {
                answer.add_answer(record(HOST, 0, aaaa("fd00::1")));
                Say::Answer(answer)
            }));
            let both = ["10.0.0.1:80", "[fd00::1]:80"];
            assert_eq!(addresses(&source.next().await.unwrap()), both, "{what}");
            fake.says(families(bad));
            let kept = source.next().await.unwrap();
            assert_eq!(addresses(&kept), both, "its old addresses stay: {what}");
            // And no more than those: what the other family says counts.
            fake.says(move |asked, answer| match asked.kind {
                RecordType::A => Say::Answer(answer),
                _ => families(bad)(asked, answer),
            });
            let moved = source.next().await.unwrap();
            assert_eq!(addresses(&moved), ["[fd00::1]:80"], "{what}");
        }
    }
}

#[tokio::test]
async fn a_family_that_was_never_had_does_not_make_nobody_of_an_empty_other() {
    let fake = FakeDns::start(|asked, answer| match asked.kind {
        RecordType::A => Say::Answer(answer),
        _ => Say::Answer(with_code(answer, ResponseCode::ServFail)),
    })
    .await;
    let registry = registry(&of_addresses(&fake));
    let mut source = registry.service(named("cart"));
    let error = source.next().await.unwrap_err().message;
    assert!(error.contains("answered SERVFAIL"), "{error}");
    // Where it was there once, and then is not, it is gone.
    fake.says(families(|answer| {
        Say::Answer(with_code(answer, ResponseCode::ServFail))
    }));
    assert_eq!(source.next().await.unwrap().instances.len(), 1);
    fake.says(|asked, answer| match asked.kind {
        RecordType::A => Say::Answer(answer),
        _ => Say::Answer(with_code(answer, ResponseCode::ServFail)),
    });
    for _ in 0..2 {
        assert_eq!(source.next().await.unwrap().instances.len(), 0);
    }
}

#[tokio::test]
async fn a_resolver_that_knows_no_edns_is_asked_without_and_remembered() {
    type Of = fn(Message) -> Say;
    let ways: [(&str, Of); 4] = [
        ("FORMERR", |mut answer| {
            answer.queries.clear();
            Say::Answer(with_code(answer, ResponseCode::FormErr))
        }),
        ("FORMERR with the question", |answer| {
            Say::Answer(with_code(answer, ResponseCode::FormErr))
        }),
        ("NOTIMP", |answer| {
            Say::Answer(with_code(answer, ResponseCode::NotImp))
        }),
        ("silence", |_| Say::Nothing),
    ];
    for (what, of) in ways {
        let fake = FakeDns::start(move |asked, answer| match asked.payload {
            Some(_) => of(answer),
            None => Say::Answer(one(answer, 0)),
        })
        .await;
        let registry = registry(&quick(&fake));
        let mut source = registry.service(named("cart"));
        let set = source.next().await.unwrap();
        assert_eq!(addresses(&set), ["10.0.0.1:80"], "{what}");
        let first = fake.asked().len();
        for _ in 0..3 {
            source.next().await.unwrap();
        }
        let later = &fake.asked()[first..];
        assert!(
            later.len() == 3 && later.iter().all(|asked| asked.payload.is_none()),
            "{what}: {later:?}"
        );
    }
}

#[tokio::test]
async fn what_is_asked_without_edns_is_had_whole_where_tcp_is_to_be_had() {
    // As Consul does without EDNS: three of all, and not a word.
    let silently = |asked: &Asked, answer: Message| match (asked.payload, asked.tcp) {
        (Some(_), false) => Say::Nothing,
        (_, tcp) => Say::Answer(many(answer, if tcp { 40 } else { 3 })),
    };
    let fake = FakeDns::start(silently).await;
    let mut source = registry(&quick(&fake)).service(named("cart"));
    assert_eq!(source.next().await.unwrap().instances.len(), 40);
    // And one that has no TCP is believed.
    let udp_only = FakeDns::start(|asked, answer| match (asked.payload, asked.tcp) {
        (None, false) => Say::Answer(many(answer, 3)),
        _ => Say::Nothing,
    })
    .await;
    let mut source = registry(&quick(&udp_only)).service(named("cart"));
    assert_eq!(source.next().await.unwrap().instances.len(), 3);
}

#[tokio::test]
async fn only_the_order_differs_and_nothing_is_published() {
    let turn = AtomicUsize::new(0);
    let fake = FakeDns::start(move |_, mut answer| {
        for i in 0..4 {
            let i = (i + turn.load(Relaxed)) % 4;
            let target = format!("web{i}.");
            answer.add_answer(record(CART, 0, srv(80, &target)));
            answer.add_additional(record(&target, 0, a(&format!("10.0.0.{i}"))));
        }
        turn.fetch_add(1, Relaxed);
        Say::Answer(answer)
    })
    .await;
    let cart = cart(&settings(&[fake.address()]));
    let asked = crate::support::eventually(
        "asked often",
        async || fake.asked().len(),
        |asked| *asked >= 8,
    );
    asked.await;
    assert_eq!(cart.published().len(), 1);
}

#[tokio::test]
async fn a_name_that_cannot_be_asked_for_says_what_to_change() {
    let fake = FakeDns::start(|_, answer| Say::Answer(one(answer, 0))).await;
    let registry = registry(&settings(&[fake.address()]));
    for (name, says) in [
        (
            "my cart",
            "`_http._tcp.my cart.example.test` is not a name of the DNS; give the service another `name`, or check registry.main.query",
        ),
        (
            "a..b",
            "`_http._tcp.a..b.example.test` is not a name of the DNS; give",
        ),
    ] {
        let error = registry
            .service(named(name))
            .next()
            .await
            .unwrap_err()
            .message;
        let expected = format!("main was not asked for service `{name}`: {says}");
        assert!(error.starts_with(&expected), "{error}");
    }
    let tagged = ServiceQuery {
        tags: vec!["v2".to_owned()],
        ..named("cart")
    };
    let error = registry.service(tagged).next().await.unwrap_err().message;
    assert_eq!(
        error,
        "main was not asked for service `cart`: the DNS has no tags; leave them out"
    );
    assert_eq!(fake.asked().len(), 0);
    assert!(registry.catalog().is_none());
}

#[tokio::test]
async fn dropping_a_question_loses_nothing() {
    let fake = FakeDns::start(|_, answer| Say::Answer(one(answer, 0))).await;
    let registry = registry(&quick(&fake));
    let mut source = registry.service(named("cart"));
    source.next().await.unwrap();
    // While it waits for the TTL, and while it waits for the answer.
    for says in [true, false] {
        if !says {
            fake.says(|_, _| Say::Nothing);
        }
        for _ in 0..20 {
            let dropped = tokio::time::timeout(Duration::from_millis(8), source.next()).await;
            drop(dropped);
        }
    }
    fake.says(|_, answer| Say::Answer(one(answer, 0)));
    assert_eq!(addresses(&source.next().await.unwrap()), ["10.0.0.1:80"]);
}
