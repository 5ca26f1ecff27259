//! One check of one endpoint, over a connection of its own: whether a new one is served. Knows
//! nothing of when and how often, or of what a result comes to.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

use super::{
    dial::{SendProxy, dial},
    is_for_want_of_descriptors,
    stream::Stream,
    tls::{Handshake, Protocol},
};
use crate::{
    config::{HealthAsk, HttpHealth, MOST_OF_A_BODY},
    error::with_causes,
    instance::Address,
    proxy_protocol::Opener,
};

const USER_AGENT: &str = concat!("callboard/", env!("CARGO_PKG_VERSION"), " (health check)");

/// What a check needs to reach its endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// Where it is asked.
    pub address: Address,
    /// Where it is asked over TLS.
    pub handshake: Option<Arc<Handshake>>,
    /// What it is asked in.
    pub protocol: Protocol,
    /// Where it is told whose connection it has, which is the proxy's own.
    pub send_proxy: SendProxy,
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotPassed {
    /// What is wrong with the endpoint, in a line.
    #[error("{0}")]
    Failed(String),
    /// This process could open no socket for it, which says nothing of the endpoint.
    #[error("connect: {0}")]
    NotMade(io::Error),
}

impl From<String> for NotPassed {
    fn from(found: String) -> Self {
        Self::Failed(found)
    }
}

/// Runs one check.
///
/// # Errors
/// Why it did not pass.
pub(crate) async fn probe(
    whom: &Checked,
    ask: &HealthAsk,
    limit: Duration,
) -> Result<(), NotPassed> {
    let asking = async {
        let socket = dial(&whom.address, whom.send_proxy, Some(Opener::Proxy)).await;
        let stream = secure(whom, socket.map_err(NotPassed::of_connect)?).await?;
        match ask {
            HealthAsk::Tcp => Ok(()),
            HealthAsk::Http(wanted) => Ok(http(stream, whom, wanted).await?),
            HealthAsk::Grpc { service } => Ok(grpc(stream, whom, service).await?),
        }
    };
    let late = |_| Err(format!("no answer within {limit:?}").into());
    tokio::time::timeout(limit, asking)
        .await
        .unwrap_or_else(late)
}

impl NotPassed {
    fn of_connect(error: io::Error) -> Self {
        if is_for_want_of_descriptors(&error) {
            Self::NotMade(error)
        } else {
            Self::Failed(format!("connect: {error}"))
        }
    }
}

async fn secure(whom: &Checked, socket: TcpStream) -> Result<Stream, String> {
    match &whom.handshake {
        None => Ok(Stream::Plain(socket)),
        Some(handshake) => {
            let secured = handshake.over(socket).await;
            secured
                .map(Stream::secured)
                .map_err(|error| format!("tls: {error}"))
        }
    }
}

async fn http(stream: Stream, whom: &Checked, wanted: &HttpHealth) -> Result<(), String> {
    let is_http2 = match whom.protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Either => stream.has_chosen_http2(),
    };
    match is_http2 {
        true => ask_http2(stream, whom, wanted).await,
        false => ask_http1(stream, whom, wanted).await,
    }
}

async fn ask_http2(stream: Stream, whom: &Checked, wanted: &HttpHealth) -> Result<(), String> {
    let shaking = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = shaking.await.map_err(|error| with_causes(&error))?;
    let scheme = whom.handshake.as_ref().map_or("http", |_| "https");
    let host = wanted.host.clone();
    let host = host.unwrap_or_else(|| whom.address.authority().into_owned());
    let request = Request::get(format!("{scheme}://{host}{}", wanted.path))
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| with_causes(&error))?;
    let asking = async {
        let answer = sender.send_request(request).await;
        judge(answer.map_err(|error| with_causes(&error))?, wanted).await
    };
    driven(connection, asking).await
}

async fn ask_http1(stream: Stream, whom: &Checked, wanted: &HttpHealth) -> Result<(), String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| with_causes(&error))?;
    let host = wanted.host.clone();
    let request = Request::get(&*wanted.path)
        .header(
            header::HOST,
            host.unwrap_or_else(|| whom.address.authority().into_owned()),
        )
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| with_causes(&error))?;
    let asking = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| with_causes(&error))?;
        judge(answer, wanted).await
    };
    driven(connection, asking).await
}

async fn judge(answer: Response<Incoming>, wanted: &HttpHealth) -> Result<(), String> {
    if !wanted.status.contains(answer.status()) {
        return Err(format!("answered {}", answer.status()));
    }
    for (name, value) in &wanted.header {
        let mut values = answer.headers().get_all(name).iter();
        if !values.any(|found| found == value) {
            return Err(format!("the answer has no field `{name}: {value}`"));
        }
    }
    let Some(text) = &wanted.body else {
        return Ok(());
    };
    let mut body = answer.into_body();
    let mut read = Vec::new();
    while read.len() < MOST_OF_A_BODY
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame.map_err(|error| with_causes(&error))?.into_data() {
            read.extend_from_slice(&data[..data.len().min(MOST_OF_A_BODY - read.len())]);
        }
        if memchr::memmem::find(&read, text.as_bytes()).is_some() {
            return Ok(());
        }
    }
    Err(format!("the answer's body does not hold `{text}`"))
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING`
const SERVING: i32 = 1;
/// Before each message: that it is not compressed, and its length.
const PREFIX: usize = 5;

async fn grpc(stream: Stream, whom: &Checked, service: &str) -> Result<(), String> {
    let shaking = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = shaking.await.map_err(|error| with_causes(&error))?;
    let service = service.to_owned();
    let message = HealthRequest { service }.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(&message);
    let scheme = whom.handshake.as_ref().map_or("http", |_| "https");
    let uri = format!(
        "{scheme}://{}/grpc.health.v1.Health/Check",
        whom.address.authority()
    );
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| with_causes(&error))?;
    let asking = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| with_causes(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("answered {}", answer.status()));
        }
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST_OF_A_BODY).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = trailers
            .get("grpc-status")
            .or(head.headers.get("grpc-status"));
        match status.map(|status| status.as_bytes()) {
            Some(b"0") => {}
            // NOT_FOUND
            Some(b"5") => return Err("it knows no service of that name".to_owned()),
            // UNIMPLEMENTED
            Some(b"12") => return Err("it has no health service".to_owned()),
            status => {
                let status = status.map(String::from_utf8_lossy).unwrap_or_default();
                return Err(format!("answered grpc-status {status}"));
            }
        }
        let mut message = body.to_bytes();
        if message.len() < PREFIX {
            return Err("an answer without a message".to_owned());
        }
        message.advance(PREFIX);
        match HealthResponse::decode(message)
            .map_err(|error| with_causes(&error))?
            .status
        {
            SERVING => Ok(()),
            status => Err(format!("answered status {status}, and not SERVING")),
        }
    };
    driven(connection, asking).await
}

/// Does something over a connection, which is driven meanwhile.
async fn driven<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    something: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let connection = async {
        // `something` sees the error, too, as it speaks over this connection.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        done = something => done,
        never = connection => never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::errno::Errno;

    #[test]
    fn a_check_without_descriptors_was_not_made() {
        for (errno, made) in [
            (Errno::EMFILE, false),
            (Errno::ENFILE, false),
            (Errno::ECONNREFUSED, true),
            (Errno::EHOSTUNREACH, true),
        ] {
            let error = io::Error::from_raw_os_error(errno as i32);
            let found = NotPassed::of_connect(error);
            assert_eq!(matches!(found, NotPassed::Failed(_)), made, "{errno}");
        }
    }
}
