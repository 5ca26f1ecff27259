//! Paths that can be read in several ways: forwarded byte for byte where every reading leads to the
//! same place, refused where one leads elsewhere.

use crate::support::{
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
};

async fn backend(says: &str) -> RawBackend {
    RawBackend::saying(ok(says), Then::Keep).await
}

/// A proxy that keeps `/private` apart from the rest, takes a prefix off below `/strip` and `/escaped`,
/// and has a template below `/of`.
async fn start(listen: &str) -> (Proxy, [RawBackend; 2]) {
    let (public, private) = (backend("public").await, backend("private").await);
    let config = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\nhealth_path = \"/healthz\"\n{listen}\
         [[route]]\nservice = \"public\"\n\
         [[route]]\npath = \"/private\"\nservice = \"private\"\n\
         [[route]]\npath = \"/strip\"\nservice = \"public\"\nstrip_prefix = true\n\
         [[route]]\npath = \"/caf%C3%A9\"\nservice = \"private\"\n\
         [[route]]\npath = \"/of/{{service}}\"\nservice = \"{{service}}\"\nstrip_prefix = true\n\
         [service.public]\nendpoints = [\"{}\"]\n[service.private]\nendpoints = [\"{}\"]\n",
        public.address(),
        private.address(),
    );
    let proxy = Proxy::start(&config).await;
    for (name, backend) in [("public", &public), ("private", &private)] {
        proxy.register(name, backend.address()).await;
        proxy.until_served(&format!("/of/{name}")).await;
    }
    proxy.until_ready().await;
    (proxy, [public, private])
}

/// What comes of a path: who answers, and the target that it saw; or the status.
async fn asked(proxy: &Proxy, backends: &[RawBackend; 2], path: &str) -> Result<String, u16> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let got = Wire::connect(proxy.address()).await.ask(request).await;
    match got.status() {
        200 if got.text() == "ready\n" => Ok("ready".to_owned()),
        200 => {
            let backend = &backends[usize::from(got.text() == "private")];
            let seen = backend.requests();
            let target = seen.last().unwrap().start().split(' ').nth(1).unwrap();
            Ok(format!("{} {target}", got.text()))
        }
        status => Err(status),
    }
}

#[tokio::test]
async fn a_path_is_forwarded_as_it_came_where_all_readings_lead_to_the_same_route() {
    let (proxy, backends) = start("").await;
    for path in [
        // npm, GitLab, RabbitMQ, S3.
        "/@scope%2fname",
        "/@scope%2Fname/-/name-1.0.0.tgz",
        "/api/v4/projects/group%2Fproject/repository/files/src%2Fmain.rs/raw",
        "/api/queues/%2F/name",
        "/api/queues/%2f",
        "/bucket//key//",
        "//bucket",
        "/a;v=1/b;w",
        "/%41%7e",
        "/a%252Fb",
        "/a%3Bb%20c%C3%A9",
        "/x/private%2Fy",
        "/a%2Eb",
    ] {
        let got = asked(&proxy, &backends, path).await;
        assert_eq!(got, Ok(format!("public {path}")), "{path}");
    }
    for (path, expected) in [
        ("/private//x", "private /private//x"),
        ("/private/%2Fx;a=b", "private /private/%2Fx;a=b"),
        ("/strip//x", "public //x"),
        ("/strip/a%2Fb", "public /a%2Fb"),
        ("/of/private//x", "private //x"),
        ("/of/p%72ivate/a%2Fb", "private /a%2Fb"),
        ("/caf%C3%A9/x", "private /caf%C3%A9/x"),
    ] {
        let got = asked(&proxy, &backends, path).await;
        assert_eq!(got.as_deref(), Ok(expected), "{path}");
    }
}

#[tokio::test]
async fn a_path_of_which_one_reading_leads_elsewhere_is_refused() {
    let (proxy, backends) = start("").await;
    for path in [
        "/%70rivate/x",
        "/%70rivate",
        "/private;a=b/x",
        "/;/private/x",
        "/public%2F..%2Fprivate",
        "/public/..;/private",
        "/public/.;/x",
        "//private/x",
        "/private%2Fx",
        "/%2Fprivate",
        "/%2570rivate/x",
        "/private%252fx",
        "/private%c0%afx",
        "/%252e%252e/x",
        "/%c0%ae%c0%ae/x",
        "/caf%c3%a9/x",
        "/strip%2Fx",
        "/strip;a/x",
        "/of/public%2Fprivate",
        "/of/public;v=1/x",
        "/of//private/x",
        "/of/private%2F..",
        "/%68ealthz",
        "//healthz",
    ] {
        assert_eq!(asked(&proxy, &backends, path).await, Err(400), "{path}");
    }
    // Where no reading has a route, there is none.
    let proxy = Proxy::start("[[route]]\npath = \"/a\"\nservice = \"a\"\n").await;
    assert_eq!(asked(&proxy, &backends, "/b%2Fc").await, Err(404));
    assert_eq!(asked(&proxy, &backends, "/b/..%2Fa").await, Err(400));
}

#[tokio::test]
async fn the_strict_rule_refuses_what_can_be_read_in_two_ways() {
    let (proxy, backends) = start("paths = \"strict\"\n").await;
    for path in [
        "/@scope%2fname",
        "/bucket//key",
        "//bucket",
        "/a%2Eb",
        "/public/..;/private",
    ] {
        assert_eq!(asked(&proxy, &backends, path).await, Err(400), "{path}");
    }
    for path in ["/a;v=1", "/a%20b", "/%41"] {
        let got = asked(&proxy, &backends, path).await;
        assert_eq!(got, Ok(format!("public {path}")), "{path}");
    }
    assert_eq!(
        asked(&proxy, &backends, "/healthz").await.as_deref(),
        Ok("ready")
    );
}
