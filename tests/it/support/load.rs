//! An open-loop load that a client makes which never repeats a request, what that client saw, and
//! what the backends did of it. Knows only the proxy's address.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::backend::{Backend, Setup};

/// A request without an answer for this long has failed. Many times what a busy machine may stall.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Requests that are under way at one time: a machine that cannot bear the rate is not buried under it.
const MOST: usize = 1_000;
/// How long the other side of a connection that was closed may take to close its own. It learns of the
/// close when it looks at the connection again.
const LINGER: Duration = Duration::from_secs(2);
/// One POST in so many may cross the end of its connection, which takes a chance of microseconds. A proxy
/// that does not look whether a kept connection was closed loses more.
const CROSSING: usize = 200;
/// The time that a load lasts at least.
const SHORTEST: Duration = Duration::from_secs(1);
/// Failures that are printed in words.
const REASONS: usize = 5;
/// One request of so many is a POST.
const POSTS: u64 = 10;
/// The bytes that a POST carries after its id.
const FILLER: &str = " and a body that is worth the name: 0123456789 0123456789 0123456789";

/// Loads at one time: more than the machine can bear would be slow, and not wrong.
static TURN: Semaphore = Semaphore::const_new(2);

/// What backends did of the POSTs that they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// How often each that a backend has read to its end was processed.
    processed: Arc<Mutex<BTreeMap<u64, usize>>>,
    /// Those that came to a connection behind its end. A backend cannot close a connection and be sure
    /// that none comes, and a proxy cannot send such a POST again.
    crossed: Arc<Mutex<BTreeSet<u64>>>,
    /// The connections to which one may still come.
    left: TaskTracker,
}

impl Ledger {
    /// A backend that works for a few milliseconds, answers a POST with its body and anything else
    /// with its path, and notes here the POSTs that it has processed.
    pub(crate) fn backend(&self, id: &str) -> Setup {
        let (ledger, watch) = (self.clone(), self.clone());
        Backend::named(id)
            .answering(move |request| {
                let ledger = ledger.clone();
                async move { process(request, |id| ledger.note(id)).await }
            })
            .leaving_sockets_to(move |socket| watch.watch(socket))
    }

    /// Notes a POST that was processed elsewhere.
    pub(crate) fn note(&self, id: u64) {
        let mut processed = self.processed.lock().unwrap();
        *processed.entry(id).or_default() += 1;
    }

    fn times(&self, id: u64) -> usize {
        let processed = self.processed.lock().unwrap();
        processed.get(&id).copied().unwrap_or_default()
    }

    /// Reads what comes behind a connection's end, until the other side has closed it, too.
    fn watch(&self, socket: std::net::TcpStream) {
        let crossed = Arc::clone(&self.crossed);
        self.left.spawn(async move {
            let mut socket = TcpStream::from_std(socket).unwrap();
            let mut bytes = Vec::new();
            let reading = socket.read_to_end(&mut bytes);
            // A reset says no more than a close.
            let _ = tokio::time::timeout(LINGER, reading).await;
            crossed.lock().unwrap().extend(post_in(&bytes));
        });
    }

    /// Those that crossed the end of their connection.
    async fn crossed(&self) -> BTreeSet<u64> {
        self.left.close();
        self.left.wait().await;
        self.crossed.lock().unwrap().clone()
    }
}

/// What a backend under load does with a request.
pub(crate) async fn process(request: Request<Incoming>, note: impl FnOnce(u64)) -> Bytes {
    let path = request.uri().path().to_owned();
    let is_post = request.method() == Method::POST;
    let Ok(body) = request.into_body().collect().await else {
        return Bytes::new();
    };
    let body = body.to_bytes();
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..4))).await;
    if !is_post {
        return path.into();
    }
    if let Some(id) = id_in(&body) {
        note(id);
    }
    body
}

