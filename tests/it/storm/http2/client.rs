//! A client of HTTP/2, by the field's library: several requests at once on a connection, each of which may be
//! reset at any moment. The library holds the proxy to the rules; what it cannot say itself is in `breach`.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue, response::Parts};
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    super::{
        client::Client,
        endpoint::Socket,
        oracle::{End, Outcome, Received},
        plan::{Break, Framing, How, Id, Request},
        spoil::Spoilt,
    },
    Conversation,
    wire::{Notes, Wire},
};
use crate::support::{PATIENCE, strict::Head};

/// How long a client waits for a `100` that is not sent to it.
const EXPECTS: Duration = Duration::from_millis(300);

/// One connection, to its end.
pub(in super::super) async fn converse(client: &Client, connection: u64) {
    let plan = client.planner.conversation(client.number, connection);
    if let (Some(breach), None) = (plan.breach, &client.tls) {
        let id = Id::new(client.number, connection, 0);
        return super::breach::commit(client, breach, id).await;
    }
    let Ok(stream) = TcpStream::connect(client.proxy).await else {
        return client.oracle.fault(None, "the proxy takes no connection");
    };
    stream.set_nodelay(true).unwrap();
    let Some(tls) = &client.tls else {
        return exchange(client, stream, connection, &plan).await;
    };
    let name = ServerName::try_from("localhost").unwrap();
    match tls.connect(name, stream).await {
        Ok(stream) => exchange(client, stream, connection, &plan).await,
        Err(error) => {
            let what = format!("a handshake fails: {error}");
            client.oracle.fault(None, &what);
        }
    }
}

async fn exchange(client: &Client, socket: impl Socket, connection: u64, plan: &Conversation) {
    let count = client.planner.requests(client.number, connection);
    let id = |place| Id::new(client.number, connection, place);
    let requests: Vec<_> = (0..count)
        .map(|place| client.planner.request(id(place)))
        .collect();
    let notes = Arc::<Notes>::default();
    let last = 2 * requests.len() as u32 - 1;
    let wire = Wire::of_client(socket, plan.manners, last, Arc::clone(&notes));
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(plan.window)
        // It would be used up by small frames of streams that were reset.
        .data_frame_budget(usize::MAX);
    if !plan.has_table {
        builder.header_table_size(0);
    }
    let Ok((sender, driven)) = builder.handshake::<_, Bytes>(wire).await else {
        if !notes.is_cut() {
            client.oracle.fault(None, "there is no HTTP/2");
        }
        return;
    };
    let talk = Talk {
        client,
        notes: &notes,
        plan,
    };
    let asking = async {
        let asked = requests.iter();
        let asked: Vec<_> = asked
            .map(|request| talk.ask(sender.clone(), request))
            .collect();
        let asked = stream::iter(asked).buffer_unordered(plan.at_once);
        asked.collect::<()>().await;
        // The library takes leave when this was the last of it.
        drop(sender);
    };
    let (ended, ()) = tokio::join!(drive(driven, plan.opens_after_ms), asking);
    if let Err(error) = ended
        && !notes.is_cut()
    {
        let what = format!("a connection of HTTP/2 ends: {error}; {plan:?}");
        client.oracle.fault(requests.last(), &what);
    }
}

/// Drives a connection to its end, whose windows may open later.
async fn drive<S: Socket>(
    mut driven: Connection<Wire<S>, Bytes>,
    opens_after_ms: Option<u64>,
) -> Result<(), h2::Error> {
    let mut opens_after_ms = opens_after_ms;
    while let Some(after) = opens_after_ms {
        tokio::select! {
            ended = &mut driven => return ended,
            () = sleep(Duration::from_millis(after)) => {}
        }
        // Not before its first settings are agreed to.
        let opened = driven.set_initial_window_size(65_535);
        opens_after_ms = opened.is_err().then_some(5);
    }
    driven.await
}

