//! An endpoint that speaks HTTP/2, by the field's library, which holds the proxy to the rules. What it does to a
//! connection hurts those requests alone that it has there: the oracle is told which.

use std::{
    collections::HashSet,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::poll_immediate;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, Connection, SendResponse},
};
use http::{HeaderMap, Request as Asked, Response};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::{
    super::{
        endpoint::{Shared, Socket, check_whole, compare_head},
        plan::{Answer, Break, Framing, How, Id, Moment, Request, Trouble},
    },
    client::{fields, map, send},
    malformed,
    wire::{Notes, Seen, Wire},
};
use crate::support::frames::{GOAWAY, frame};

/// What a request has its endpoint do to the connection.
enum Deed {
    /// It takes no more requests, and answers those that it has.
    Leave,
    /// It ends in the middle of whatever there is.
    Break { is_reset: bool },
}

/// What the requests of one connection have in common.
#[derive(Clone)]
struct Common {
    shared: Shared,
    notes: Arc<Notes>,
    deeds: mpsc::UnboundedSender<Deed>,
    /// Those that have arrived, with the number of the arrival.
    arrived: Arc<Mutex<Vec<(Id, usize)>>>,
    /// Streams beyond the first one are left out; the second is the last that is served.
    last: Arc<Mutex<(u32, u32)>>,
    /// What was said ends the connection.
    is_broken: Arc<AtomicBool>,
    /// The streams that its library has handed over, and not reset.
    taken: Arc<Mutex<HashSet<u32>>>,
    /// Those on which trailers have come before that, or after it. Where the library has refused one, or forgotten
    /// that it has reset it, it takes them for the head of a request on an old stream, and ends the connection.
    trailed: Arc<Mutex<HashSet<u32>>>,
}

impl Common {
    /// What is done now may fail any request of this connection.
    fn hurt(&self) {
        self.is_broken.store(true, Relaxed);
        for (id, arrival) in self.arrived.lock().unwrap().iter() {
            self.shared.oracle.hurts(*id, *arrival);
        }
        let Shared {
            service, address, ..
        } = self.shared;
        self.shared.oracle.upset(service, address);
    }

    /// Whether trailers have come on a stream that is not there.
    fn has_late_trailers(&self) -> bool {
        let (taken, trailed) = (self.taken.lock().unwrap(), self.trailed.lock().unwrap());
        trailed.difference(&taken).next().is_some()
    }

    fn note(&self, seen: Seen) {
        let Shared {
            service, address, ..
        } = self.shared;
        let mut taken = self.taken.lock().unwrap();
        match seen {
            Seen::Reset(stream) => {
                taken.remove(&stream);
                self.shared.oracle.leaves_some_out(service, address);
            }
            Seen::Trailers(stream) if !taken.contains(&stream) => {
                self.trailed.lock().unwrap().insert(stream);
                self.shared.oracle.upset(service, address);
            }
            Seen::Trailers(_) => {}
        }
    }
}

