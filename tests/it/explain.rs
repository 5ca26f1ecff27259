//! What is explained of a request is what becomes of it: the same route, service and head, or the same
//! answer of the proxy's own; and nothing is taken by asking.

use std::{
    process::{Command, Output},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    backend::Backend,
    eventually,
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
    server::free_ports,
};

/// Routes by host, path and conditions, that lead to two backends.
fn routes(cart: &RawBackend, shop: &RawBackend) -> String {
    format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\nhealth_path = \"/healthz\"\n\
         trusted_proxies = [\"127.0.0.2\"]\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [[route]]\npath = \"/cart\"\nheader = {{ x-canary = \"yes\" }}\nservice = \"shop\"\n\
         [[route]]\npath = \"/cart/admin\"\nmethod = \"POST\"\nservice = \"shop\"\n\
         host_header = \"endpoint\"\n\
         [[route]]\nhost = \"shop.example.com\"\nservice = \"shop\"\nhost_header = \"name\"\n\
         [[route]]\npath = \"/of/{{service}}\"\nservice = \"{{service}}\"\nstrip_prefix = true\n\
         [[route]]\npath = \"/empty\"\nservice = \"empty\"\n\
         [[route]]\npath = \"/instead\"\nservice = \"empty\"\nfallback = \"cart\"\n\
         [service.cart]\nendpoints = [\"{}\"]\n[service.shop]\nendpoints = [\"{}\"]\n",
        cart.address(),
        shop.address(),
    )
}

struct Case {
    method: &'static str,
    target: &'static str,
    host: &'static str,
    fields: &'static [&'static str],
    /// The service whose backend gets it, or the proxy's own status.
    expected: Result<&'static str, u16>,
    /// The path of its route.
    route: Option<&'static str>,
    /// Those before it.
    passed_over: &'static [&'static str],
}

const PLAIN: Case = Case {
    method: "GET",
    target: "/",
    host: "a.example",
    fields: &[],
    expected: Err(404),
    route: None,
    passed_over: &[],
};

const CASES: [Case; 14] = [
    PLAIN,
    Case {
        target: "/cart/7?x=1",
        expected: Ok("cart"),
        route: Some("/cart"),
        passed_over: &["the header `x-canary` is not `yes`"],
        ..PLAIN
    },
    Case {
        target: "/cart",
        fields: &[
            "X-Canary: yes",
            "Cookie: a=b",
            "Connection: x-drop",
            "X-Drop: 1",
        ],
        expected: Ok("shop"),
        route: Some("/cart"),
        ..PLAIN
    },
    Case {
        target: "/cart/admin/x",
        expected: Ok("cart"),
        route: Some("/cart"),
        passed_over: &[
            "the method is not POST",
            "the header `x-canary` is not `yes`",
        ],
        ..PLAIN
    },
    Case {
        method: "POST",
        target: "/cart/admin",
        fields: &["Content-Length: 0"],
        expected: Ok("shop"),
        route: Some("/cart/admin"),
        ..PLAIN
    },
    Case {
        target: "/cartx",
        ..PLAIN
    },
    Case {
        target: "/any",
        host: "SHOP.example.com:80",
        fields: &["X-Forwarded-For: 1.2.3.4", "under_score: 1"],
        expected: Ok("shop"),
        route: Some("/"),
        ..PLAIN
    },
    Case {
        target: "/cart",
        host: "shop.example.com",
        expected: Ok("shop"),
        route: Some("/"),
        ..PLAIN
    },
    Case {
        target: "/of/nothing",
        route: Some("/of/{service}"),
        ..PLAIN
    },
    Case {
        target: "/healthz",
        expected: Err(200),
        ..PLAIN
    },
    Case {
        target: "/cart/../x",
        expected: Err(400),
        ..PLAIN
    },
    Case {
        target: "/cart%2Fadmin",
        expected: Err(400),
        ..PLAIN
    },
    Case {
        target: "/empty",
        expected: Err(503),
        route: Some("/empty"),
        ..PLAIN
    },
    Case {
        target: "/instead?a",
        expected: Ok("cart"),
        route: Some("/instead"),
        ..PLAIN
    },
];

async fn explained(proxy: &Proxy, case: &Case) -> Value {
    let url = format!("http://{}{}", case.host, case.target);
    // A `..` is the client's to keep, and not this test's URL's.
    let mut query = vec![("method", case.method), ("url", &url)];
    query.extend(case.fields.iter().map(|field| ("header", *field)));
    let asked = proxy.http.get(proxy.admin("/api/explain")).query(&query);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", case.target);
    answer.json().await.unwrap()
}

