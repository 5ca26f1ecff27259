//! A client: makes the requests of one connection after the other as planned, reads what comes for
//! each, and hands it to the oracle.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, split},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    draw::Planner,
    http2,
    oracle::{End, Oracle, Outcome, Received},
    pieces,
    plan::{Break, How, Id, PIPELINED, Passage, Request},
    spoil::Spoilt,
};
use crate::support::{
    PATIENCE,
    strict::{Broken, Framed, Head, Reader},
};

/// What a reader says whose patience has ended.
const SILENCE: Broken = Broken::Error(io::ErrorKind::TimedOut);

/// How far a conversation is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// So many answers were read to their end.
    answered: usize,
    /// The one behind those may be sent its body.
    goes_on: bool,
    /// No other request will be answered.
    closing: bool,
    /// Its client has closed its sending side.
    half: bool,
    /// Its connection has gone over to another protocol.
    switched: bool,
    /// All that it had to say in a tunnel is sent.
    passed: bool,
    /// Writing has failed: a reset is told once, and reading goes on to what looks like an end.
    broken: bool,
}

/// How a side of a conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Broken(How),
}

pub(super) struct Client {
    pub(super) number: u64,
    pub(super) planner: Planner,
    pub(super) oracle: Arc<Oracle>,
    pub(super) proxy: SocketAddr,
    /// Where it speaks TLS.
    pub(super) tls: Option<TlsConnector>,
}

impl Client {
    /// One connection, to its end.
    pub(super) async fn converse(&self, connection: u64) {
        if Id::new(self.number, connection, 0).is_http2() {
            return http2::client::converse(self, connection).await;
        }
        let count = self.planner.requests(self.number, connection);
        let id = |place| Id::new(self.number, connection, place);
        let requests: Vec<_> = (0..count)
            .map(|place| self.planner.request(id(place)))
            .collect();
        let Ok(mut stream) = TcpStream::connect(self.proxy).await else {
            return self.oracle.fault(None, "the proxy takes no connection");
        };
        stream.set_nodelay(true).unwrap();
        let Some(tls) = &self.tls else {
            let ended = self.exchange(&mut stream, &requests).await;
            return end(&stream, ended);
        };
        let name = ServerName::try_from("localhost").unwrap();
        match tls.connect(name, stream).await {
            Ok(mut stream) => {
                let ended = self.exchange(&mut stream, &requests).await;
                end(stream.get_ref().0, ended);
            }
            Err(error) => {
                let what = format!("a handshake fails: {error}");
                self.oracle.fault(None, &what);
            }
        }
    }

    /// What goes both ways on one connection.
    async fn exchange(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        requests: &[Request],
    ) -> Ended {
        let (source, sink) = split(stream);
        let progress = watch::Sender::default();
        let reading = self.read(source, requests, &progress);
        let writing = self.write(sink, requests, &progress);
        tokio::pin!(reading);
        tokio::select! {
            read = &mut reading => read,
            written = writing => match written {
                Ended::Done => reading.await,
                broken => broken,
            },
        }
    }

