//! What every registry with an HTTP API has in common: a client that asks the registry directly,
//! through no proxy, and answers that are read up to a limit. Knows nothing of what is asked.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Response, Url};

use super::{
    error::{BuildError, one_line},
    room::Body,
    trouble::Trouble,
};
use crate::{config::ClientTls, tls::client_config};

const CONNECT: Duration = Duration::from_secs(5);

/// The longest that a registry's `Retry-After` is honoured: a day would be a mistake of its. Here,
/// where it is read, it holds for all who heed it.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How much of an error's body is looked at.
const MAX_ERROR_BODY: usize = 4 << 10;

/// What is encoded in a path's segment: all that RFC 3986 does not call unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path below another, each segment of which is one, whatever is in it. A URL's own setters take
/// tabs and line ends out of segments, and a name without them is another's. To a server in Java
/// what follows a `;` is no part of a name.
pub(super) fn path_below(base: &str, segments: &[&str]) -> String {
    let mut path = base.trim_end_matches('/').to_owned();
    for segment in segments {
        path.push('/');
        match *segment {
            // A step up or none, and not a name, where it stands as it is.
            dots @ ("." | "..") => path += &dots.replace('.', "%2E"),
            segment => path.extend(utf8_percent_encode(segment, SEGMENT)),
        }
    }
    path
}

/// The URL of a path below another's. No segment may be `.` or `..`, of which a URL makes steps,
/// however they are written.
pub(super) fn url_below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_path(&path_below(base.path(), segments));
    url
}

/// The base URL of `[registry.NAME]`.
pub(super) fn base_url(registry: &str, address: &str) -> Result<Url, BuildError> {
    Url::parse(address)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| BuildError::address(registry, address))
}

/// A client of `[registry.NAME]`. Reads the TLS files, and connects to nothing yet.
pub(super) fn client(
    registry: &str,
    https: bool,
    tls: &ClientTls,
) -> Result<reqwest::Client, BuildError> {
    let mut builder = reqwest::Client::builder()
        // A registry is asked directly, and its token is sent to no other server.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        // Finds a machine that is gone while a query waits for it.
        .tcp_keepalive(Duration::from_secs(15));
    builder = if https {
        let config = client_config(tls).map_err(|error| BuildError::tls(registry, error))?;
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

/// How long an answer asks us to stay away, within reason, in seconds; the form with a date is left to the
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
    busy.contains(&status)
        .then(|| Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
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

/// The body, as far as its limit goes, and whether that was all of it.
pub(super) async fn read_into(
    answer: &mut Response,
    mut body: Body,
) -> Result<(Body, bool), Trouble> {
    while let Some(chunk) = body.next(answer.chunk()).await?? {
        if !body.push(&chunk).await {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

/// The same, of what is asked by itself.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::room::Room;

    #[test]
    fn retry_after_is_read_within_reason() {
        let read = |status, text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after_in(status, &headers).map(|time| time.as_secs())
        };
        let busy = StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(read(busy, " 7 "), Some(7));
        for long in ["301", "86400", "18446744073709551615"] {
            assert_eq!(read(busy, long), Some(300), "{long}");
        }
        for none in [
            "18446744073709551616",
            "-1",
            "Fri, 31 Dec 1999 23:59:59 GMT",
        ] {
            assert_eq!(read(busy, none), None, "{none}");
        }
        assert_eq!(read(StatusCode::SERVICE_UNAVAILABLE, "7"), Some(7));
        assert_eq!(read(StatusCode::NOT_FOUND, "7"), None);
    }

    #[test]
    fn a_name_is_one_segment_whatever_is_in_it() {
        for base in ["http://h:1/eureka", "http://h:1/eureka/"] {
            let base = Url::parse(base).unwrap();
            let url = url_below(&base, &["apps", "a b;c%?#/:@", "Wä-._~"]);
            assert_eq!(
                url.as_str(),
                "http://h:1/eureka/apps/a%20b%3Bc%25%3F%23%2F%3A%40/W%C3%A4-._~"
            );
            let url = url_below(&base, &["ad\tmin\r\n", "...", ".a"]);
            assert_eq!(url.path(), "/eureka/ad%09min%0D%0A/.../.a");
        }
        let root = Url::parse("http://h:1").unwrap();
        assert_eq!(url_below(&root, &["apps"]).as_str(), "http://h:1/apps");
        assert_eq!(path_below("", &["v1", "..", "."]), "/v1/%2E%2E/%2E");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_its_own_time_and_no_more() {
        let pieces = async |pause: Duration| {
            let pieces = futures_util::stream::unfold(0, move |sent| async move {
                tokio::time::sleep(pause).await;
                let piece = bytes::Bytes::from_static(&[b'x'; 64 << 10]);
                let frame = http_body::Frame::data(piece);
                (sent < 3).then_some((Ok::<_, std::io::Error>(frame), sent + 1))
            });
            let body = reqwest::Body::wrap(http_body_util::StreamBody::new(pieces));
            let mut answer = Response::from(http::Response::new(body));
            let body = Room::default().body(1 << 20);
            read_into(&mut answer, body).await
        };
        let (body, whole) = pieces(Duration::from_secs(9)).await.unwrap();
        assert!(whole && body.len() == 3 * (64 << 10));
        let stalled = pieces(Duration::from_secs(11)).await;
        assert!(matches!(stalled, Err(Trouble::Stalled(_))));
    }
}