async fn made(proxy: &Proxy, case: &Case) -> u16 {
    let Case {
        method,
        target,
        host,
        fields,
        ..
    } = case;
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n");
    let mut wire = Wire::connect(proxy.address()).await;
    wire.ask(request).await.status()
}

#[tokio::test]
async fn what_is_explained_is_what_becomes_of_the_request_to_the_byte() {
    let backend = async || RawBackend::saying(ok("it"), Then::Keep).await;
    let (cart, shop) = (backend().await, backend().await);
    let proxy = Proxy::start(&routes(&cart, &shop)).await;
    proxy.until_ready().await;
    for case in &CASES {
        let seen = [cart.requests().len(), shop.requests().len()];
        let said = explained(&proxy, case).await;
        assert_eq!([cart.requests().len(), shop.requests().len()], seen);
        let about = format!("{} {}: {said}", case.method, case.target);
        assert_eq!(said["route"]["path"].as_str(), case.route, "{about}");
        let passed_over = said["passed_over"].as_array().unwrap();
        let passed_over: Vec<_> = passed_over.iter().map(|one| &one["why"]).collect();
        assert_eq!(passed_over, case.passed_over, "{about}");

        let status = made(&proxy, case).await;
        let destination = &said["destinations"][0];
        match case.expected {
            Ok(service) => {
                assert_eq!(status, 200, "{about}");
                assert_eq!(destination["service"], service, "{about}");
                assert_eq!(destination["endpoints"][0]["chance"], 1.0, "{about}");
                let backend = if service == "cart" { &cart } else { &shop };
                let got = backend.requests().last().unwrap().head.clone();
                assert_eq!(destination["head"], got, "{about}");
            }
            Err(expected) => {
                assert_eq!(status, expected, "{about}");
                let own = match &said["answer"] {
                    Value::Null => &destination["answer"],
                    own => own,
                };
                assert_eq!(own["status"], expected, "{about}");
            }
        }
    }
}

#[tokio::test]
async fn it_is_said_to_what_a_connection_may_go_over_and_a_connect_is_one_of_http2() {
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\nhealth_path = \"/healthz\"\n\
        [[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
        [[route]]\npath = \"/cart/plain\"\nservice = \"cart\"\nupgrades = []\n\
        [service.cart]\nendpoints = [\"127.0.0.1:1\"]\n";
    let proxy = Proxy::start(text).await;
    proxy.until_ready().await;
    const ASKS: &[&str] = &["Connection: upgrade", "Upgrade: websocket"];
    let none = "none: `upgrades` does not name it";
    for (method, target, fields, says, answers) in [
        ("GET", "/cart", &[][..], Value::Null, None),
        ("GET", "/cart", ASKS, json!("websocket"), None),
        ("GET", "/cart/plain", ASKS, json!(none), None),
        ("CONNECT", "/cart", &[], json!("websocket"), None),
        ("CONNECT", "/cart/plain", &[], json!(none), Some(501)),
        (
            "CONNECT",
            "/cart",
            &["Upgrade: tcp"],
            json!(none),
            Some(501),
        ),
    ] {
        let case = Case {
            method,
            target,
            fields,
            ..PLAIN
        };
        let said = explained(&proxy, &case).await;
        let destination = &said["destinations"][0];
        let goes_over = destination["goes_over"].as_str();
        assert_eq!(goes_over.is_some(), says.is_string(), "{said}");
        let begins = says.as_str().unwrap_or_default();
        assert!(goes_over.unwrap_or_default().starts_with(begins), "{said}");
        let status = answers.map_or(Value::Null, |status: u16| json!(status));
        assert_eq!(destination["answer"]["status"], status, "{said}");
        let head = destination["head"].as_str().unwrap();
        assert!(head.starts_with("GET "), "{head}");
    }
    let health = Case {
        method: "CONNECT",
        target: "/healthz",
        ..PLAIN
    };
    assert_eq!(explained(&proxy, &health).await["answer"]["status"], 501);
}

#[tokio::test]
async fn a_rate_is_shown_with_what_is_left_and_asking_takes_none() {
    let backend = Backend::start("a").await;
    let config = format!(
        "[[route]]\nservice = \"cart\"\nrate = {{ requests = 1, per = \"1h\", burst = 3, by = \"client\" }}\n\
         [service.cart]\nendpoints = [\"{}\"]\n",
        backend.address()
    );
    let proxy = Proxy::start(&config).await;
    proxy.until_ready().await;
    let left = async || explained(&proxy, &PLAIN).await["rate"]["left"].clone();
    for expected in [3, 2, 1] {
        for _ in 0..3 {
            assert_eq!(left().await, expected);
        }
        assert_eq!(proxy.get("/").await.status(), 200);
    }
    let said = explained(&proxy, &PLAIN).await;
    assert_eq!(said["rate"]["left"], 0);
    assert_eq!(said["answer"]["status"], 429);
    assert_eq!(proxy.get("/").await.status(), 429);
}

