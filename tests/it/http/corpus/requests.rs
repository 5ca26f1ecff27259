//! The requests of the corpus: what is sent upstream parses again to exactly the requests that were
//! routed, and the client gets the bytes of its own answers and of no other.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde::Deserialize;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{bytes, differs, other_trailers, send, text};
use crate::http::before;
use crate::support::{
    PATIENCE,
    strict::{Broken, Framed, Head, Reader},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it is.
    name: String,
    /// Of the proxy, beside the route `/cart`.
    #[serde(default)]
    config: String,
    /// By the client, on a connection of its own.
    sends: String,
    /// Whether it is sent in one piece alone.
    #[serde(default)]
    whole: bool,
    /// The status of each answer; 200 for each that arrives, where it is left out.
    gets: Option<Vec<u16>>,
    /// Whether the first answer is one to HEAD.
    #[serde(default)]
    head: bool,
    /// What becomes of the connection behind the last answer. Where it is left out it stays open
    /// behind a 200 and is closed behind another status.
    then: Option<Then>,
    /// What the endpoint gets, and nothing else.
    #[serde(default)]
    arrives: Vec<Arrival>,
    /// Whether a request may arrive in part, and break off.
    #[serde(default)]
    cut: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Then {
    Open,
    Close,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrival {
    /// The first line.
    start: String,
    /// `name: value` of fields, with all values that there are of a name. One that ends with `…` may
    /// go on.
    #[serde(default)]
    has: Vec<String>,
    /// Names of fields that are not there.
    #[serde(default)]
    lacks: Vec<String>,
    body: Option<String>,
    /// `name: value` of all trailers.
    trailers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Corpus {
    case: Vec<Case>,
}

/// A request as it came to the endpoint.
#[derive(Debug)]
struct Arrived {
    head: Head,
    body: Vec<u8>,
    trailers: Head,
}

#[derive(Default)]
struct Log {
    arrived: Vec<Arrived>,
    broken: Vec<Broken>,
}

/// An endpoint that reads strictly, and answers with the target of each request.
struct Endpoint {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::<Mutex<Log>>::default();
        let notes = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let notes = Arc::clone(&notes);
                tokio::spawn(async move {
                    if let Err(broken) = serve(stream, &notes).await {
                        notes.lock().unwrap().broken.push(broken);
                    }
                });
            }
        });
        Self { address, log }
    }

    /// The requests that arrived since this was asked last.
    fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut self.log.lock().unwrap().arrived)
    }

    /// How requests broke off that did not come to their end.
    fn broken(&self) -> Vec<Broken> {
        std::mem::take(&mut self.log.lock().unwrap().broken)
    }
}

