//! What every registry with an HTTP API has in common: a client that asks the registry directly
//! and nobody else, and answers that are read up to a limit. Knows nothing of what is asked.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use reqwest::{Response, Url};

use super::error::{BuildError, one_line};
use crate::{config::ClientTls, tls::client_config};

const CONNECT: Duration = Duration::from_secs(5);

/// How much of an error's body is looked at.
const MAX_ERROR_BODY: usize = 4 << 10;

/// The base URL of `[registry.NAME]`.
pub(super) fn base_url(registry: &str, address: &str) -> Result<Url, BuildError> {
    Url::parse(address)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| BuildError::Address {
            registry: registry.to_owned(),
            address: address.to_owned(),
        })
}

/// A client of `[registry.NAME]`. Reads the TLS files, and connects to nothing yet.
pub(super) fn client(
    registry: &str,
    https: bool,
    tls: &ClientTls,
) -> Result<reqwest::Client, BuildError> {
    let mut builder = reqwest::Client::builder()
        // A registry is asked directly, and its token is sent to nobody else.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        // Finds a machine that is gone while a query waits for it.
        .tcp_keepalive(Duration::from_secs(15));
    builder = if https {
        let config = client_config(tls).map_err(|error| BuildError::Tls {
            registry: registry.to_owned(),
            error,
        })?;
        builder.tls_backend_preconfigured(config)
    } else {
        // The system's certificates are neither needed nor, in a small image, there to be loaded.
        builder.tls_certs_only([])
    };
    builder.build().map_err(|source| BuildError::Client {
        registry: registry.to_owned(),
        source,
    })
}

/// How long an answer asks us to stay away, in seconds; the form with a date is left to the
/// watcher's own backoff.
pub(super) fn retry_after(answer: &Response) -> Option<Duration> {
    retry_after_in(answer.status(), answer.headers())
}

/// The same, of an answer's head.
pub(super) fn retry_after_in(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let busy = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = seconds.trim().parse().ok()?;
    busy.contains(&status).then(|| Duration::from_secs(seconds))
}

/// What an answer other than a success says of itself, in a line.
pub(super) async fn reason(mut answer: Response) -> String {
    let status = answer.status();
    // A body that breaks off must not hide the status.
    let body = read(&mut answer, MAX_ERROR_BODY)
        .await
        .map_or_else(|_| Vec::new(), |(body, _)| body);
    reason_in(status, &body)
}

/// The same, of its status and as much of its body as there is.
pub(super) fn reason_in(status: StatusCode, body: &[u8]) -> String {
    let text = one_line(&String::from_utf8_lossy(body));
    if text.is_empty() {
        let reason = status.canonical_reason();
        return reason.unwrap_or("no reason given").to_owned();
    }
    text
}

/// The body up to a limit, and whether that was all of it.
pub(super) async fn read(answer: &mut Response, limit: usize) -> reqwest::Result<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = limit - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok((body, false));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, true))
}

/// A URL as it may be shown.
pub(super) fn without_credentials(url: &Url) -> String {
    let mut url = url.clone();
    let plain = url.set_username("").and_then(|()| url.set_password(None));
    plain.expect("an http URL has a host");
    url.as_str().trim_end_matches('/').to_owned()
}