#[tokio::test]
async fn endpoints_are_shown_with_their_chances_and_with_what_stands_in_their_way() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let config = "[[route]]\nservice = \"cart\"\n\
                  [[route]]\npath = \"/v2\"\nservice = \"cart\"\ntags = [\"v2\"]\n";
    let proxy = Proxy::start(config).await;
    let tags = json!({"Tags": ["v2"]});
    proxy.register_with("cart", a.address(), tags).await;
    proxy.register("cart", b.address()).await;
    let serving = [(a.address(), "serving"), (b.address(), "serving")];
    proxy.until_states("cart", &serving).await;
    let chances = async |target| {
        let said = explained(&proxy, &Case { target, ..PLAIN }).await;
        let endpoints = said["destinations"][0]["endpoints"].clone();
        [&a, &b].map(|backend| {
            let mut all = endpoints.as_array().unwrap().iter();
            let address = backend.address().to_string();
            all.find(|one| one["address"] == *address).unwrap().clone()
        })
    };
    let [of_a, of_b] = chances("/").await;
    assert_eq!(
        (&of_a["chance"], &of_b["chance"]),
        (&json!(0.5), &json!(0.5))
    );
    let [of_a, of_b] = chances("/v2").await;
    assert_eq!(
        (&of_a["chance"], &of_b["chance"]),
        (&json!(1.0), &json!(0.0))
    );
    assert_eq!(of_b["why"], "the route wants tag `v2`");
}

#[tokio::test]
async fn what_is_said_to_follow_an_attempt_that_fails_is_what_follows() {
    let [closed] = free_ports();
    let good = RawBackend::saying(ok("it"), Then::Keep).await;
    let silent = RawBackend::saying("", Then::Close).await;
    let config = format!(
        "[[route]]\npath = \"/refused\"\nservice = \"refused\"\nretry = {{ attempts = 1 }}\n\
         [[route]]\npath = \"/silent\"\nservice = \"silent\"\nretry = {{ attempts = 2 }}\n\
         [service.refused]\nendpoints = [\"127.0.0.1:{closed}\", \"{0}\"]\n\
         [service.silent]\nendpoints = [\"{1}\"]\n",
        good.address(),
        silent.address(),
    );
    let proxy = Proxy::start(&config).await;
    proxy.until_ready().await;
    let long = Case {
        method: "PUT",
        target: "/refused",
        fields: &["Content-Length: 1048576"],
        ..PLAIN
    };
    let then = async |case: &Case, event: &str| {
        let said = explained(&proxy, case).await;
        let follow_ups = said["destinations"][0]["retry"]["follow_ups"].clone();
        let mut all = follow_ups.as_array().unwrap().iter();
        all.find(|one| one["event"] == event).unwrap()["then"].clone()
    };
    assert_eq!(
        then(&long, "the endpoint takes no connection").await,
        "another attempt"
    );
    for _ in 0..4 {
        let body = vec![b'x'; 1 << 20];
        let put = proxy.http.put(proxy.url("/refused")).body(body);
        assert_eq!(put.send().await.unwrap().status(), 200);
    }
    let post = Case {
        method: "POST",
        target: "/silent",
        ..PLAIN
    };
    let event = "the connection ends without an answer";
    assert_eq!(then(&post, event).await, "502");
    let posted = proxy.http.post(proxy.url("/silent")).send().await.unwrap();
    assert_eq!(posted.status(), 502);
}