/// A connection's part in its requests.
struct Talk<'c> {
    client: &'c Client,
    notes: &'c Notes,
    plan: &'c Conversation,
}

impl Talk<'_> {
    /// One request and its answer.
    async fn ask(&self, sender: SendRequest<Bytes>, request: &Request) {
        let oracle = &self.client.oracle;
        let over = |error: h2::Error| {
            if !self.notes.is_cut() {
                let what = format!("a connection is over before its requests: {error}");
                oracle.fault(Some(request), &format!("{what}; {:?}", self.plan));
            }
        };
        let mut sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(error) => return over(error),
        };
        oracle.begins(request);
        let is_secured = self.client.tls.is_some();
        let ends = request.framing == Framing::None;
        let (answer, sending) = match sender.send_request(message(request, is_secured), ends) {
            Ok(begun) => begun,
            Err(error) => return over(error),
        };
        let mut reading = pin!(self.read(answer, request));
        let outcome = tokio::select! {
            outcome = &mut reading => outcome,
            is_reset = self.write(sending, request) => match is_reset {
                true => Outcome::Left,
                false => reading.await,
            },
        };
        let excused = self.notes.is_cut() || request.breaks.is_some();
        oracle.judge(request, "", &outcome, excused);
    }

    /// Sends its body. Returns whether the stream is reset.
    async fn write(&self, mut sending: SendStream<Bytes>, request: &Request) -> bool {
        if request.expects {
            sleep(EXPECTS).await;
        }
        if request.framing != Framing::None && self.write_body(&mut sending, request).await.is_err()
        {
            return false;
        }
        let Some(Break {
            how: How::Stream(code),
            ..
        }) = request.breaks
        else {
            return false;
        };
        sleep(Duration::from_millis(request.id.0 % 23)).await;
        sending.send_reset(Reason::from(code));
        true
    }

    async fn write_body(
        &self,
        sending: &mut SendStream<Bytes>,
        request: &Request,
    ) -> Result<(), h2::Error> {
        let length = request.body.len();
        let stop = request.breaks.map_or(usize::MAX, |cut| cut.at);
        let pieces = self.client.planner.pieces(request.id, 0, length, 0);
        // Some say the end with the last piece, and some behind it.
        let with_last = request.id.0 & 1 == 0 && request.trailers().is_empty() && length > 0;
        let mut start = 0;
        for piece in pieces {
            let end = piece.end.min(stop);
            let data = Bytes::copy_from_slice(&request.body[start.min(end)..end]);
            start = end;
            let ends = with_last && end == length && stop > length;
            send(sending, data, ends).await?;
            if piece.pause_ms > 0 {
                sleep(Duration::from_millis(piece.pause_ms)).await;
            }
        }
        match request.trailers() {
            _ if stop <= length || with_last => Ok(()),
            [] => sending.send_data(Bytes::new(), true),
            trailers => sending.send_trailers(map(trailers)),
        }
    }

    async fn read(&self, answer: ResponseFuture, request: &Request) -> Outcome {
        let answer = match timeout(PATIENCE, answer).await {
            Err(_) => return Outcome::Silence(format!("no head; {:?}", self.plan)),
            Ok(Err(error)) => {
                let how = format!("{error}; {:?}", self.plan);
                return Outcome::Nothing(how, Vec::new());
            }
            Ok(Ok(answer)) => answer,
        };
        let (parts, mut source) = answer.into_parts();
        let (head, mut body) = (head(&parts), Vec::new());
        let read = timeout(PATIENCE * 2, read_body(&mut source, request, &mut body)).await;
        let read = match read {
            Err(_) => {
                let plan = self.plan;
                let so_far = format!("{head:?} and {} bytes of its body; {plan:?}", body.len());
                return Outcome::Silence(so_far);
            }
            Ok(Ok(None)) => return Outcome::Left,
            Ok(Ok(Some(trailers))) => Ok(trailers),
            Ok(Err(error)) => Err(error),
        };
        let (trailers, end) = match read {
            Ok(trailers) => (trailers, End::Whole),
            Err(error) => (HeaderMap::new(), End::Cut(error.to_string())),
        };
        Outcome::Answer(Received {
            head,
            body,
            trailers: fields(String::new(), &trailers),
            end,
            doubtful: false,
        })
    }
}