    async fn write(
        &self,
        mut sink: impl AsyncWrite + Unpin,
        requests: &[Request],
        progress: &watch::Sender<Progress>,
    ) -> Ended {
        let mut told = progress.subscribe();
        let mut is_last = false;
        let mut was_spoilt = false;
        for (place, request) in requests.iter().enumerate() {
            if is_last {
                return Ended::Done;
            }
            let depth = if request.waits || was_spoilt {
                0
            } else {
                PIPELINED as usize
            };
            let may_ask = |at: &Progress| at.closing || at.answered + depth >= place;
            // The sender lives as long as the conversation.
            let _ = told.wait_for(may_ask).await;
            if told.borrow().closing {
                return Ended::Done;
            }
            self.oracle.begins(request);
            let (bytes, head) = request.wire();
            let pieces = self.planner.pieces(request.id, 0, bytes.len(), head);
            let stop = request.breaks.map_or(bytes.len(), |cut| cut.at);
            let mut start = 0;
            if request.expects {
                let written = pieces::write(&mut sink, &bytes, &pieces, 0, head.min(stop)).await;
                if written.is_err() {
                    progress.send_modify(|at| at.broken = true);
                    return Ended::Done;
                }
                let goes_on = |at: &Progress| {
                    at.closing || at.answered > place || at.answered == place && at.goes_on
                };
                let _ = timeout(Duration::from_secs(1), told.wait_for(goes_on)).await;
                start = head.min(stop);
            }
            let writing = pieces::write(&mut sink, &bytes, &pieces, start, stop);
            let written = tokio::select! {
                written = writing => written,
                _ = told.wait_for(|at| at.closing) => return Ended::Done,
            };
            match request.breaks {
                Some(Break { how: How::Half, .. }) => {
                    progress.send_modify(|at| at.half = true);
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut sink).await;
                    return Ended::Done;
                }
                Some(Break { how, .. }) => return Ended::Broken(how),
                None if written.is_err() => {
                    progress.send_modify(|at| at.broken = true);
                    return Ended::Done;
                }
                None => {}
            }
            if let Some(passage) = &request.passage {
                let ended = self.pass(sink, request.id, passage, told).await;
                progress.send_modify(|at| at.passed = true);
                return ended;
            }
            is_last = ends_connection(request);
            was_spoilt = request.spoilt.is_some();
        }
        Ended::Done
    }

    /// Sends what goes through a tunnel.
    async fn pass(
        &self,
        mut sink: impl AsyncWrite + Unpin,
        id: Id,
        passage: &Passage,
        mut told: watch::Receiver<Progress>,
    ) -> Ended {
        if !passage.is_early {
            let _ = told.wait_for(|at| at.switched || at.closing).await;
        }
        let length = passage.length();
        let pieces = self.planner.pieces(id, 1_000, length, 0);
        let writing = pieces::write(&mut sink, &passage.bytes, &pieces, 0, length);
        let written = tokio::select! {
            written = writing => written,
            _ = told.wait_for(|at| at.closing) => return Ended::Done,
        };
        match passage.breaks {
            Some(Break { how, .. }) => Ended::Broken(how),
            None => {
                // An end before the answer would be that of a client that is gone.
                let _ = told.wait_for(|at| at.switched || at.closing).await;
                if written.is_ok() {
                    self.oracle.passes(id);
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut sink).await;
                }
                Ended::Done
            }
        }
    }

    async fn read(
        &self,
        source: impl AsyncRead + Unpin,
        requests: &[Request],
        progress: &watch::Sender<Progress>,
    ) -> Ended {
        let mut reader = Reader::new(source);
        reader.patience = Some(PATIENCE);
        let mut before = String::new();
        for request in requests {
            reader.sips = request.sips && request.body.len() < 2_000;
            reader.left = request.leaves.map(|cut| cut.at);
            let go_on = |has_switched: bool| {
                progress.send_modify(|at| {
                    at.goes_on = true;
                    at.switched |= has_switched;
                });
            };
            let mut outcome = read_answer(&mut reader, request, go_on).await;
            if let (Outcome::Left, Some(cut)) = (&outcome, request.leaves) {
                return Ended::Broken(cut.how);
            }
            if let Outcome::Answer(received) = &mut outcome {
                received.doubtful = progress.borrow().broken;
                if received.end == End::Whole && is_switch(&received.head) {
                    // The other direction goes on.
                    let mut told = progress.subscribe();
                    let passed = told.wait_for(|at| at.passed || at.broken);
                    let _ = timeout(PATIENCE, passed).await;
                }
            }
            let said = outcome.says_end(request) || ends_connection(request);
            let spoilt = request.spoilt.is_some_and(Spoilt::ends_connection);
            let asks = request.passage.is_some();
            let is_over = said || spoilt || asks || !outcome.is_whole();
            if is_over {
                progress.send_modify(|at| at.closing = true);
            }
            let excused = progress.borrow().half || request.breaks.is_some();
            self.oracle.judge(request, &before, &outcome, excused);
            if is_over {
                if outcome.is_whole() && said && !asks {
                    self.until_end(&mut reader, request).await;
                }
                return Ended::Done;
            }
            if let Outcome::Answer(received) = &outcome {
                before = format!("{request:?} got {:?}", received.head);
            }
            progress.send_modify(|at| {
                at.answered += 1;
                at.goes_on = false;
            });
        }
        if !reader.unread.is_empty() {
            let more = super::shown(&reader.unread);
            self.oracle
                .fault(requests.last(), &format!("more than the answers: {more}"));
        }
        Ended::Done
    }

    /// A connection whose end was said ends, and nothing comes before.
    async fn until_end(&self, reader: &mut Reader<impl AsyncRead + Unpin>, request: &Request) {
        reader.sips = false;
        reader.left = None;
        let mut rest = Vec::new();
        if reader.rest(&mut rest).await == Err(SILENCE) {
            self.oracle.fault(
                Some(request),
                "a connection goes on though its end was said",
            );
        }
        if !rest.is_empty() {
            let more = super::shown(&rest);
            self.oracle
                .fault(Some(request), &format!("more than the answer: {more}"));
        }
    }
}

