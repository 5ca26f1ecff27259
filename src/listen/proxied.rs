//! The header of the PROXY protocol, with which a listener's connections begin where it expects one:
//! whose it is believed to be, and what becomes of a connection without. Of what follows a header no
//! byte is read.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead as _, ReadBuf};

use super::{
    Addresses, Connection, Stop, accept::TOO_MANY, addresses::Counted, linger::leave,
    socket::Socket, stop::Orders,
};
use crate::{
    proxy::ClientAddress,
    proxy_protocol::{Header, HeaderError, LONGEST, Opener, parse},
};

/// What a trusted proxy hears that speaks HTTP at once.
const NO_HEADER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 68\r\nconnection: close\r\n\r\n\
    400 Bad Request: connections to this port begin with a PROXY header\n";

/// So many bytes of a header are looked at in one go. Most have fewer.
const LOOK: usize = 512;

/// Whose connection a trusted proxy has passed on.
pub(super) struct Proxied {
    /// The client, or the proxy itself.
    pub(super) client: ClientAddress,
    /// The client speaks TLS, which the proxy has ended.
    pub(super) tls: bool,
    /// The client's place among the connections of its address. A trusted proxy needs none.
    _place: Option<Counted>,
}

/// Reads the header, and gives the client a place among those of its address; `None` where the
/// connection comes to nothing. `is_clear` says that HTTP follows in the clear.
pub(super) async fn receive(
    connection: &Connection,
    socket: &mut Socket,
    addresses: &Arc<Addresses>,
    is_clear: bool,
) -> Option<Proxied> {
    let Connection {
        worker, listener, ..
    } = connection;
    let peer = connection.address;
    let counts = &worker.proxy_headers;
    if !listener.trusts(peer.ip()) {
        counts.untrusted.add_one();
        tracing::debug!(client = %peer.ip(), "may send no PROXY header: it is not in trusted_proxies");
        return None;
    }
    let header = match read(connection, socket).await {
        Ok(header) => header,
        Err(failed) => {
            refuse(connection, socket, failed, is_clear).await;
            return None;
        }
    };
    let (address, trusted, named) = match header.opener {
        Opener::Client(client) => (client, listener.trusts(client.ip()), true),
        // HAProxy says so of its clients at a unix socket, too.
        Opener::Proxy => (peer, false, listener.address.tcp().is_some()),
        // Any client may be behind it, and be no proxy: its word is not the peer's.
        Opener::Unnamed => (peer, false, false),
    };
    match header.opener {
        Opener::Client(_) => counts.proxied.add_one(),
        Opener::Proxy | Opener::Unnamed => counts.local.add_one(),
    }
    connection.is_passed_on_for(address.ip());
    // A proxy whose checks found no place would take the server for dead.
    let has_place = !trusted && header.opener != Opener::Proxy;
    let place = has_place.then(|| addresses.take(address.ip()));
    if let Some(None) = place {
        worker.turned_away.add_one();
        tracing::debug!(client = %address.ip(), "has too many connections");
        if is_clear {
            socket.say(TOO_MANY);
        }
        leave(&connection.signal, socket.shut(), true).await;
        return None;
    }
    Some(Proxied {
        client: ClientAddress {
            address,
            trusted,
            named,
        },
        tls: header.tls,
        _place: place.flatten(),
    })
}

/// Why there is no header.
enum Failed {
    /// What has come is none, and begins with this byte.
    Bad(HeaderError, u8),
    /// The connection ended: after so many bytes.
    Closed(usize),
    /// The connection was told to end.
    Told,
}

/// Reads the header, and nothing behind it.
async fn read(connection: &Connection, socket: &mut Socket) -> Result<Header, Failed> {
    let mut orders = Orders::to(&connection.signal);
    let mut bytes = Vec::new();
    poll_fn(|cx| {
        // Looked at before the order: what has come by then is read.
        match poll_header(cx, socket, &mut bytes) {
            Poll::Pending => {}
            done => return done,
        }
        match orders.last(cx.waker()) {
            Stop::Serve => Poll::Pending,
            // What the runtime has not heard of may be there.
            Stop::Finish if !bytes.is_empty() || socket.has_come() => Poll::Pending,
            Stop::Finish | Stop::Cut => Poll::Ready(Err(Failed::Told)),
        }
    })
    .await
}

/// Looks at what has come, and takes of it what is the header's.
fn poll_header(
    cx: &mut Context<'_>,
    socket: &mut Socket,
    bytes: &mut Vec<u8>,
) -> Poll<Result<Header, Failed>> {
    let failed = |_: io::Error| Failed::Closed(0);
    loop {
        let mut space = [MaybeUninit::uninit(); LOOK];
        let before = bytes.len();
        let most = LOOK.min(LONGEST - before);
        let mut seen = ReadBuf::uninit(&mut space[..most]);
        ready!(socket.poll_peek(cx, &mut seen)).map_err(failed)?;
        if seen.filled().is_empty() {
            return Poll::Ready(Err(Failed::Closed(before)));
        }
        bytes.extend_from_slice(seen.filled());
        let parsed = parse(bytes).map_err(|error| Failed::Bad(error, bytes[0]))?;
        if let Some(parsed) = parsed {
            bytes.truncate(parsed.length);
        }
        // It lies there, and so is read at once; unless the runtime has it wait for its turn.
        let mut own = ReadBuf::uninit(&mut space[..bytes.len() - before]);
        let taken = Pin::new(&mut *socket).poll_read(cx, &mut own);
        bytes.truncate(before + own.filled().len());
        ready!(taken).map_err(failed)?;
        if let Some(parsed) = parsed
            && parsed.length == bytes.len()
        {
            return Poll::Ready(Ok(parsed.header));
        }
    }
}

/// Counts a connection without a header, and says so where that may be of use.
async fn refuse(connection: &Connection, socket: &mut Socket, failed: Failed, is_clear: bool) {
    let counts = &connection.worker.proxy_headers;
    let client = connection.address.ip();
    match failed {
        Failed::Bad(error, first) => {
            counts.refuse(error);
            tracing::debug!(%client, %error, "refused");
            let is_http = error == HeaderError::Missing && first.is_ascii_alphabetic();
            if is_http && is_clear {
                connection.worker.refused.add_one();
                socket.say(NO_HEADER);
            }
            leave(&connection.signal, socket.shut(), true).await;
        }
        // A client that comes and goes without a word only looks whether the port is open.
        Failed::Closed(0) => {}
        Failed::Closed(_) => counts.closed.add_one(),
        // All are told to end when the process does, which is no fault of theirs.
        Failed::Told if connection.is_late() => counts.late.add_one(),
        Failed::Told => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::{super::testing::connected, *};

    #[tokio::test]
    async fn a_connection_that_is_cut_before_its_time_is_over_is_not_late() {
        let (_client, connection, stream) = connected().await;
        let mut socket = Socket::new(stream);
        connection.order(Stop::Cut);
        let worker = &connection.worker;
        let late = || worker.proxy_headers.late.value();
        refuse(&connection, &mut socket, Failed::Told, true).await;
        assert_eq!(late(), 0);
        worker.clock.store(3_600_000, Relaxed);
        refuse(&connection, &mut socket, Failed::Told, true).await;
        assert_eq!(late(), 1);
    }

    #[test]
    fn what_a_proxy_without_a_header_hears_has_the_length_that_it_says() {
        let text = std::str::from_utf8(NO_HEADER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    }
}
