//! The answers of the corpus: the client gets the bytes of its own answer, or an error of the proxy's
//! own, or sees that it broke off; and what an endpoint says beyond it is part of no other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use serde::Deserialize;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{bytes, differs, other_trailers, send, text};
use crate::{
    http::before,
    support::{
        PATIENCE,
        strict::{Broken, Framed, Head, Reader},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it is.
    name: String,
    /// The client's method.
    #[serde(default = "get")]
    asks: String,
    /// By the endpoint.
    says: String,
    /// Whether the endpoint closes its connection behind it.
    #[serde(default)]
    ends: bool,
    /// Whether it is sent in one piece alone.
    #[serde(default)]
    whole: bool,
    /// The status that the client gets.
    #[serde(default = "ok")]
    gets: u16,
    /// The whole status line.
    start: Option<String>,
    #[serde(default)]
    has: Vec<String>,
    #[serde(default)]
    lacks: Vec<String>,
    body: Option<String>,
    /// `name: value` of all trailers.
    trailers: Option<Vec<String>>,
    /// Whether the client sees that it broke off.
    #[serde(default)]
    cut: bool,
    /// Whether the endpoint's connection takes the next request; where it is left out, wherever the
    /// answer was sound and whole.
    keeps: Option<bool>,
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> u16 {
    200
}

#[derive(Deserialize)]
struct Corpus {
    case: Vec<Case>,
}

impl Case {
    fn keeps(&self) -> bool {
        let own = self.gets == 502;
        self.keeps.unwrap_or(!(self.ends || self.cut || own))
    }
}

/// Answers `/cart/N` as the case N says, in pieces where a `p` stands behind it, and others with the
/// number of the connection.
async fn serve(stream: TcpStream, cases: &[Case], number: usize) -> Result<(), Broken> {
    let mut reader = Reader::new(stream);
    while let Some(head) = reader.head().await? {
        let target = head.start.split(' ').nth(1).unwrap_or_default();
        let name = target.trim_start_matches("/cart/");
        let Ok(place) = name.trim_end_matches('p').parse::<usize>() else {
            let body = number.to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            reader.source().write_all(answer.as_bytes()).await?;
            continue;
        };
        let case = &cases[place];
        send(reader.source(), &bytes(&case.says), name.ends_with('p')).await;
        if case.ends {
            return Ok(());
        }
    }
    Ok(())
}

/// What a client got for a request.
#[derive(Default)]
struct Got {
    head: Head,
    body: Vec<u8>,
    trailers: Head,
}

async fn ask(reader: &mut Reader<TcpStream>, method: &str, target: &str) -> Result<Got, Broken> {
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    reader.source().write_all(request.as_bytes()).await?;
    let mut got = Got {
        head: reader.head().await?.ok_or(Broken::Ended)?,
        ..Got::default()
    };
    let status = got.head.start.split(' ').nth(1).unwrap_or_default();
    if method == "HEAD" || ["204", "304"].contains(&status) {
        return Ok(got);
    }
    match got.head.framed()? {
        Framed::Length(length) => reader.exact(length, &mut got.body).await?,
        Framed::Chunked => got.trailers = reader.chunks(&mut got.body).await?,
        Framed::Unsaid => reader.rest(&mut got.body).await?,
    }
    Ok(got)
}

/// The number of the endpoint's connection that the next request goes out on.
async fn next(reader: &mut Reader<TcpStream>) -> Result<usize, Broken> {
    let got = ask(reader, "GET", "/cart/next").await?;
    let body = String::from_utf8_lossy(&got.body).into_owned();
    body.parse()
        .map_err(|_| Broken::Malformed(format!("{body:?} is the next answer")))
}

/// What is wrong with what came for a case.
fn wrong(case: &Case, got: Result<Got, Broken>) -> Vec<String> {
    let got = match (got, case.cut) {
        (Err(Broken::Ended | Broken::Error(_)), true) => return Vec::new(),
        (Err(broken), _) => return vec![format!("the client's answer is {broken:?}")],
        (Ok(_), true) => return vec!["the client's answer is whole".to_owned()],
        (Ok(got), false) => got,
    };
    let mut wrong = differs(&got.head, &case.has, &case.lacks);
    let status = format!("HTTP/1.1 {} ", case.gets);
    let start = case.start.as_deref().map(text);
    let is = match &start {
        Some(start) => got.head.start == *start,
        None => got.head.start.starts_with(&status),
    };
    if !is {
        wrong.push(format!("{:?} came", got.head.start));
    }
    // The proxy's own answers have words of their own.
    if case.gets != 502 && got.body != bytes(case.body.as_deref().unwrap_or_default()) {
        let body = String::from_utf8_lossy(&got.body);
        wrong.push(format!("the body is {body:?}"));
    }
    wrong.extend(other_trailers(&got.trailers, case.trailers.as_deref()));
    wrong
}

async fn hold(
    proxy: std::net::SocketAddr,
    case: &Case,
    target: &str,
) -> Result<Vec<String>, Broken> {
    let mut reader = Reader::new(TcpStream::connect(proxy).await?);
    let before = next(&mut reader).await?;
    let got = ask(&mut reader, &case.asks, target).await;
    if got.is_err() {
        reader = Reader::new(TcpStream::connect(proxy).await?);
    }
    let mut said = wrong(case, got);
    let behind = next(&mut reader).await?;
    if (before == behind) != case.keeps() {
        said.push(format!(
            "the next request goes out on connection {behind}, behind {before}"
        ));
    }
    Ok(said)
}

#[tokio::test]
async fn each_answer_reaches_its_own_client_whole_or_is_seen_to_break_off() {
    let corpus: Corpus = toml::from_str(include_str!("../../../corpus/answers.toml")).unwrap();
    assert!(corpus.case.len() >= 60, "{}", corpus.case.len());
    let cases = Arc::new(corpus.case);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (served, connections) = (Arc::clone(&cases), AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (cases, number) = (Arc::clone(&served), connections.fetch_add(1, Relaxed));
            tokio::spawn(async move {
                // The proxy ends a connection whenever it likes.
                let _ = serve(stream, &cases, number).await;
            });
        }
    });
    // One attempt: what a second one brings is not the subject.
    let proxy = before(address, "[service.cart]\nretry.attempts = 1\n").await;
    let mut failed = Vec::new();
    for (place, case) in cases.iter().enumerate() {
        for (how, piece) in [("whole", ""), ("byte by byte", "p")] {
            if case.whole && !piece.is_empty() {
                continue;
            }
            let target = format!("/cart/{place}{piece}");
            let held = timeout(PATIENCE, hold(proxy.address(), case, &target)).await;
            let said = match held {
                Ok(Ok(said)) => said,
                Ok(Err(broken)) => vec![format!("around it: {broken:?}")],
                Err(_) => vec!["the client waits in vain".to_owned()],
            };
            if !said.is_empty() {
                failed.push(format!("{} ({how}): {}", case.name, said.join("; ")));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