/// Serves a connection to its end.
pub(in super::super) async fn serve<S: Socket + 'static>(socket: S, shared: &Shared) {
    let plan = shared
        .planner
        .hosting(shared.service, shared.next_connection());
    let notes = Arc::<Notes>::default();
    let (deeds, mut told) = mpsc::unbounded_channel();
    let common = Common {
        shared: shared.clone(),
        notes: Arc::clone(&notes),
        deeds,
        arrived: Arc::default(),
        last: Arc::new(Mutex::new((u32::MAX, 0))),
        is_broken: Arc::default(),
        taken: Arc::default(),
        trailed: Arc::default(),
    };
    let seeing = common.clone();
    let wire = Wire::of_endpoint(socket, plan.manners, notes, move |seen| seeing.note(seen));
    let mut builder = Builder::new();
    builder
        .initial_window_size(plan.window)
        .max_concurrent_streams(plan.streams)
        // It would be used up by small frames of streams that were reset.
        .data_frame_budget(usize::MAX);
    if !plan.has_table {
        builder.header_table_size(0);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(wire).await else {
        return;
    };
    let mut opens_after_ms = plan.opens_after_ms;
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            asked = connection.accept() => match asked {
                Some(Ok((request, answer))) => {
                    let stream = answer.stream_id().as_u32();
                    common.taken.lock().unwrap().insert(stream);
                    requests.spawn(one(common.clone(), request, answer));
                }
                ended => {
                    judge_end(&common, ended.and_then(Result::err));
                    break;
                }
            },
            deed = told.recv() => match deed {
                Some(Deed::Break { is_reset }) => {
                    common.hurt();
                    common.notes.end(is_reset);
                    // The library hears of the end where it reads.
                    let _ = poll_immediate(connection.accept()).await;
                    break;
                }
                // What is said then must not take back what was said before.
                Some(Deed::Leave) if common.last.lock().unwrap().0 == u32::MAX => {
                    connection.graceful_shutdown();
                }
                Some(Deed::Leave) | None => {}
            },
            () = opens(opens_after_ms) => open(&mut connection, &mut opens_after_ms),
        }
    }
}

async fn opens(after_ms: Option<u64>) {
    match after_ms {
        Some(after) => sleep(Duration::from_millis(after)).await,
        None => std::future::pending().await,
    }
}

/// Opens the windows; not before the first settings are agreed to.
fn open<S: Socket>(connection: &mut Connection<Wire<S>, Bytes>, after_ms: &mut Option<u64>) {
    let opened = connection.set_initial_window_size(65_535);
    *after_ms = opened.is_err().then_some(5);
}

/// A connection that the endpoint has not ended itself is the proxy's to end, in good order or not: but neither by
/// what HTTP/2 does not allow, nor for an error of the endpoint's that it did not make.
fn judge_end(common: &Common, error: Option<h2::Error>) {
    let Some(error) = error.filter(|error| !error.is_io()) else {
        return;
    };
    if error.reason() == Some(Reason::PROTOCOL_ERROR) && common.has_late_trailers() {
        return common.hurt();
    }
    if !common.is_broken.load(Relaxed) && error.reason() != Some(Reason::NO_ERROR) {
        let arrived = common.arrived.lock().unwrap();
        let why = format!("a connection of HTTP/2 ends upstream: {error:?}, behind {arrived:?}");
        common.shared.oracle.fault(None, &why);
    }
}

/// One request and its answer.
async fn one(common: Common, asked: Asked<RecvStream>, mut answering: SendResponse<Bytes>) {
    let Common { shared, .. } = &common;
    let (parts, mut source) = asked.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let start = format!("{} {target} HTTP/1.1", parts.method);
    let mut head = fields(start, &parts.headers);
    let authority = parts
        .uri
        .authority()
        .map_or("", |authority| authority.as_str());
    head.fields.push(("host".to_owned(), authority.to_owned()));
    let ids: Vec<_> = head.values("x-storm").collect();
    let id = match ids[..] {
        [id] => Id::parse(id),
        _ => None,
    };
    if answering.stream_id().as_u32() > common.last.lock().unwrap().0 {
        // Its head was on its way when that was said: it may have come elsewhere by now.
        if let Some(id) = id {
            shared.oracle.misses(id);
        }
        let _ = poll_fn(|cx| answering.poll_reset(cx)).await;
        return;
    }
    let Some(id) = id.filter(|id| shared.oracle.has_begun(*id)) else {
        let why = format!("a request upstream that no client made: {head:?}");
        return shared.oracle.fault(None, &why);
    };
    let request = shared.planner.request(id);
    let arrival = shared
        .oracle
        .arrives(&request, shared.service, shared.address);
    common.arrived.lock().unwrap().push((id, arrival));
    if common.is_broken.load(Relaxed) {
        shared.oracle.hurts(id, arrival);
    }
    if let Err(why) = compare_head(&request, &head) {
        let why = format!("{why} upstream: {head:?}");
        shared.oracle.fault(Some(&request), &why);
    }
    let plan = shared.planner.answer(&request, arrival, shared.service);
    let mut turn = Turn {
        common: &common,
        request: &request,
        plan: &plan,
        answering,
    };
    if turn.is_left_out() {
        return turn.until_reset().await;
    }
    turn.serve(&mut source).await;
}

