//! A Consul that says what a test tells it to, right or wrong, and notes what it was asked.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// One scripted answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Status, headers, body.
    Send(u16, Vec<(&'static str, String)>, String),
    /// The request is taken, and never answered.
    Hang,
}

impl Answer {
    /// As Consul answers.
    pub(crate) fn good(index: u64, body: impl ToString) -> Self {
        Self::with_index(&index.to_string(), body)
    }

    /// A 200 with anything for an index.
    pub(crate) fn with_index(index: &str, body: impl ToString) -> Self {
        let headers = vec![("X-Consul-Index", index.to_owned())];
        Self::Send(200, headers, body.to_string())
    }

    /// A refusal.
    pub(crate) fn error(status: u16, body: &str) -> Self {
        Self::Send(status, Vec::new(), body.to_owned())
    }

    /// A refusal that says when to come back.
    pub(crate) fn retry_after(status: u16, seconds: u64) -> Self {
        let headers = vec![("Retry-After", seconds.to_string())];
        Self::Send(status, headers, "slow down".to_owned())
    }
}

/// How an answer goes out that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    AtOnce,
    /// After so long, or at once from when that is the pace again.
    Late(Duration),
    /// The head at once, and the body little by little over so long.
    Trickling(Duration),
}

/// The pieces of a body that trickles.
const PIECES: usize = 50;

/// One request that it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Path and query, as they came.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) at: Instant,
}

impl Asked {
    /// The query's parameters, in their order.
    pub(crate) fn parameters(&self) -> Vec<(String, String)> {
        let url = reqwest::Url::parse("http://fake").unwrap();
        let url = url.join(&self.target).unwrap();
        url.query_pairs().into_owned().collect()
    }

    fn index(&self) -> Option<u64> {
        let mut parameters = self.parameters().into_iter();
        parameters.find_map(|(key, value)| (key == "index").then(|| value.parse().ok())?)
    }
}

/// What it does when the script is over.
#[derive(Clone, Debug)]
enum SignedIn {
    Hang,
    /// This answer, to everyone and at once.
    Always(Answer),
    /// As Consul does: at once, but to those that know this index already.
    Holds {
        index: u64,
        body: String,
    },
}

struct Book {
    script: VecDeque<Answer>,
    asked: Vec<Asked>,
    answered: usize,
}

struct Shared {
    book: Mutex<Book>,
    standing: watch::Sender<SignedIn>,
    pace: watch::Sender<Pace>,
}

pub(crate) struct FakeConsul {
    url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl FakeConsul {
    /// Gives these answers in turn; after the last it hangs, as Consul does where nothing changes.
    pub(crate) async fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let book = Book {
            script: script.into_iter().collect(),
            asked: Vec::new(),
            answered: 0,
        };
        let shared = Arc::new(Shared {
            book: Mutex::new(book),
            standing: watch::Sender::new(SignedIn::Hang),
            pace: watch::Sender::new(Pace::AtOnce),
        });
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            shared,
            server,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What it was asked up to now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        open(&self.shared.book).asked.clone()
    }

    /// How many answers it has given.
    pub(crate) fn answered(&self) -> usize {
        open(&self.shared.book).answered
    }

    /// From now on this is the state, of which those who wait are told.
    pub(crate) fn holds(&self, index: u64, body: impl ToString) {
        let body = body.to_string();
        let standing = SignedIn::Holds { index, body };
        self.shared.standing.send_replace(standing);
    }

    /// From now on everyone is answered so, those who wait too.
    pub(crate) fn always(&self, answer: Answer) {
        let standing = match answer {
            Answer::Hang => SignedIn::Hang,
            answer => SignedIn::Always(answer),
        };
        self.shared.standing.send_replace(standing);
    }

    /// From now on answers go out like this, whatever they say.
    pub(crate) fn at_pace(&self, pace: Pace) {
        self.shared.pace.send_replace(pace);
    }
}

impl Drop for FakeConsul {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An instance without checks, as `/v1/health/service/…` lists it.
pub(crate) fn entry(service: &str, address: SocketAddr) -> Value {
    json!({
        "Node": {"Node": "n", "Address": "127.0.0.1"},
        "Service": {
            "ID": address.to_string(), "Service": service,
            "Address": address.ip(), "Port": address.port(),
        },
        "Checks": [],
    })
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let asked = Asked {
        target: request.uri().to_string(),
        headers: request.headers().clone(),
        at: Instant::now(),
    };
    let known = asked.index();
    let answer = {
        let mut book = open(&shared.book);
        book.asked.push(asked);
        book.script.pop_front()
    };
    let answer = match answer {
        Some(answer) => answer,
        None => shared.stand(known).await,
    };
    let Answer::Send(status, headers, body) = answer else {
        return std::future::pending().await;
    };
    let body = shared.paced(body).await;
    open(&shared.book).answered += 1;
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        let value = value.parse().unwrap();
        response.headers_mut().insert(name, value);
    }
    response
}

impl Shared {
    /// The standing answer to one who knows this index, when it is due.
    async fn stand(&self, known: Option<u64>) -> Answer {
        let mut standing = self.standing.subscribe();
        let due = |standing: &SignedIn| match standing {
            SignedIn::Hang => false,
            SignedIn::Always(_) => true,
            SignedIn::Holds { index, .. } => known != Some(*index),
        };
        // Its sender lives as long as the server does.
        match &*standing.wait_for(due).await.unwrap() {
            SignedIn::Hang => Answer::Hang,
            SignedIn::Always(answer) => answer.clone(),
            SignedIn::Holds { index, body } => Answer::good(*index, body),
        }
    }

    /// The body of an answer that may go out now.
    async fn paced(&self, body: String) -> Body {
        let mut pace = self.pace.subscribe();
        let at_first = *pace.borrow();
        match at_first {
            Pace::AtOnce => body.into(),
            Pace::Late(time) => {
                // Either is when it goes out.
                let _ = timeout(time, pace.wait_for(|pace| *pace == Pace::AtOnce)).await;
                body.into()
            }
            Pace::Trickling(time) => trickling(body.into(), time),
        }
    }
}

fn trickling(body: Bytes, time: Duration) -> Body {
    let size = body.len().div_ceil(PIECES).max(1);
    let starts = (0..body.len()).step_by(size);
    let pause = time / body.len().div_ceil(size).max(1) as u32;
    let pieces = stream::iter(starts).then(move |start| {
        let piece = body.slice(start..body.len().min(start + size));
        async move {
            sleep(pause).await;
            Ok::<_, Infallible>(piece)
        }
    });
    Body::from_stream(pieces)
}

fn open(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap()
}