#[tokio::test]
async fn a_service_that_no_request_has_named_is_not_made_by_asking() {
    let backend = Backend::start("a").await;
    let proxy = Proxy::start("").await;
    proxy.register("cart", backend.address()).await;
    proxy.register("hat", backend.address()).await;
    // The list has both then.
    proxy.until_served("/cart").await;
    let hat = Case {
        target: "/hat",
        ..PLAIN
    };
    let said = explained(&proxy, &hat).await["destinations"][0].clone();
    assert_eq!(said["service"], "hat");
    assert_eq!(
        (&said["is_watched"], &said["is_read"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(proxy.page("/api/services/hat").await.status(), 404);
    proxy.until_served("/hat").await;
    let said = explained(&proxy, &hat).await["destinations"][0].clone();
    assert_eq!(said["is_watched"], true);
    assert_eq!(said["endpoints"][0]["chance"], 1.0);
}

#[tokio::test]
async fn a_rate_that_is_used_up_is_the_answer_whether_there_is_a_service_or_not() {
    let proxy = Proxy::start(
        "[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n\
         rate = { requests = 1, per = \"1h\", burst = 1 }\n",
    )
    .await;
    proxy.until_ready().await;
    let none = Case {
        target: "/none",
        ..PLAIN
    };
    for (left, expected) in [(1, 404), (0, 429)] {
        let said = explained(&proxy, &none).await;
        assert_eq!(said["rate"]["left"], left);
        assert_eq!(said["answer"]["status"], expected);
        assert_eq!(proxy.get("/none").await.status(), expected);
    }
}

#[tokio::test]
async fn a_service_with_as_much_to_do_as_it_may_is_said_to_answer_503() {
    let gate = Arc::new(Semaphore::new(0));
    let backend = Backend::named("slow").answering({
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                "done"
            }
        }
    });
    let backend = backend.start().await;
    let config = format!(
        "[[route]]\nservice = \"cart\"\n[service.cart]\nendpoints = [\"{}\"]\n\
         limits = {{ concurrent = 1, pending = 0 }}\n",
        backend.address()
    );
    let proxy = Proxy::start(&config).await;
    proxy.until_ready().await;
    let slow = tokio::spawn(proxy.http.get(proxy.url("/")).send());
    let requests = async || backend.requests();
    eventually("the request is worked on", requests, |count| *count == 1).await;
    let said = explained(&proxy, &PLAIN).await["destinations"][0].clone();
    assert_eq!(said["answer"]["status"], 503, "{said}");
    assert_eq!(said["limits"]["pending"], 0);
    assert_eq!(proxy.get("/").await.status(), 503);
    gate.add_permits(1);
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_question_that_is_none_is_refused_with_the_reason() {
    let proxy = Proxy::start("").await;
    for (query, said) in [
        ("", "url is missing"),
        ("url=example.com", "a URL begins with http://"),
        ("url=ftp://a/b", "a URL begins with http://"),
        ("url=/a%20b", "the URL is none"),
        ("url=/a&method=G%20T", "is no method"),
        ("url=/a&header=x", "the header `x` is none"),
        ("url=/a&header=Content-Length:+x", "is no number"),
        ("url=/a&client=me", "it is no IP address"),
        (
            "url=/a&nothing=1",
            "it may be method, url, header or client",
        ),
    ] {
        let answer = proxy.page(&format!("/api/explain?{query}")).await;
        assert_eq!(answer.status(), 400, "{query}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(said), "{query}: {text}");
    }
    let many = "&header=a:b".repeat(101);
    let answer = proxy.page(&format!("/api/explain?url=/{many}")).await;
    assert!(answer.text().await.unwrap().contains("too many header"));
}

fn command(arguments: &[&str], folder: &tempfile::TempDir) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
    command.current_dir(folder.path()).arg("explain");
    command.args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.is_empty(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_file_alone_explains_all_but_what_registries_say() {
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let config = format!(
        "[registry.main]\nkind = \"consul\"\naddress = \"http://127.0.0.1:{port}\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [[route]]\npath = \"/fixed\"\nmethod = \"GET\"\nservice = \"fixed\"\n\
         [[route]]\npath = \"/of/{{service}}\"\nservice = \"{{service}}\"\nstrip_prefix = true\n\
         [service.fixed]\nendpoints = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\n"
    );
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();

    let fixed = command(&["/fixed/1"], &folder);
    assert!(fixed.status.success());
    let fixed = said(&fixed);
    for line in [
        "route     /fixed, method GET (line 8)",
        " 50 %  10.0.0.1:80  serving",
        "  GET /fixed/1 HTTP/1.1",
        "  x-forwarded-for: 127.0.0.1",
    ] {
        assert!(fixed.contains(line), "{line}\n{fixed}");
    }
    let cart = command(
        &[
            "POST",
            "http://a/cart/7",
            "-H",
            "X-A: 1",
            "--client",
            "10.9.8.7",
        ],
        &folder,
    );
    assert!(cart.status.success());
    let cart = said(&cart);
    for line in [
        "its endpoints are not known: its registry was not read",
        "  POST /7 HTTP/1.1",
        "  x-a: 1",
        "  x-forwarded-for: 10.9.8.7",
        "the endpoint takes no connection                another attempt",
    ] {
        assert!(cart.contains(line), "{line}\n{cart}");
    }
    let template = command(&["/of/hat/x", "--format", "json"], &folder);
    let template: Value = serde_json::from_str(&said(&template)).unwrap();
    assert_eq!(template["unlisted"], "hat");
    assert_eq!(template["destinations"][0]["service"], "hat");
    let head = template["destinations"][0]["head"].as_str().unwrap();
    assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");

    let nowhere = command(&["POST", "/fixed"], &folder);
    assert_eq!(nowhere.status.code(), Some(1));
    let nowhere = said(&nowhere);
    assert!(
        nowhere.contains("404 no route takes this request"),
        "{nowhere}"
    );
    assert!(
        nowhere.contains("(line 8): the method is not GET"),
        "{nowhere}"
    );
}

#[test]
fn a_file_of_endpoints_is_read_for_a_template_too_and_says_which_services_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[registry.main]\nkind = \"file\"\npath = \"endpoints.toml\"\n\
                  [[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n";
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let endpoints = "[cart]\nendpoints = [\"10.0.0.1:80\"]\n";
    std::fs::write(folder.path().join("endpoints.toml"), endpoints).unwrap();
    let cart = command(&["/cart"], &folder);
    assert!(cart.status.success());
    let cart = said(&cart);
    assert!(cart.contains("100 %  10.0.0.1:80  serving"), "{cart}");
    assert!(!cart.contains("not known"), "{cart}");
    let none = command(&["/none"], &folder);
    assert_eq!(none.status.code(), Some(1));
    let none = said(&none);
    assert!(none.contains("404 no service `none`"), "{none}");
    assert!(!none.contains("not known"), "{none}");
}

#[test]
fn routes_that_tags_make_are_said_to_be_unknown_to_the_file_and_may_take_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let config = format!(
        "[registry.main]\nkind = \"consul\"\naddress = \"http://127.0.0.1:{port}\"\n\
         routes = \"urlprefix\"\n"
    );
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let cart = command(&["/cart"], &folder);
    assert!(cart.status.success());
    let cart = said(&cart);
    let line = "routes    of main: the routes that its tags make are not known";
    assert!(cart.contains(line), "{cart}");
}

#[test]
fn an_error_of_the_file_is_said_in_its_lines_and_a_request_that_is_none_has_a_status_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), "[[route]\n").unwrap();
    let broken = command(&["/"], &folder);
    assert_eq!(broken.status.code(), Some(1));
    let error = String::from_utf8(broken.stderr).unwrap();
    assert!(!error.contains("\\n"), "{error}");
    let none = command(&["example.com"], &folder);
    assert_eq!(none.status.code(), Some(2));
}

