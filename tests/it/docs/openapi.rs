//! The OpenAPI file that the admin server serves has its paths and methods, and no other; and what it
//! answers is as the file says, field by field.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use super::{
    page::Page,
    status::{ALL, MORE},
};
use crate::support::{authority::Authority, backend::Backend, proxy::Proxy};

const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
];

async fn described(proxy: &Proxy) -> Value {
    proxy.page("/api/openapi.json").await.json().await.unwrap()
}

/// A status and a body of the admin server.
async fn asked(proxy: &Proxy, method: &Method, path: &str, body: Option<&str>) -> (u16, String) {
    let mut request = proxy.http.request(method.clone(), proxy.admin(path));
    if let Some(body) = body {
        request = request.header("content-type", "application/json");
        request = request.body(body.to_owned());
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn it_has_every_path_with_its_methods_and_no_other() {
    let backend = Backend::start("a").await;
    let proxy = Proxy::start("").await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/cart").await;
    let file = described(&proxy).await;
    assert_eq!(file["info"]["version"], env!("CARGO_PKG_VERSION"));
    let paths = file["paths"].as_object().unwrap();
    let named: BTreeSet<_> = paths
        .keys()
        .map(|path| path.replace("{NAME}", "NAME"))
        .collect();
    let rows = Page::read("docs/operations.md").rows("The admin server");
    let shown = rows.iter().filter(|row| row[0].starts_with('`'));
    let shown: BTreeSet<_> = shown
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    assert_eq!(named, shown);
    for (path, operations) in paths {
        let path = path.replace("{NAME}", "cart");
        for method in METHODS {
            let url = proxy.admin(&path);
            let asked = proxy.http.request(method.clone(), url).send();
            // Events have no end: the head is enough.
            let status = asked.await.unwrap().status().as_u16();
            let named = operations.get(method.as_str().to_ascii_lowercase());
            assert_eq!(status == 405, named.is_none(), "{method} {path}: {status}");
            if let Some(operation) = named {
                let said = &operation["responses"][status.to_string()];
                assert!(said.is_object(), "{method} {path}: {status}");
            }
        }
    }
    proxy.drain().await;
}

/// What of a value is not as a schema says.
fn faults(file: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = file.pointer(reference.trim_start_matches('#'));
        return faults(file, schema.unwrap(), value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let any = any.iter().map(|one| faults(file, one, value, at));
        let any: Vec<_> = any.collect();
        return match any.iter().any(Vec::is_empty) {
            true => Vec::new(),
            false => any.concat(),
        };
    }
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        kind => is(kind),
    };
    let is_named = schema["enum"].as_array();
    if !fits || !is_named.is_none_or(|all| all.contains(value)) {
        return vec![format!("{at}: {value} is none of {schema}")];
    }
    let mut found = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match (
            schema["properties"].get(name),
            &schema["additionalProperties"],
        ) {
            (Some(schema), _) => found.extend(faults(file, schema, member, &at)),
            (None, Value::Bool(false)) => found.push(format!("{at} is not described")),
            (None, Value::Null) => {}
            (None, schema) => found.extend(faults(file, schema, member, &at)),
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            found.push(format!("{at}.{name} is missing"));
        }
    }
    for element in value.as_array().into_iter().flatten() {
        found.extend(faults(file, &schema["items"], element, at));
    }
    found
}

#[tokio::test]
async fn what_is_answered_is_as_it_says() {
    let backend = Backend::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path()).issue("site");
    std::fs::write(folder.path().join("more.toml"), MORE).unwrap();
    let path = folder.path().join("endpoints.toml");
    std::fs::write(path, "[x]\nendpoints = [\"127.0.0.1:9\"]\n").unwrap();
    let proxy = Proxy::start_in(folder, ALL).await;
    let more = json!({"Tags": ["v1"], "Meta": {"zone": "a"}});
    proxy.register_with("cart", backend.address(), more).await;
    proxy
        .until_states("cart", &[(backend.address(), "serving")])
        .await;
    proxy.get("/parts").await;
    let file = described(&proxy).await;

    let (get, post, delete) = (&Method::GET, &Method::POST, &Method::DELETE);
    let pin = "/api/services/cart/pin";
    let weight = "/api/services/cart/weight";
    let other = format!("{{\"endpoint\": \"{}\", \"weight\": 7}}", backend.address());
    let ended = format!("{weight}?endpoint={}", backend.address());
    let share = "{\"route\": \"/parts\", \"weights\": {\"x\": 2}}";
    for (method, path, body, status) in [
        (get, "/api/status?limit=1", None, 200),
        (post, pin, Some("{}"), 200),
        (get, "/api/status", None, 200),
        (get, "/api/services/cart", None, 200),
        (get, "/api/services/cart/journal", None, 200),
        (delete, pin, None, 200),
        (delete, pin, None, 404),
        (get, "/api/services/hat", None, 404),
        (post, pin, Some("{\"for\": 7}"), 400),
        (get, "/api/explain?url=/parts", None, 200),
        (
            get,
            "/api/explain?url=/all?a%3Db&header=a:b&header=cookie:a%3Db",
            None,
            200,
        ),
        (get, "/api/explain?url=/nowhere", None, 200),
        (get, "/api/history?service=cart", None, 200),
        (get, "/api/services/cart/history", None, 200),
        (get, "/api/journal", None, 200),
        (post, weight, Some(&*other), 200),
        (get, "/api/services/cart", None, 200),
        (get, "/api/services/cart/journal", None, 200),
        (get, "/api/journal", None, 200),
        (delete, &*ended, None, 200),
        (delete, &*ended, None, 404),
        (post, "/api/share", Some(share), 200),
        (get, "/api/status", None, 200),
        (delete, "/api/share?route=/parts", None, 200),
        (delete, "/api/share?route=/parts", None, 404),
        (post, "/api/reload", Some("{\"dry_run\": true}"), 200),
        (post, "/api/reload", Some("{}"), 200),
        (get, "/api/status", None, 200),
    ] {
        let (answered, text) = asked(&proxy, method, path, body).await;
        assert_eq!(answered, status, "{method} {path}: {text}");
        let described = path.split('?').next().unwrap();
        let described = described.replace("cart", "{NAME}").replace("hat", "{NAME}");
        let method = method.as_str().to_ascii_lowercase();
        let operation = &file["paths"][described][&method];
        let content = &operation["responses"][status.to_string()]["content"];
        let schema = &content["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path}");
        let value = serde_json::from_str(&text).unwrap();
        let found = faults(&file, schema, &value, "");
        assert!(found.is_empty(), "{method} {path}: {found:#?}");
    }
    proxy.write("wrokers = 1\n");
    let (status, text) = asked(&proxy, post, "/api/reload", Some("{}")).await;
    assert_eq!(status, 422);
    let schema = json!({"$ref": "#/components/schemas/ReloadFailed"});
    let value = serde_json::from_str(&text).unwrap();
    assert_eq!(faults(&file, &schema, &value, ""), [""; 0]);
    proxy.drain().await;
}