/// One request at this endpoint.
struct Turn<'c> {
    common: &'c Common,
    request: &'c Request,
    plan: &'c Answer,
    answering: SendResponse<Bytes>,
}

impl Turn<'_> {
    /// Whether it is not processed, and the proxy told so.
    fn is_left_out(&mut self) -> bool {
        let stream = self.answering.stream_id().as_u32();
        let mut streams = self.common.last.lock().unwrap();
        let (last, served) = &mut *streams;
        let trouble = self.plan.trouble;
        let leaves = trouble == Some(Trouble::LeavesOut);
        // One that is served already cannot be left out.
        let is_refused = trouble == Some(Trouble::Refuses) || leaves && stream < *served;
        if !is_refused && !leaves && stream <= *last {
            *served = stream.max(*served);
            return false;
        }
        // Before the proxy hears of it.
        let oracle = &self.common.shared.oracle;
        oracle.leaves_out(self.request, self.plan.arrival);
        if is_refused {
            self.answering.send_reset(Reason::REFUSED_STREAM);
        } else if stream <= *last {
            *last = stream - 1;
            let word = [(stream - 1).to_be_bytes(), [0; 4]].concat();
            self.common.notes.insert(&frame(GOAWAY, 0, 0, &word));
        }
        true
    }

    /// What is written past the library is the proxy's to end.
    async fn until_reset(&mut self) {
        let _ = poll_fn(|cx| self.answering.poll_reset(cx)).await;
    }

    async fn serve(mut self, source: &mut RecvStream) {
        let early = match self.plan.moment {
            Moment::Early(at) => at,
            Moment::AtEnd => usize::MAX,
        };
        let mut body = Vec::new();
        if !self.hear(source, &mut body, early).await {
            return;
        }
        let Some(sending) = self.answer().await else {
            return;
        };
        // Some go on reading behind an early answer, and some do not want to.
        if early != usize::MAX && self.request.id.0 & 1 == 0 {
            self.hear(source, &mut body, usize::MAX).await;
        }
        drop(sending);
    }

    /// Reads the body up to `stop`, or its end. Returns whether it goes on.
    async fn hear(&self, source: &mut RecvStream, body: &mut Vec<u8>, stop: usize) -> bool {
        let Common { shared, .. } = self.common;
        while body.len() < stop {
            match source.data().await {
                None => {
                    let trailers = poll_fn(|cx| source.poll_trailers(cx)).await;
                    let Ok(trailers) = trailers else { return false };
                    let trailers = fields(String::new(), &trailers.unwrap_or_default());
                    let (request, arrival) = (self.request, self.plan.arrival);
                    return check_whole(shared, request, arrival, body, &trailers);
                }
                Some(Err(_)) => return false,
                Some(Ok(data)) => {
                    body.extend_from_slice(&data);
                    if self.request.id.0.is_multiple_of(13) {
                        sleep(Duration::from_millis(1)).await;
                    }
                    let _ = source.flow_control().release_capacity(data.len());
                }
            }
            // What is spoilt behind its head may be read up to there, and by a byte beyond.
            let sound = match self.request.spoilt {
                Some(_) => body.strip_suffix(b"a").unwrap_or(body),
                None => body,
            };
            if !self.request.body.starts_with(sound) {
                let why = format!("another body upstream: {}", super::super::shown(body));
                shared.oracle.fault(Some(self.request), &why);
                return false;
            }
        }
        true
    }

    /// Answers as planned. Returns the stream where it goes on.
    async fn answer(&mut self) -> Option<SendStream<Bytes>> {
        let plan = self.plan;
        sleep(Duration::from_millis(plan.delay_ms)).await;
        match plan.trouble {
            Some(Trouble::Silence) => {
                self.until_reset().await;
                return None;
            }
            Some(Trouble::Malformed(malformed)) => {
                if malformed.is_of_connection() {
                    self.common.hurt();
                }
                let stream = self.answering.stream_id().as_u32();
                let bytes = malformed::wire(malformed, plan, stream);
                self.common.notes.insert(&bytes);
                match malformed.ends_its_stream() {
                    true => self.answering.send_reset(Reason::CANCEL),
                    false => self.until_reset().await,
                }
                return None;
            }
            Some(Trouble::Breaks(Break { at: 0, how })) => {
                self.end(how, None).await;
                return None;
            }
            _ => {}
        }
        for status in &plan.interim {
            let interim = Response::builder().status(*status).header("x-interim", "1");
            let _ = self.answering.send_informational(interim.body(()).unwrap());
        }
        let has_body = plan.has_body(self.request);
        let mut head = Response::builder().status(plan.status);
        head = head.header("x-storm-answer", format!("{}.{}", plan.id, plan.arrival));
        if plan.framing == Framing::Length {
            head = head.header("content-length", plan.body.len());
        }
        let head = head.body(()).unwrap();
        let mut sending = self.answering.send_response(head, !has_body).ok()?;
        if has_body {
            self.say(&mut sending).await?;
        }
        let oracle = &self.common.shared.oracle;
        oracle.is_answered(self.request, plan.arrival);
        if plan.closes {
            let _ = self.common.deeds.send(Deed::Leave);
        }
        Some(sending)
    }

    /// Sends the body. Returns nothing where it is not sent to its end.
    async fn say(&mut self, sending: &mut SendStream<Bytes>) -> Option<()> {
        let plan = self.plan;
        let stop = match plan.trouble {
            Some(Trouble::Breaks(cut)) => cut.at,
            _ => usize::MAX,
        };
        let length = plan.body.len();
        let planner = &self.common.shared.planner;
        let pieces = planner.pieces(plan.id, 1 + plan.arrival as u64, length, 0);
        let trailers: HeaderMap = match &plan.framing {
            Framing::Chunked { trailers, .. } => map(trailers),
            _ => HeaderMap::new(),
        };
        let with_last = plan.id.0 & 2 == 0 && trailers.is_empty() && length > 0;
        let mut start = 0;
        for piece in pieces {
            let end = piece.end.min(stop);
            let data = Bytes::copy_from_slice(&plan.body[start.min(end)..end]);
            start = end;
            let ends = with_last && end == length && stop > length;
            send(sending, data, ends).await.ok()?;
            if piece.pause_ms > 0 {
                sleep(Duration::from_millis(piece.pause_ms)).await;
            }
        }
        if let Some(Trouble::Breaks(Break { at, how })) = plan.trouble
            && at <= length
        {
            self.end(how, Some(sending)).await;
            return None;
        }
        let ended = match with_last {
            true => Ok(()),
            false if trailers.is_empty() => sending.send_data(Bytes::new(), true),
            false => sending.send_trailers(trailers),
        };
        ended.ok()
    }

    /// Ends its stream, or the whole connection.
    async fn end(&mut self, how: How, sending: Option<&mut SendStream<Bytes>>) {
        // What was said before may have gone out by then, or not.
        sleep(Duration::from_millis(self.request.id.0 % 5)).await;
        let is_reset = match how {
            How::Stream(code) => {
                let reason = Reason::from(code);
                return match sending {
                    Some(sending) => sending.send_reset(reason),
                    None => self.answering.send_reset(reason),
                };
            }
            How::Close | How::Half => false,
            How::Reset => true,
        };
        let _ = self.common.deeds.send(Deed::Break { is_reset });
        self.until_reset().await;
    }
}
