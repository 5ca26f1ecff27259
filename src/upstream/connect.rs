//! Opening a connection.

use std::{io, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::{
    Connection, Failure, FailureKind, Pool, Processed, Protocol, dial::dial, http1, http2,
    stream::Stream,
};

/// Opens a connection to the pool's endpoint, for this client where the endpoint is told of clients; `limit` covers the resolving of a name, the handshake of
/// TLS and that of HTTP/2. Where requests share a connection, it is one that has been opened meanwhile.
///
/// # Errors
/// Always [`Processed::Never`].
pub(crate) async fn connect(
    pool: &Pool,
    limit: Duration,
    client: Option<IpAddr>,
) -> Result<Connection, Failure> {
    let opening = async {
        match pool.protocol() {
            Protocol::Http1 => {
                let stream = open(pool, client).await?;
                Ok(Connection::Http1(http1::Connection::new(stream, client)))
            }
            Protocol::Http2 | Protocol::Either => Box::pin(share(pool)).await,
        }
    };
    let kind = match tokio::time::timeout(limit, opening).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(kind)) => kind,
        Err(_) => FailureKind::ConnectTimeout,
    };
    Err(Failure {
        kind,
        processed: Processed::Never,
    })
}

async fn open(pool: &Pool, client: Option<IpAddr>) -> Result<Stream, FailureKind> {
    let socket = dial(pool.address(), pool.send_proxy(), client).await;
    let socket = socket.map_err(FailureKind::Connect)?;
    let stream = match pool.handshake() {
        None => Stream::Plain(socket),
        Some(handshake) => {
            let secured = handshake.over(socket).await;
            secured
                .map(Stream::secured)
                .map_err(FailureKind::Handshake)?
        }
    };
    pool.opened.add_one();
    Ok(stream)
}

/// A place on a connection of HTTP/2. One is opened at a time, so that requests that come together share
/// it; or as many as are wanted, of an endpoint that has chosen HTTP/1.1 last.
async fn share(pool: &Pool) -> Result<Connection, FailureKind> {
    let links = pool.links();
    let mut turn = None;
    if !links.is_http1() {
        turn = Some(links.turn().await);
        if let Some(lease) = pool.lease(Instant::now()) {
            return Ok(Connection::Http2(lease));
        }
        if links.is_http1() {
            turn = None;
        }
    }
    let stream = open(pool, None).await?;
    let is_http2 = match pool.protocol() {
        Protocol::Either => stream.has_chosen_http2(),
        _ if stream.has_chosen_another() => {
            let why = io::Error::other("the endpoint does not choose it in the TLS handshake");
            return Err(FailureKind::NoHttp2(why));
        }
        _ => true,
    };
    links.note_http1(!is_http2);
    if !is_http2 {
        return Ok(Connection::Http1(http1::Connection::new(stream, None)));
    }
    let keep = pool.keep();
    let lease = links.add(http2::establish(stream, &keep).await?, || pool.is_retired());
    drop(turn);
    Ok(Connection::Http2(lease))
}