/// Has a connection's end be the one that was planned.
fn end(stream: &TcpStream, ended: Ended) {
    if ended == Ended::Broken(How::Reset) {
        let _ = stream.set_zero_linger();
    }
}

/// Whether a request is the last of its connection.
fn ends_connection(request: &Request) -> bool {
    match request.connection {
        Some("close") => true,
        // Whatever comes of it.
        None if request.passage.is_some() => true,
        Some(_) => false,
        None => request.http10,
    }
}

async fn read_answer(
    reader: &mut Reader<impl AsyncRead + Unpin>,
    request: &Request,
    go_on: impl Fn(bool),
) -> Outcome {
    let head = loop {
        match reader.head().await {
            Ok(Some(head)) if head.start.contains(" 100 ") && request.expects => go_on(false),
            Ok(Some(head)) => {
                if is_switch(&head) {
                    go_on(true);
                }
                break head;
            }
            Ok(None) => return Outcome::Nothing("the end".to_owned(), Vec::new()),
            Err(Broken::Error(io::ErrorKind::Interrupted)) => return Outcome::Left,
            Err(SILENCE) => {
                let begun = super::shown(&reader.unread);
                return Outcome::Silence(format!("{begun} of a head"));
            }
            Err(broken) => {
                let begun = std::mem::take(&mut reader.unread);
                return Outcome::Nothing(format!("{broken:?}"), begun);
            }
        }
    };
    let mut body = Vec::new();
    let mut trailers = Head::default();
    let read = match head.framed() {
        _ if is_bodyless(request, &head) => Ok(()),
        Err(broken) => Err(broken),
        Ok(Framed::Length(length)) => reader.exact(length, &mut body).await,
        Ok(Framed::Chunked) => match reader.chunks(&mut body).await {
            Ok(read) => {
                trailers = read;
                Ok(())
            }
            Err(broken) => Err(broken),
        },
        Ok(Framed::Unsaid) => reader.rest(&mut body).await,
    };
    let end = match read {
        Ok(()) => End::Whole,
        Err(Broken::Error(io::ErrorKind::Interrupted)) => return Outcome::Left,
        Err(SILENCE) => {
            return Outcome::Silence(format!("{head:?} and {} bytes of its body", body.len()));
        }
        Err(broken) => End::Cut(format!("{broken:?}")),
    };
    Outcome::Answer(Received {
        head,
        body,
        trailers,
        end,
        doubtful: false,
    })
}

fn is_switch(head: &Head) -> bool {
    head.start.contains(" 101 ")
}

fn is_bodyless(request: &Request, head: &Head) -> bool {
    let status = head.start.split(' ').nth(1).unwrap_or_default();
    !is_switch(head) && (request.method == "HEAD" || matches!(status, "204" | "304"))
}
