//! Where Consul has its pages: a way to the status page of the proxy.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header, uri::Authority};

use super::Context;
use crate::control::server::reachable;

/// `GET /ui/`
pub(super) async fn status_page(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
) -> Response {
    let Some(page) = context.status_page.get() else {
        let text = "this registry has no pages: its proxy has them, on the admin server\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let to = [(header::LOCATION, location(*page, &headers))];
    (StatusCode::TEMPORARY_REDIRECT, to).into_response()
}

/// Where a client that named this registry so finds the page. An admin server that listens on each of the
/// machine's addresses is at the one that the client has used.
fn location(page: SocketAddr, headers: &HeaderMap) -> String {
    let named = headers.get(header::HOST);
    let named = named.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    match named {
        Some(host) if page.ip().is_unspecified() => {
            format!("http://{}:{}/ui/", host.host(), page.port())
        }
        _ => format!("http://{}/ui/", reachable(page)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_where_the_admin_server_listens_or_at_the_name_that_was_used() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "registry.example:8500".parse().unwrap());
        for (listens, leads_to) in [
            ("127.0.0.1:9900", "http://127.0.0.1:9900/ui/"),
            ("192.0.2.1:9900", "http://192.0.2.1:9900/ui/"),
            ("0.0.0.0:9900", "http://registry.example:9900/ui/"),
        ] {
            assert_eq!(location(listens.parse().unwrap(), &headers), leads_to);
        }
        let nameless = location("0.0.0.0:9900".parse().unwrap(), &HeaderMap::new());
        assert_eq!(nameless, "http://127.0.0.1:9900/ui/");
    }
}
