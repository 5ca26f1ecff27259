//! A request that is asked about, as a person writes it: a method, a URL and header fields.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
        TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
    uri::PathAndQuery,
};
use http_body::{Body, Frame, SizeHint};

use crate::config;

/// Bytes of a URL, and of all header fields together.
const MOST_BYTES: usize = 16 * 1024;
const MOST_FIELDS: usize = 100;

/// A request that is asked about.
#[derive(Debug)]
pub(crate) struct Question {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: PathAndQuery,
    pub(super) headers: HeaderMap,
    /// Who sends it.
    pub(super) client: IpAddr,
    pub(super) body: Announced,
    is_https: bool,
    port: Option<u16>,
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

impl Question {
    /// One about a request for `url`, which is a whole URL or a path, by a client with this address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new<'h>(
        method: &str,
        url: &str,
        fields: impl IntoIterator<Item = &'h str>,
        client: IpAddr,
    ) -> Result<Self, Invalid> {
        let invalid = |what: String| Err(Invalid(what));
        let Ok(method) = method.parse() else {
            return invalid(format!("`{method}` is no method"));
        };
        let Some(uri) = (url.len() <= MOST_BYTES)
            .then(|| url.parse::<Uri>().ok())
            .flatten()
        else {
            return invalid("the URL is none: write http://shop.example.com/cart, or /cart".into());
        };
        let is_http = matches!(uri.scheme_str(), None | Some("http" | "https"));
        // `example.com` by itself is the target of a CONNECT.
        if !is_http || uri.path_and_query().is_none() {
            let said = "a URL begins with http:// or https://, and a path with /";
            return invalid(said.into());
        }
        let mut headers = HeaderMap::new();
        if let Some(authority) = uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(HOST, host);
        }
        let mut bytes = 0;
        for (count, field) in (1..).zip(fields) {
            bytes += field.len();
            if count > MOST_FIELDS || bytes > MOST_BYTES {
                return invalid("there are too many header fields".into());
            }
            let (name, value) = header(field)?;
            match name == HOST {
                true => drop(headers.insert(name, value)),
                false => drop(headers.append(name, value)),
            }
        }
        if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_static("localhost"));
        }
        Ok(Self {
            body: Announced::by(&headers)?,
            method,
            target: uri
                .path_and_query()
                .cloned()
                .unwrap_or(PathAndQuery::from_static("/")),
            headers,
            client,
            is_https: uri.scheme_str() == Some("https"),
            port: uri.port_u16().or(match uri.scheme_str() {
                Some("https") => Some(443),
                Some(_) => Some(80),
                None => None,
            }),
        })
    }

    /// Its host, as it is sent.
    pub(super) fn host(&self) -> Option<String> {
        let host = self.headers.get(HOST)?;
        Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
    }

    /// The listener that it is sent to: that of the URL's port, else the first that speaks TLS, or does
    /// not, as the URL says.
    pub(super) fn listener<'l>(&self, all: &'l [config::Listener]) -> &'l config::Listener {
        let has_port = |one: &&config::Listener| {
            let address = one.address.tcp();
            address.is_some_and(|address| Some(address.port()) == self.port)
        };
        let speaks_it = |one: &&config::Listener| one.tls.is_some() == self.is_https;
        let by_port = all.iter().find(has_port);
        by_port
            .or_else(|| all.iter().find(speaks_it))
            .or(all.first())
            .expect("there is a listener")
    }

    /// In which version it is sent: a `CONNECT` to a path is there in HTTP/2 alone (RFC 8441).
    pub(super) fn version(&self) -> Version {
        match self.method {
            Method::CONNECT => Version::HTTP_2,
            _ => Version::HTTP_11,
        }
    }

    /// Its head, as it is routed.
    pub(super) fn parts(&self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = Uri::from(self.target.clone());
        parts.headers = self.headers.clone();
        parts.version = self.version();
        if self.method == Method::CONNECT {
            ask_to_go_over(&mut parts);
        }
        parts
    }
}

/// A `CONNECT` of HTTP/2 is routed as the `GET` that it is by HTTP/1.1: to what an `Upgrade` says, which stands for
/// `:protocol` here, or else to WebSocket.
fn ask_to_go_over(parts: &mut Parts) {
    parts.method = Method::GET;
    let headers = &mut parts.headers;
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let websocket = HeaderValue::from_static("websocket");
    let protocol = headers.entry(UPGRADE).or_insert(websocket);
    if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
        // The proxy makes another for each.
        let key = HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA==");
        headers.insert(SEC_WEBSOCKET_KEY, key);
        let version = HeaderValue::from_static("13");
        headers.entry(SEC_WEBSOCKET_VERSION).or_insert(version);
    }
}

fn header(field: &str) -> Result<(HeaderName, HeaderValue), Invalid> {
    let parsed = field.split_once(':').and_then(|(name, value)| {
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?))
    });
    parsed.ok_or_else(|| {
        let name = field.split(':').next().unwrap_or_default();
        Invalid(format!(
            "the header `{name}` is none: write it as \"Name: value\""
        ))
    })
}

/// A body that is announced, and never sent: so many bytes, or chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced(Option<u64>);

impl Announced {
    /// That of a request with these fields.
    fn by(headers: &HeaderMap) -> Result<Self, Invalid> {
        if headers.contains_key(TRANSFER_ENCODING) {
            return Ok(Self(None));
        }
        let length = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
        let length = length.map_or(Some(0), |text| std::str::from_utf8(text).ok()?.parse().ok());
        match length {
            Some(length) => Ok(Self(Some(length))),
            None => Err(Invalid("the `Content-Length` is no number".to_owned())),
        }
    }

    /// In bytes; `None` where that shows only at its end.
    pub(super) fn length(self) -> Option<u64> {
        self.0
    }
}

impl Body for Announced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.0 == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
