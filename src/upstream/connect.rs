//! Opening a connection.

use std::{io, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    Connection, Failure, FailureKind, Pool, Processed, Protocol, dial::dial, http1, http2,
    stream::Stream,
};
use crate::proxy_protocol::Opener;

/// A connection that a request has waited for.
#[derive(Debug)]
pub(crate) struct Connected {
    pub connection: Connection,
    /// It was opened for this request. Else it is another request's, which has opened it meanwhile.
    pub is_new: bool,
}

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// How long it may take to open one: the resolving of a name, the handshake of TLS and that of HTTP/2
    /// included. A request that waits for others to open theirs waits as long at most.
    pub limit: Duration,
    /// When all must be over.
    pub total: Option<Instant>,
    /// Whose it is, where the endpoint is told that.
    pub opener: Option<Opener>,
    /// When the request's last connection died: one that was opened before will not do.
    pub died: Option<Instant>,
}

/// Requests whose connection dies find that out one after the other, while the first of them has opened
/// another already.
const TOGETHER: Duration = Duration::from_millis(500);

impl Wanted {
    /// A step that fails like this where it takes too long.
    async fn in_time<T>(
        &self,
        late: FailureKind,
        step: impl Future<Output = Result<T, FailureKind>>,
    ) -> Result<T, FailureKind> {
        let limit = self.total.map_or(self.limit, |total| {
            let left = total.saturating_duration_since(Instant::now());
            self.limit.min(left)
        });
        timeout(limit, step).await.unwrap_or(Err(late))
    }

    /// How old a shared connection may be: when it was opened.
    fn oldest(&self) -> Option<Instant> {
        let died = self.died?;
        Some(died.checked_sub(TOGETHER).unwrap_or(died))
    }
}

/// Opens a connection to the pool's endpoint. Where requests share a connection, it is one that has been
/// opened meanwhile.
///
/// # Errors
/// Always [`Processed::Never`].
pub(crate) async fn connect(pool: &Pool, wanted: &Wanted) -> Result<Connected, Failure> {
    let connected = match pool.protocol() {
        Protocol::Http1 => {
            let opening = open(pool, wanted.opener);
            let stream = wanted.in_time(FailureKind::ConnectTimeout, opening).await;
            stream.map(|stream| Connected {
                connection: Connection::Http1(http1::Connection::new(stream, wanted.opener)),
                is_new: true,
            })
        }
        Protocol::Http2 | Protocol::Either => Box::pin(share(pool, wanted)).await,
    };
    connected.map_err(|kind| Failure {
        kind,
        processed: Processed::Never,
    })
}