async fn serve(stream: TcpStream, log: &Mutex<Log>) -> Result<(), Broken> {
    let mut reader = Reader::new(stream);
    while let Some(head) = reader.head().await? {
        let mut request = Arrived {
            head,
            body: Vec::new(),
            trailers: Head::default(),
        };
        match request.head.framed()? {
            Framed::Length(length) => reader.exact(length, &mut request.body).await?,
            Framed::Chunked => request.trailers = reader.chunks(&mut request.body).await?,
            Framed::Unsaid => {}
        }
        let target = request.head.start.split(' ').nth(1).unwrap_or_default();
        let body = match request.head.start.starts_with("HEAD ") {
            true => "",
            false => target,
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            target.len()
        );
        log.lock().unwrap().arrived.push(request);
        reader.source().write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// A final answer's status and body.
async fn answer(
    reader: &mut Reader<&mut TcpStream>,
    is_to_head: bool,
) -> Result<Option<(u16, Vec<u8>)>, Broken> {
    loop {
        let Some(head) = reader.head().await? else {
            return Ok(None);
        };
        let status = head.start.split(' ').nth(1).unwrap().parse().unwrap();
        if (100..200).contains(&status) {
            continue;
        }
        let mut body = Vec::new();
        if !is_to_head && status != 204 {
            match head.framed()? {
                Framed::Length(length) => reader.exact(length, &mut body).await?,
                Framed::Chunked => drop(reader.chunks(&mut body).await?),
                Framed::Unsaid => reader.rest(&mut body).await?,
            }
        }
        return Ok(Some((status, body)));
    }
}

const NEXT: &[u8] = b"GET /cart/next HTTP/1.1\r\nHost: a\r\n\r\n";

/// What a client got, and whether the connection took another request behind it.
async fn exchange(
    proxy: SocketAddr,
    case: &Case,
    statuses: usize,
    in_pieces: bool,
) -> Result<(Vec<(u16, Vec<u8>)>, Then), Broken> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    send(&mut stream, &bytes(&case.sends), in_pieces).await;
    let mut reader = Reader::new(&mut stream);
    let mut got = Vec::new();
    while got.len() < statuses {
        match answer(&mut reader, case.head && got.is_empty()).await? {
            Some(answer) => got.push(answer),
            None => return Ok((got, Then::Close)),
        }
    }
    // Whatever comes behind the answers must be the answer to this.
    let asked = reader.source().write_all(NEXT).await;
    let next = match asked {
        Ok(()) => answer(&mut reader, false).await,
        Err(error) => Err(error.into()),
    };
    match next {
        Ok(Some((200, body))) if body == b"/cart/next" => Ok((got, Then::Open)),
        Ok(None) | Err(Broken::Error(_)) => Ok((got, Then::Close)),
        other => panic!("{}: behind its answers: {other:?}", case.name),
    }
}

/// What differs between what should arrive and what did.
fn other(wants: &Arrival, came: &Arrived) -> Vec<String> {
    let mut wrong = differs(&came.head, &wants.has, &wants.lacks);
    if came.head.start != text(&wants.start) {
        wrong.push(format!("{:?} came", came.head.start));
    }
    if came.body != bytes(wants.body.as_deref().unwrap_or_default()) {
        let body = String::from_utf8_lossy(&came.body);
        wrong.push(format!("the body is {body:?}"));
    }
    wrong.extend(other_trailers(&came.trailers, wants.trailers.as_deref()));
    wrong
}

/// What is wrong with a case, in words.
async fn hold(proxy: SocketAddr, endpoint: &Endpoint, case: &Case, in_pieces: bool) -> Vec<String> {
    let statuses = case.gets.clone();
    let statuses = statuses.unwrap_or_else(|| vec![200; case.arrives.len()]);
    let then = case.then.unwrap_or(match statuses.last() {
        Some(200) => Then::Open,
        _ => Then::Close,
    });
    let exchanged = exchange(proxy, case, statuses.len(), in_pieces);
    let exchanged = timeout(PATIENCE, exchanged).await;
    let mut wrong = Vec::new();
    match exchanged {
        Err(_) => wrong.push("the client waits in vain".to_owned()),
        Ok(Err(broken)) => wrong.push(format!("the client's answer is {broken:?}")),
        Ok(Ok((got, became))) => {
            let got_statuses: Vec<_> = got.iter().map(|(status, _)| *status).collect();
            if got_statuses != statuses {
                wrong.push(format!("the client got {got_statuses:?}"));
            }
            if became != then {
                wrong.push(format!("the connection behind it: {became:?}"));
            }
            let own = got.iter().filter(|(status, _)| *status == 200);
            let targets = case.arrives.iter().map(|arrival| text(&arrival.start));
            for ((_, body), start) in own.zip(targets) {
                let target = start.split(' ').nth(1).unwrap_or_default();
                if !case.head && body != target.as_bytes() {
                    wrong.push(format!("{:?} is the answer", String::from_utf8_lossy(body)));
                }
            }
        }
    }
    let mut arrived = endpoint.take();
    if then == Then::Open
        && arrived
            .pop_if(|last| last.head.start.starts_with("GET /cart/next "))
            .is_none()
    {
        wrong.push("the next request did not arrive as the last".to_owned());
    }
    if arrived.len() != case.arrives.len() {
        let starts: Vec<_> = arrived.iter().map(|one| &one.head.start).collect();
        wrong.push(format!("there arrived {starts:?}"));
    }
    for (wants, came) in case.arrives.iter().zip(&arrived) {
        wrong.extend(other(wants, came));
    }
    wrong
}

#[tokio::test]
async fn each_request_arrives_as_the_one_that_was_routed_or_not_at_all() {
    let corpus: Corpus = toml::from_str(include_str!("../../../corpus/requests.toml")).unwrap();
    assert!(corpus.case.len() >= 200, "{}", corpus.case.len());
    let mut by_config = BTreeMap::<&str, Vec<&Case>>::new();
    for case in &corpus.case {
        by_config.entry(&case.config).or_default().push(case);
    }
    let mut wrong = Vec::new();
    for (config, cases) in by_config {
        let endpoint = Endpoint::start().await;
        let proxy = before(endpoint.address, config).await;
        let mut may_break = 0;
        for case in cases {
            for in_pieces in [false, true] {
                if in_pieces && case.whole {
                    continue;
                }
                may_break += usize::from(case.cut);
                let said = hold(proxy.address(), &endpoint, case, in_pieces).await;
                if !said.is_empty() {
                    let how = if in_pieces { "byte by byte" } else { "whole" };
                    wrong.push(format!("{} ({how}): {}", case.name, said.join("; ")));
                }
            }
        }
        // Nothing arrives late, and what broke off was a beginning of what may break off.
        proxy.drain().await;
        let late = endpoint.take();
        if !late.is_empty() {
            wrong.push(format!("late: {late:?}"));
        }
        let broken = endpoint.broken();
        let is_malformed = |broken: &Broken| matches!(broken, Broken::Malformed(_));
        if broken.iter().any(is_malformed) || broken.len() > may_break {
            wrong.push(format!("{broken:?}, of which {may_break} may break off"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