/// Reads to the end, and returns the trailers; or as far as its client wants to.
async fn read_body(
    source: &mut RecvStream,
    request: &Request,
    body: &mut Vec<u8>,
) -> Result<Option<HeaderMap>, h2::Error> {
    let leaves = |body: &Vec<u8>| request.leaves.is_some_and(|cut| body.len() >= cut.at);
    while !leaves(body) {
        let Some(data) = source.data().await else {
            let trailers = poll_fn(|cx| source.poll_trailers(cx)).await?;
            return Ok(Some(trailers.unwrap_or_default()));
        };
        let data = data?;
        body.extend_from_slice(&data);
        if request.sips {
            sleep(Duration::from_millis(1)).await;
        }
        let _ = source.flow_control().release_capacity(data.len());
    }
    Ok(None)
}

/// Sends all of it, as there is room.
pub(super) async fn send(
    sending: &mut SendStream<Bytes>,
    mut data: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        sending.reserve_capacity(data.len());
        while sending.capacity() == 0 {
            match poll_fn(|cx| sending.poll_capacity(cx)).await {
                Some(room) => drop(room?),
                None => return Err(Reason::CANCEL.into()),
            }
        }
        let now = data.split_to(sending.capacity().min(data.len()));
        sending.send_data(now, ends && data.is_empty())?;
    }
    Ok(())
}

/// A request's head.
fn message(request: &Request, is_secured: bool) -> http::Request<()> {
    let scheme = if is_secured { "https" } else { "http" };
    let path = request.route.path();
    let target = match request.spoilt {
        Some(Spoilt::DotSegment) => request
            .target
            .replacen(path, &format!("{path}/../plain"), 1),
        Some(Spoilt::LongTarget) => {
            let long = format!("{path}/{}", "l".repeat(9_000));
            request.target.replacen(path, &long, 1)
        }
        _ => request.target.clone(),
    };
    let uri = match request.spoilt {
        Some(Spoilt::Connect) => "storm.example:80".to_owned(),
        _ => format!("{scheme}://storm.example:80{target}"),
    };
    let mut message = http::Request::builder().method(request.method).uri(uri);
    let length = match request.spoilt {
        Some(Spoilt::TooShort) => request.body.len() + 1,
        Some(Spoilt::TooLong) => request.body.len() - 1,
        _ => request.body.len(),
    };
    for (name, value) in &request.fields {
        message = message.header(name, value);
    }
    message = message.header("x-storm", request.id.to_string());
    if request.takes_trailers {
        message = message.header("te", "trailers");
    }
    if request.expects {
        message = message.header("expect", "100-continue");
    }
    if request.framing == Framing::Length {
        message = message.header("content-length", length);
    }
    message = match request.spoilt {
        Some(Spoilt::TwoHosts) => message.header("host", "other.example"),
        Some(Spoilt::OddExpectation) => message.header("expect", "200-ok"),
        Some(Spoilt::ManyFields) => (0..101).fold(message, |message, _| message.header("a", "b")),
        _ => message,
    };
    message.body(()).unwrap()
}

pub(super) fn map(fields: &[(String, String)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    fields.collect()
}

/// An answer's head, as one of HTTP/1.1 is read.
fn head(parts: &Parts) -> Head {
    fields(format!("HTTP/2 {}", parts.status.as_u16()), &parts.headers)
}

pub(super) fn fields(start: String, headers: &HeaderMap) -> Head {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields = headers.iter();
    let fields = fields.map(|(name, value)| (name.to_string(), text(value)));
    Head {
        start,
        fields: fields.collect(),
    }
}
