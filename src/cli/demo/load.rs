//! A steady load, and what a client that never repeats a request sees of it. Knows only the
//! proxy's address.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::cast::CAST;

/// A request without an answer for this long has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Failures that are kept in words.
const REASONS: usize = 5;

/// What has been seen so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// Requests that have ended, one way or the other.
    pub(super) sent: u64,
    /// Those that ended in an error, a reset, a time-out or a wrong answer.
    pub(super) failed: u64,
    /// Answers by the id of the provider that gave them.
    pub(super) by_provider: BTreeMap<String, u64>,
    /// The first few failures in words.
    pub(super) reasons: Vec<String>,
    /// Of the requests that did not fail, in microseconds.
    latencies: Vec<u32>,
}

impl Totals {
    fn count(&mut self, outcome: Result<String, String>, took: Duration) {
        self.sent += 1;
        match outcome {
            Ok(provider) => {
                *self.by_provider.entry(provider).or_default() += 1;
                let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                self.latencies.push(micros);
            }
            Err(reason) => {
                self.failed += 1;
                if self.reasons.len() < REASONS {
                    self.reasons.push(reason);
                }
            }
        }
    }

    /// The latency that this share of the requests did not exceed, in milliseconds; `None` where
    /// there was none.
    pub(super) fn percentile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        let at = rank.clamp(1, sorted.len().max(1)) - 1;
        sorted.get(at).map(|micros| f64::from(*micros) / 1000.0)
    }
}

/// Requests at a steady rate, to each service in turn.
pub(super) struct Load {
    totals: Arc<Mutex<Totals>>,
    stop: CancellationToken,
    sending: JoinHandle<()>,
}

impl Load {
    /// Starts at once; needs a runtime.
    pub(super) fn start(proxy: SocketAddr, per_second: u32) -> Self {
        let totals = Arc::new(Mutex::new(Totals::default()));
        let stop = CancellationToken::new();
        let pause = Duration::from_secs(1) / per_second;
        let sending = tokio::spawn(send(proxy, pause, Arc::clone(&totals), stop.clone()));
        Self {
            totals,
            stop,
            sending,
        }
    }

    /// Shows what has been seen so far.
    pub(super) fn look<R>(&self, at: impl FnOnce(&Totals) -> R) -> R {
        at(&self.totals.lock())
    }

    /// Sends no more, waits for the answers that are due, and says what was seen in all.
    pub(super) async fn stop(self) -> Totals {
        self.stop.cancel();
        if let Err(error) = self.sending.await {
            std::panic::resume_unwind(error.into_panic());
        }
        std::mem::take(&mut *self.totals.lock())
    }
}

/// Does not wait for one answer before it sends the next request: a slow proxy is not sent less.
async fn send(
    proxy: SocketAddr,
    pause: Duration,
    totals: Arc<Mutex<Totals>>,
    stop: CancellationToken,
) {
    let client = Arc::new(Client::new(proxy));
    let under_way = TaskTracker::new();
    let mut tick = interval(pause);
    for (service, _) in CAST.iter().cycle() {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let (client, totals) = (Arc::clone(&client), Arc::clone(&totals));
        under_way.spawn(async move {
            let start = Instant::now();
            let outcome = client.call(service).await;
            totals.lock().count(outcome, start.elapsed());
        });
    }
    under_way.close();
    under_way.wait().await;
}