fn id_in(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// The id of the POST that begins here.
fn post_in(request: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(request).ok()?;
    let (path, _) = text.strip_prefix("POST ")?.split_once(' ')?;
    path.rsplit('/').next()?.parse().ok()
}

/// Requests at a steady rate, whatever becomes of them.
pub(crate) struct Load {
    stop: CancellationToken,
    sending: JoinHandle<Vec<Outcome>>,
    started: Instant,
    _turn: SemaphorePermit<'static>,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) method: Method,
    pub(crate) id: u64,
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
    /// Why a client that does not repeat requests calls it failed.
    pub(crate) failure: Option<String>,
}

impl Load {
    /// So many requests a second to what is below `path`, one of ten a POST, in its turn.
    pub(crate) async fn start(proxy: SocketAddr, path: &str, per_second: u32) -> Self {
        Self::start_from(proxy, path, per_second, 0).await
    }

    /// The same, with ids from there.
    pub(crate) async fn start_from(
        proxy: SocketAddr,
        path: &str,
        per_second: u32,
        first: u64,
    ) -> Self {
        let turn = TURN.acquire().await.unwrap();
        let stop = CancellationToken::new();
        let client = Arc::new(Client::new(proxy, path).numbered_from(first));
        let pause = Duration::from_secs(1) / per_second;
        Self {
            sending: tokio::spawn(send(client, pause, stop.clone())),
            stop,
            started: Instant::now(),
            _turn: turn,
        }
    }

    /// Sends no more, waits for the answers that are due, and says what came of all.
    pub(crate) async fn stop(self, ledger: &Ledger) -> Report {
        Report::new(self.end().await, ledger).await
    }

    /// The same, for a ledger that is not whole yet. A scenario that was quick lasts a little
    /// longer, since too little load could not tell.
    pub(crate) async fn end(self) -> Vec<Outcome> {
        tokio::time::sleep_until(self.started + SHORTEST).await;
        self.stop.cancel();
        self.sending.await.unwrap()
    }
}

async fn send(client: Arc<Client>, pause: Duration, stop: CancellationToken) -> Vec<Outcome> {
    let outcomes = Arc::<Mutex<Vec<_>>>::default();
    let under_way = TaskTracker::new();
    let mut tick = tokio::time::interval(pause);
    // What a machine that stands still has missed is not made up for in a burst.
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if under_way.len() >= MOST {
            continue;
        }
        let (client, outcomes) = (Arc::clone(&client), Arc::clone(&outcomes));
        under_way.spawn(async move {
            let outcome = client.call_next().await;
            outcomes.lock().unwrap().push(outcome);
        });
    }
    under_way.close();
    under_way.wait().await;
    std::mem::take(&mut *outcomes.lock().unwrap())
}

/// Keeps connections, and repeats nothing. The usual clients send a request again by themselves
/// where a kept connection turns out to be closed, and so would hide it here.
pub(crate) struct Client {
    proxy: SocketAddr,
    path: String,
    next: AtomicU64,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// Of what is below `path`.
    pub(crate) fn new(proxy: SocketAddr, path: &str) -> Self {
        Self {
            proxy,
            path: path.to_owned(),
            next: AtomicU64::default(),
            idle: Mutex::default(),
        }
    }

    /// The same, with ids from there.
    pub(crate) fn numbered_from(mut self, first: u64) -> Self {
        self.next = AtomicU64::new(first);
        self
    }

    /// The next request, one of ten a POST.
    pub(crate) async fn call_next(&self) -> Outcome {
        let method = match self.next.load(Relaxed) % POSTS {
            0 => Method::POST,
            _ => Method::GET,
        };
        self.call(method).await
    }