async fn open(pool: &Pool, opener: Option<Opener>) -> Result<Stream, FailureKind> {
    let socket = dial(pool.address(), pool.send_proxy(), opener).await;
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
/// it; or as many as are wanted, of an endpoint that has chosen HTTP/1.1 last. What others take to open
/// theirs is no time of the endpoint's.
async fn share(pool: &Pool, wanted: &Wanted) -> Result<Connected, FailureKind> {
    let links = pool.links();
    let mut turn = None;
    if !links.is_http1() {
        let waiting = async { Ok(links.turn().await) };
        turn = Some(wanted.in_time(FailureKind::NoTurn, waiting).await?);
        if let Some(lease) = pool.lease(Instant::now(), wanted.oldest()) {
            return Ok(Connected {
                connection: Connection::Http2(lease),
                is_new: false,
            });
        }
        if links.is_http1() {
            turn = None;
        }
    }
    let opened = wanted.in_time(FailureKind::ConnectTimeout, open_shared(pool));
    let opened = opened.await;
    drop(turn);
    match opened {
        Ok(connection) => Ok(Connected {
            connection,
            is_new: true,
        }),
        // The one whose place it was to take goes on.
        Err(kind) => match links.lease_any(Instant::now(), &pool.keep(), wanted.oldest()) {
            Some(lease) => Ok(Connected {
                connection: Connection::Http2(lease),
                is_new: false,
            }),
            None => Err(kind),
        },
    }
}

/// A connection that others find as well, where it is of HTTP/2.
async fn open_shared(pool: &Pool) -> Result<Connection, FailureKind> {
    let links = pool.links();
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
    Ok(Connection::Http2(lease))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        net::TcpListener,
        task::JoinSet,
        time::{sleep, timeout},
    };

    use super::*;
    use crate::{
        config,
        instance::Address,
        upstream::{IdleLimits, Reuse, Target},
    };

    const SECOND: Duration = Duration::from_secs(1);

    const WANTED: Wanted = Wanted {
        limit: SECOND,
        total: None,
        opener: None,
        died: None,
    };

    /// A listener, and a pool of connections of HTTP/2 to it.
    async fn pool() -> (TcpListener, Pool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings = config::Pool {
            idle: SECOND,
            connections: 8,
            max_age: None,
            streams: 100,
            ping: None,
            send_proxy: None,
        };
        let target = Target::new(
            Address::new("127.0.0.1", port.into()).unwrap(),
            None,
            Protocol::Http2,
            Arc::new(IdleLimits::new(&settings)),
            None,
        );
        (listener, Pool::new(Arc::new(target)))
    }

    #[tokio::test]
    async fn requests_share_a_connection_but_where_theirs_died_after_it_was_opened() {
        let (listener, pool) = pool().await;
        let serving = async {
            let mut served = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                served.spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    while connection.accept().await.is_some() {}
                });
            }
        };
        let wanted = Wanted {
            limit: SECOND * 20,
            ..WANTED
        };
        let asking = async {
            let (one, other) = tokio::join!(connect(&pool, &wanted), connect(&pool, &wanted));
            assert_ne!(one.unwrap().is_new, other.unwrap().is_new);
            for (died, is_new) in [(None, false), (Some(Instant::now() + SECOND * 60), true)] {
                let wanted = Wanted { died, ..wanted };
                let connected = connect(&pool, &wanted).await.unwrap();
                assert_eq!(connected.is_new, is_new);
            }
            assert_eq!(pool.opened.value(), 2);
        };
        tokio::select! {
            () = asking => {}
            () = serving => {}
        }
    }

    /// A connection on which requests of one client are given up again and again.
    #[tokio::test]
    async fn a_worn_connection_serves_others_until_another_is_open_or_where_none_can_be() {
        let (listener, pool) = pool().await;
        let wanted = Wanted {
            limit: SECOND * 20,
            ..WANTED
        };
        let checkout = || pool.checkout(Instant::now(), Reuse::Any, None);
        let wear = || {
            for _ in 0..11 {
                let Some(Connection::Http2(lease)) = checkout() else {
                    panic!("it takes no streams");
                };
                lease.give_up();
            }
        };
        let serve = async |socket| {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while connection.accept().await.is_some() {}
        };
        let serving = async {
            let (first, _) = listener.accept().await.unwrap();
            let second = async {
                let (second, _) = listener.accept().await.unwrap();
                drop(listener);
                serve(second).await;
            };
            tokio::join!(serve(first), second)
        };
        let asking = async {
            assert!(connect(&pool, &wanted).await.unwrap().is_new);
            wear();
            // The first request that comes opens another, and those that come meanwhile do not wait for it.
            assert!(checkout().is_none());
            let turn = pool.links().turn().await;
            assert!(checkout().is_some());
            drop(turn);
            assert!(connect(&pool, &wanted).await.unwrap().is_new);
            wear();
            assert!(checkout().is_none());
            let connected = connect(&pool, &wanted).await.unwrap();
            assert!(!connected.is_new);
            assert_eq!(pool.opened.value(), 2);
        };
        tokio::select! {
            () = asking => {}
            _ = serving => {}
        }
    }

    /// Of an endpoint that takes connections and says nothing.
    #[tokio::test(start_paused = true)]
    async fn the_time_to_connect_begins_with_the_turn() {
        let (_listener, pool) = pool().await;
        let turn = pool.links().turn().await;
        let began = Instant::now();
        let others = async {
            sleep(SECOND * 9 / 10).await;
            drop(turn);
        };
        let (failed, ()) = tokio::join!(connect(&pool, &WANTED), others);
        let kind = failed.unwrap_err().kind;
        assert!(matches!(kind, FailureKind::ConnectTimeout), "{kind}");
        assert!(began.elapsed() >= SECOND * 19 / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_says_nothing_of_the_endpoint() {
        let (_listener, pool) = pool().await;
        let _turn = pool.links().turn().await;
        let by = Instant::now() + SECOND / 2;
        for total in [None, Some(by)] {
            let wanted = Wanted { total, ..WANTED };
            let failed = timeout(SECOND * 2, connect(&pool, &wanted)).await;
            let kind = failed.unwrap().unwrap_err().kind;
            assert!(matches!(kind, FailureKind::NoTurn), "{kind}");
        }
    }
}