/// A client that keeps connections and repeats nothing. The usual ones send a request again by
/// themselves where a kept connection turns out to be closed, and so would hide it here.
pub(super) struct Client {
    proxy: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Client {
    pub(super) fn new(proxy: SocketAddr) -> Self {
        Self {
            proxy,
            idle: Mutex::default(),
        }
    }

    /// One request to a service: the id of the provider that answered, or what went wrong.
    pub(super) async fn call(&self, service: &str) -> Result<String, String> {
        let outcome = timeout(TIMEOUT, self.get(service)).await;
        let judged = match outcome {
            Ok(Ok((status, body))) => judge(service, status, &body),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no answer in {TIMEOUT:?}")),
        };
        judged.map_err(|reason| format!("GET /{service}: {reason}"))
    }

    async fn get(&self, service: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::get(format!("/{service}"))
            .header(HOST, self.proxy.to_string())
            .body(Empty::new())?;
        let mut connection = match self.kept() {
            Some(connection) => connection,
            None => self.connect().await.context("connecting")?,
        };
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if connection.ready().await.is_ok() {
            self.idle.lock().push(connection);
        }
        Ok((status, body))
    }

    fn kept(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock();
        std::iter::from_fn(|| idle.pop()).find(SendRequest::is_ready)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; what goes wrong, the sender says.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Only a 200 from a provider of that very service is an answer.
fn judge(service: &str, status: StatusCode, body: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end();
    if status != StatusCode::OK {
        let status = status.to_string();
        // The proxy's own answers begin with it.
        return Err(match text.starts_with(&status) {
            true => text.to_owned(),
            false => format!("{status}: {text}"),
        });
    }
    let id = text.strip_prefix("hello from ");
    id.filter(|id| id.rsplit_once('-').is_some_and(|(name, _)| name == service))
        .map(str::to_owned)
        .ok_or_else(|| format!("a wrong answer: `{text}`"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn only_a_200_of_that_service_is_an_answer() {
        let answer = |status, body: &str| judge("cart", status, body.as_bytes());
        assert_eq!(
            answer(StatusCode::OK, "hello from cart-2\n"),
            Ok("cart-2".into())
        );
        assert!(answer(StatusCode::OK, "hello from hello-2\n").is_err());
        assert!(answer(StatusCode::OK, "hello from cartoon-2\n").is_err());
        assert!(answer(StatusCode::OK, "").is_err());
        assert!(answer(StatusCode::BAD_GATEWAY, "hello from cart-2\n").is_err());
        for body in ["502 Bad Gateway: why\n", "why\n"] {
            let failure = answer(StatusCode::BAD_GATEWAY, body);
            assert_eq!(failure, Err("502 Bad Gateway: why".to_owned()));
        }
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut totals = Totals::default();
        assert_eq!(totals.percentile(0.5), None);
        for millis in (1..=100).rev() {
            totals.count(Ok("hello-1".into()), Duration::from_millis(millis));
        }
        totals.count(Err("refused".into()), Duration::from_secs(5));
        assert_eq!(totals.percentile(0.5), Some(50.0));
        assert_eq!(totals.percentile(0.99), Some(99.0));
        assert_eq!((totals.sent, totals.failed), (101, 1));
    }

    /// Answers the first request of each connection, and closes on the second instead.
    async fn cuts_every_second_request(seen: Arc<AtomicUsize>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                seen.fetch_add(1, Ordering::SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\nhello from cart-1";
                stream.write_all(answer).await.unwrap();
                assert!(stream.read(&mut request).await.unwrap() > 0);
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
        address
    }

    #[tokio::test]
    async fn a_connection_cut_under_a_request_is_a_failure_and_nothing_is_repeated() {
        let seen = Arc::new(AtomicUsize::new(0));
        let client = Client::new(cuts_every_second_request(Arc::clone(&seen)).await);
        for _ in 0..3 {
            assert_eq!(client.call("cart").await, Ok("cart-1".into()));
            assert!(client.call("cart").await.is_err());
        }
        assert_eq!(seen.load(Ordering::SeqCst), 6);
    }

    #[tokio::test]
    async fn the_load_counts_what_is_refused_and_ends_when_told() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let load = Load::start(address, 1000);
        while load.look(|totals| totals.sent < 10) {
            tokio::task::yield_now().await;
        }
        let totals = load.stop().await;
        assert_eq!(totals.failed, totals.sent);
        assert_eq!(totals.reasons.len(), REASONS);
        assert!(
            totals.reasons[0].contains("refused"),
            "{}",
            totals.reasons[0]
        );
    }
}
