//! A Consul that says what a test tells it to, right or wrong, and notes what it was asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

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
}

#[derive(Default)]
struct Book {
    script: VecDeque<Answer>,
    asked: Vec<Asked>,
}

pub(crate) struct FakeConsul {
    url: String,
    book: Arc<Mutex<Book>>,
    server: JoinHandle<()>,
}

impl FakeConsul {
    /// Gives these answers in turn; after the last it hangs, as Consul does where nothing changes.
    pub(crate) async fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let book = Arc::new(Mutex::new(Book {
            script: script.into_iter().collect(),
            asked: Vec::new(),
        }));
        let app = Router::new().fallback(answer).with_state(book.clone());
        let server = tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        Self { url, book, server }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What it was asked up to now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        open(&self.book).asked.clone()
    }
}

impl Drop for FakeConsul {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(book): State<Arc<Mutex<Book>>>, request: Request) -> Response {
    let answer = {
        let mut book = open(&book);
        book.asked.push(Asked {
            target: request.uri().to_string(),
            headers: request.headers().clone(),
            at: Instant::now(),
        });
        book.script.pop_front()
    };
    let Some(Answer::Send(status, headers, body)) = answer else {
        return std::future::pending().await;
    };
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        let value = value.parse().unwrap();
        response.headers_mut().insert(name, value);
    }
    response
}

fn open(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap()
}