    /// One request, with an id of its own.
    pub(crate) async fn call(&self, method: Method) -> Outcome {
        let id = self.next.fetch_add(1, Relaxed);
        let body = if method == Method::POST {
            format!("{id}{FILLER}")
        } else {
            String::new()
        };
        let wanted = if method == Method::POST {
            body.clone()
        } else {
            format!("/{id}")
        };
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("{}/{id}", self.path))
            .header(HOST, self.proxy.to_string())
            .body(Full::new(body.into()))
            .unwrap();
        let sent = Instant::now();
        let failure = match tokio::time::timeout(TIMEOUT, self.exchange(request)).await {
            Err(_) => Some(format!("no answer in {TIMEOUT:?}")),
            Ok(Err(error)) => Some(error),
            Ok(Ok((StatusCode::OK, _, body))) if body == wanted => None,
            Ok(Ok((status, headers, body))) => Some(format!("{status} {headers:?} {body:?}")),
        };
        Outcome {
            method,
            id,
            sent,
            ended: Instant::now(),
            failure,
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let mut connection = match self.kept() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = connection.send_request(request).await;
        let (head, body) = answer.map_err(|error| in_words(&error))?.into_parts();
        let body = body.collect().await.map_err(|error| in_words(&error))?;
        if connection.ready().await.is_ok() {
            self.idle.lock().unwrap().push(connection);
        }
        Ok((head.status, head.headers, body.to_bytes()))
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap();
        std::iter::from_fn(|| idle.pop()).find(SendRequest::is_ready)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(self.proxy).await;
        let stream = stream.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        // It ends with its sender; what goes wrong, the sender says.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// What came of a load.
pub(crate) struct Report {
    pub(crate) sent: usize,
    pub(crate) posts: usize,
    pub(crate) failed: Vec<Outcome>,
    /// POSTs that failed since they crossed the end of their connection.
    pub(crate) crossed: usize,
    /// POSTs that were processed more than once.
    pub(crate) duplicates: Vec<u64>,
    /// POSTs that were answered well, and that nobody has processed.
    pub(crate) unprocessed: Vec<u64>,
    pub(crate) longest: Duration,
}

impl Report {
    pub(crate) async fn new(outcomes: Vec<Outcome>, ledger: &Ledger) -> Self {
        let crossed = ledger.crossed().await;
        let took = |outcome: &Outcome| outcome.ended - outcome.sent;
        let is_post = |outcome: &&Outcome| outcome.method == Method::POST;
        let posts: Vec<_> = outcomes.iter().filter(is_post).collect();
        let ids = |bad: &dyn Fn(&Outcome, usize) -> bool| {
            let bad = posts.iter().filter(|post| bad(post, ledger.times(post.id)));
            bad.map(|post| post.id).collect()
        };
        let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some());
        let (crossed, failed): (Vec<_>, Vec<_>) = failed
            .cloned()
            .partition(|outcome| is_post(&outcome) && crossed.contains(&outcome.id));
        Self {
            sent: outcomes.len(),
            posts: posts.len(),
            failed,
            crossed: crossed.len(),
            duplicates: ids(&|_, times| times > 1),
            unprocessed: ids(&|post, times| post.failure.is_none() && times == 0),
            longest: outcomes.iter().map(took).max().unwrap_or_default(),
        }
    }

    /// Prints it, and fails the test where a request failed or a POST was processed other than
    /// once.
    #[track_caller]
    pub(crate) fn assert_flawless(&self, scenario: &str) {
        self.assert_flawless_but_for_closes(scenario);
        assert_eq!(self.crossed, 0, "{scenario}: {self}");
    }

    /// The same where backends have closed kept connections on their own: a POST may have crossed that.
    #[track_caller]
    pub(crate) fn assert_flawless_but_for_closes(&self, scenario: &str) {
        self.assert_nothing_twice(scenario);
        assert!(self.failed.is_empty(), "{scenario}: {self}");
    }

    /// The same, but requests may have failed.
    #[track_caller]
    pub(crate) fn assert_nothing_twice(&self, scenario: &str) {
        println!("{scenario}: {self}");
        assert!(self.sent > 0, "{scenario}: nothing was sent");
        let most = 1 + self.posts / CROSSING;
        assert!(
            self.crossed <= most,
            "{scenario}: is a connection looked at before it is used? {self}"
        );
        assert!(self.duplicates.is_empty(), "{scenario}: {self}");
        assert!(self.unprocessed.is_empty(), "{scenario}: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            posts,
            failed,
            crossed,
            duplicates,
            unprocessed,
            longest,
        } = self;
        write!(
            f,
            "{} failed of {sent} sent ({posts} POSTs, {crossed} of them sent into a close, {} processed twice, {} answered and not processed), the slowest in {longest:.0?}",
            failed.len(),
            duplicates.len(),
            unprocessed.len(),
        )?;
        for outcome in failed.iter().take(REASONS) {
            let Outcome {
                method,
                id,
                sent,
                ended,
                failure,
            } = outcome;
            let why = failure.as_deref().unwrap_or_default();
            write!(f, "\n  {method} {id} after {:.1?}: {why}", *ended - *sent)?;
        }
        Ok(())
    }
}