#[test]
fn a_line_end_in_a_request_begins_no_line_and_a_control_is_escaped_in_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let config = format!(
        "[registry.main]\nkind = \"consul\"\naddress = \"http://127.0.0.1:{port}\"\n\
         [[route]]\npath = \"/of/{{service}}\"\nservice = \"{{service}}\"\n"
    );
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let url = "/of/x%0Aanswered%20by%20the%20proxy:%20200%C2%9B";
    let text = said(&command(&[url], &folder));
    let mut lines = text.lines();
    assert!(!lines.any(|line| line.starts_with("answered")), "{text}");
    let json = said(&command(&[url, "--format", "json"], &folder));
    assert!(!json.contains('\u{9b}'), "{json}");
    let _: Value = serde_json::from_str(&json).unwrap();
}

#[tokio::test]
async fn a_proxy_that_runs_is_asked_as_reload_finds_it_and_its_errors_are_said() {
    let backend = Backend::start("a").await;
    let proxy = Proxy::start("").await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/cart").await;
    let folder = tempfile::tempdir().unwrap();
    let (admin, address) = (proxy.admin(""), backend.address().to_string());
    let (live, wrong) = tokio::task::spawn_blocking(move || {
        let live = command(&["/cart/1", "--admin", &admin], &folder);
        let wrong = command(&["/cart", "-H", "none", "--admin", &admin], &folder);
        (live, wrong)
    })
    .await
    .unwrap();
    assert!(live.status.success());
    let live = said(&live);
    assert!(
        live.contains(&format!("100 %  {address}  serving")),
        "{live}"
    );
    assert_eq!(wrong.status.code(), Some(2));
    let error = String::from_utf8(wrong.stderr).unwrap();
    assert!(error.contains("write it as \"Name: value\""), "{error}");
}
