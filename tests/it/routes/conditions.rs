//! A route with conditions takes the requests that meet them, and no others.

use http::Method;

use crate::support::{
    backend::{BACKEND, Backend},
    proxy::Proxy,
};

#[tokio::test]
async fn method_header_query_and_cookie_choose_among_routes_of_one_path() {
    let names = ["plain", "write", "canary", "preview", "lab"];
    let mut text = String::new();
    let mut backends = Vec::new();
    for name in names {
        let backend = Backend::start(name).await;
        text += &format!(
            "[service.{name}]\nendpoints = [\"{}\"]\n",
            backend.address()
        );
        backends.push(backend);
    }
    let proxy = Proxy::start(&format!(
        r#"{text}
        [[route]]
        path = "/cart"
        service = "plain"
        [[route]]
        path = "/cart"
        method = ["POST", "PUT"]
        service = "write"
        [[route]]
        path = "/cart"
        header = {{ X-Canary = "1" }}
        service = "canary"
        [[route]]
        path = "/cart"
        query = {{ preview = true }}
        header = {{ authorization = {{ prefix = "Bearer " }} }}
        service = "preview"
        [[route]]
        path = "/cart/items"
        cookie = {{ lab = "new" }}
        service = "lab"
        "#
    ))
    .await;
    let canary = ("x-canary", "1");
    let bearer = ("authorization", "Bearer x");
    for (method, target, headers, backend) in [
        (Method::GET, "/cart/7", &[][..], "plain"),
        (Method::POST, "/cart/7", &[], "write"),
        (Method::POST, "/cart/7", &[canary], "write"),
        (Method::GET, "/cart/7", &[canary], "canary"),
        (Method::GET, "/cart?preview", &[canary, bearer], "canary"),
        (Method::GET, "/cart?preview", &[bearer], "preview"),
        (
            Method::GET,
            "/cart?preview",
            &[("authorization", "x")],
            "plain",
        ),
        (
            Method::GET,
            "/cart/items/7",
            &[("cookie", "a=b; lab=new")],
            "lab",
        ),
        (Method::GET, "/cart/items/7", &[canary], "canary"),
    ] {
        let mut request = proxy.http.request(method.clone(), proxy.url(target));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(
            answer.headers()[BACKEND],
            backend,
            "{method} {target} {headers:?}"
        );
    }
    // A path whose only routes ask for more is like one that nobody takes.
    assert_eq!(proxy.get("/other").await.status(), 404);

    let status = proxy.status().await;
    let routes = status["routes"].as_array().unwrap();
    assert_eq!(routes[2]["header"]["x-canary"], "1");
    assert_eq!(routes[1]["method"][0], "POST");
}
