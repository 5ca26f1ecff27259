//! What goes back to the client, and what is noted of it: counters always, a log line where the
//! access log is on.

use std::{
    error::Error as StdError,
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    Client, HeadText, RequestBody, RequestStream, Target,
    access::Access,
    failure_log::{self, Question},
    grpc_web::Web,
    tunnel::{Tunnel, TunnelOwner},
};
use crate::{
    config::HeaderCase,
    grpc::Code,
    instance::Address,
    metrics::Padded,
    service::{CallAnswer, RequestCount, ServiceStats},
    upstream::{self, AnswerHead, Failure},
};

/// Bytes of a long answer of HTTP/2 that follow when its client has taken, or has room for, all others.
const LAST: usize = 1024;

/// An answer to a client.
pub(crate) type Response = http::Response<AnswerBody>;

/// An answer's body: an endpoint's, or a short text of our own.
pub(crate) struct AnswerBody {
    kind: Kind,
    /// The end of the last piece, where that is split.
    last: Bytes,
    /// Of a call of gRPC whose status is to come: what counts it.
    call: Option<Arc<Padded<ServiceStats>>>,
    /// Of an answer that is gRPC's, to a client of gRPC-Web.
    web: Option<Web>,
    /// Lives as long as the answer does.
    ending: Ending,
}

enum Kind {
    Own(Bytes),
    Endpoint(upstream::AnswerBody<RequestBody>),
    /// It broke off; `None` once hyper knows, which then drops whatever it has not written.
    Cut(Option<Box<dyn StdError + Send + Sync>>),
}

/// A request on its way; what is noted when it is answered, or when its client is gone first.
pub(super) struct RequestLog {
    count: RequestCount,
    /// The client would rather have an error as JSON.
    pub(super) wants_json: bool,
    /// It is a call of gRPC, whose client looks for a status of gRPC's.
    pub(super) is_grpc: bool,
    /// It was one of gRPC-Web, and so is its answer.
    pub(super) web: Option<Web>,
    /// A `HEAD` of HTTP/2: the library leaves an answer's body out of one of HTTP/1.1 alone.
    wants_no_body: bool,
    /// What was asked for, where no endpoint has answered it.
    pub(super) question: Option<Box<Question>>,
    ending: Option<Ending>,
}

/// The end of an answer, or of a request that got none.
struct Ending {
    stream: Arc<RequestStream>,
    /// What the client speaks.
    version: Version,
    access: Option<Box<Access>>,
}

impl RequestLog {
    pub(super) fn new(stream: &Arc<RequestStream>, arrived: Instant, request: &Parts) -> Self {
        let client = &stream.client;
        client.activity.requests.add_one();
        stream.asked.store(true, Relaxed);
        let is_http10 = request.version == Version::HTTP_10;
        stream.http10.store(is_http10, Relaxed);
        let lines = client.worker.lines();
        let access = lines.map(|lines| Box::new(Access::of(lines, client, request, arrived)));
        Self {
            count: RequestCount::new(arrived),
            wants_json: false,
            is_grpc: false,
            web: None,
            wants_no_body: request.version == Version::HTTP_2
                && request.method == http::Method::HEAD,
            question: None,
            ending: Some(Ending {
                stream: Arc::clone(stream),
                version: request.version,
                access,
            }),
        }
    }

    /// When the request's head was whole.
    pub(super) fn arrived(&self) -> Instant {
        self.count.arrived()
    }

    /// What is counted of it, and its line of the access log.
    pub(super) fn parts(&mut self) -> (&mut RequestCount, Option<&mut Access>) {
        let access = self
            .ending
            .as_mut()
            .and_then(|ending| ending.access.as_deref_mut());
        (&mut self.count, access)
    }

    /// It goes by this route.
    pub(super) fn goes_by(&mut self, target: &Target) {
        if let Some(ending) = &mut self.ending {
            match &mut ending.access {
                Some(access) if target.is_logged => access.goes_by(target),
                access => *access = None,
            }
        }
    }

    /// An endpoint answered.
    pub(super) fn answered_by(&mut self, endpoint: &Address) {
        if let Some(access) = self.access() {
            access.answered_by(endpoint);
        }
    }

    /// The answer is the proxy's own, under this id.
    pub(super) fn refused(&mut self, request_id: &str) {
        if let Some(access) = self.access() {
            access.refused(request_id);
        }
    }

    /// The client broke off its own request: whatever it is told, it is as good as gone.
    pub(super) fn abandoned(&mut self, request_id: &str) {
        if let Some(access) = self.access() {
            access.abandoned(request_id);
        }
    }

    /// A call of gRPC is answered so.
    #[cold]
    pub(super) fn called(&mut self, code: Code) {
        if let Some(stats) = self.count.stats() {
            stats.add_call(code);
        }
        if let Some(access) = self.access() {
            access.called(code);
        }
    }

    /// An endpoint answers a call of gRPC with this head. Returns what counts it, where the status is to come.
    #[cold]
    fn calls(&mut self, headers: &HeaderMap) -> Option<Arc<Padded<ServiceStats>>> {
        let Some(code) = Code::of_head(headers) else {
            return self.count.stats().cloned();
        };
        self.called(code);
        None
    }

    /// Passes an endpoint's answer on.
    pub(super) fn pass_on(
        &mut self,
        head: AnswerHead,
        answer: CallAnswer<RequestBody>,
    ) -> Response {
        let AnswerHead {
            status,
            reason,
            mut headers,
            text,
            ..
        } = head;
        let call = match self.is_grpc {
            true => self.calls(&headers),
            false => None,
        };
        let switches = answer.body.is_switched();
        let stats = switches.then(|| self.count.stats().cloned()).flatten();
        let mut response = self.finish(status, Kind::Endpoint(answer.body), answer.at);
        response.body_mut().call = call;
        response.body_mut().web = self.web.filter(|web| web.translate_answer(&mut headers));
        if response.body().ending.stream.client.listener.header_case == HeaderCase::Preserve {
            *response.extensions_mut() = HeadText::new(text).for_answer();
        }
        // There were none: to drop an empty map costs more than to put another in its place.
        mem::forget(mem::replace(response.headers_mut(), headers));
        if let Some(reason) = reason {
            response.extensions_mut().insert(reason);
        }
        say_https_only(&mut response);
        if switches {
            open_tunnel(&mut response, stats);
        } else {
            close_where_it_ends(&mut response);
        }
        response
    }

    /// Answers with a short text of our own.
    pub(super) fn reply(mut self, status: StatusCode, text: impl Into<Bytes>) -> Response {
        let mut text = text.into();
        let length = text.len();
        let wants_no_body = self.wants_no_body && length > 0;
        if wants_no_body {
            text.clear();
        }
        let mut response = self.finish(status, Kind::Own(text), Instant::now());
        if wants_no_body {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        say_https_only(&mut response);
        close_where_it_ends(&mut response);
        response
    }

    fn finish(&mut self, status: StatusCode, kind: Kind, at: Instant) -> Response {
        self.count.answered(status, at);
        let is_empty = kind.is_at_its_end();
        if let Some(access) = self.access() {
            access.answered(status, at, is_empty);
        }
        let ending = self
            .ending
            .take()
            .expect("only this takes it, once for each request");
        if ending.version == Version::HTTP_2 {
            ending.stream.is_answered.store(true, Relaxed);
            ending.stream.body_awaited.store(0, Relaxed);
        }
        let mut response = Response::new(AnswerBody {
            kind,
            last: Bytes::new(),
            call: None,
            web: None,
            ending,
        });
        *response.status_mut() = status;
        response
    }

    fn access(&mut self) -> Option<&mut Access> {
        self.parts().1
    }
}

/// Has the client's connection, or its stream, go over to what the endpoint's has, when this answer is written.
#[cold]
fn open_tunnel(response: &mut Response, stats: Option<Arc<Padded<ServiceStats>>>) {
    let body = response.body_mut();
    let Kind::Endpoint(answer) = mem::replace(&mut body.kind, Kind::Own(Bytes::new())) else {
        return;
    };
    let Ok(switched) = answer.switched() else {
        return;
    };
    let ending = body.ending.of_tunnel();
    let stream = Arc::clone(&ending.stream);
    let worker = Arc::clone(&stream.client.worker);
    let tunnel = Tunnel::new(
        switched,
        response.headers().get(header::UPGRADE),
        stats,
        worker,
        Box::new(ending),
    );
    if response.body().ending.version == Version::HTTP_2 {
        // RFC 8441 5: a stream that has gone over has an answer of success, and neither key nor proof.
        for name in [header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
            response.headers_mut().remove(name);
        }
        *response.status_mut() = StatusCode::OK;
    } else {
        let upgrade = HeaderValue::from_static("upgrade");
        response.headers_mut().insert(header::CONNECTION, upgrade);
    }
    stream.goes_over(tunnel);
}

/// Says that the host is to be asked by TLS alone (RFC 6797), where the listener has it so and the endpoint
/// says nothing itself.
fn say_https_only(response: &mut Response) {
    let client = &response.body().ending.stream.client;
    if let Some(hsts) = hsts_of(client).cloned() {
        let headers = response.headers_mut();
        headers
            .entry(header::STRICT_TRANSPORT_SECURITY)
            .or_insert(hsts);
    }
}

/// What this client's answers say of that.
pub(super) fn hsts_of(client: &Client) -> Option<&HeaderValue> {
    client.listener.tls.as_ref()?.hsts.as_ref()
}

/// A client is told when its connection ends with this answer: its next request must not be on its
/// way when that happens.
fn close_where_it_ends(response: &mut Response) {
    let body = response.body();
    if body.ending.version == Version::HTTP_2 {
        return;
    }
    let stream = &body.ending.stream;
    let ends = stream.client.is_to_leave()
        || !stream.rest.is_small()
        // There its end is that of the connection.
        || (body.ending.version == Version::HTTP_10
            && !body.is_end_stream()
            && body.size_hint().exact().is_none());
    if ends {
        say_close(response);
    }
}

/// Ends the connection with this answer; not one of HTTP/2, whose streams end alone.
pub(super) fn say_close(response: &mut Response) {
    if response.body().ending.version == Version::HTTP_2 {
        return;
    }
    if response.body().ending.version == Version::HTTP_10 {
        // hyper says `keep-alive` with an answer of a later version.
        *response.version_mut() = Version::HTTP_10;
    }
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

impl Drop for Ending {
    fn drop(&mut self) {
        let client = &self.stream.client;
        client.activity.requests.sub_one();
        client.activity.answered.store(client.now(), Relaxed);
        if let Some(access) = self.access.take()
            && access.log(client, self.version)
        {
            client.worker.logged.add_one();
        }
    }
}

impl TunnelOwner for Ending {
    fn end(&mut self, bytes: u64, whole: bool) {
        if let Some(access) = &mut self.access {
            access.tunnelled(bytes, whole);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let is_http2 = this.ending.version == Version::HTTP_2;
        if is_http2 && this.ending.stream.untaken.swap(0, Relaxed) != 0 {
            this.ending.stream.client.activity.pieces.add_one();
        }
        let is_new = this.last.is_empty();
        let mut frame = match &mut this.kind {
            _ if !this.last.is_empty() => Some(Frame::data(mem::take(&mut this.last))),
            Kind::Own(text) => {
                let text = std::mem::take(text);
                (!text.is_empty()).then(|| Frame::data(text))
            }
            Kind::Endpoint(body) => match ready!(Pin::new(body).poll_frame(cx)).transpose() {
                Ok(frame) => frame,
                Err(failure) => {
                    this.kind = Kind::Cut(Some(this.ending.cut_short(failure)));
                    // It goes on to write what it has, and comes back when that is done.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            },
            Kind::Cut(_) if this.ending.stream.unwritten.load(Relaxed) => {
                return Poll::Pending;
            }
            Kind::Cut(failure) => return Poll::Ready(failure.take().map(Err)),
        };
        if this.call.is_some()
            && let Some(trailers) = frame.as_ref().and_then(Frame::trailers_ref)
        {
            this.called(trailers);
        }
        // Before it is split: what was kept back is as the client has it.
        if let Some(web) = this.web.filter(|_| is_new) {
            frame = frame.map(|frame| web.frame(frame));
        }
        if is_http2 && this.kind.is_at_its_end() {
            frame = frame.map(|frame| this.split(frame));
        }
        if let Some(access) = &mut this.ending.access {
            let data = frame.as_ref().and_then(Frame::data_ref);
            let is_last = frame.is_none() || (this.last.is_empty() && this.kind.is_over());
            access.passed(data.map_or(0, Bytes::len), is_last);
        }
        if is_http2 && frame.is_some() {
            let stream = &this.ending.stream;
            stream.untaken.store(stream.client.now(), Relaxed);
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_empty() && self.kind.is_at_its_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            // What was split was the end of a body.
            _ if !self.last.is_empty() => SizeHint::with_exact(self.last.len() as u64),
            Kind::Own(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Endpoint(_) if self.web.is_some() => SizeHint::default(),
            Kind::Endpoint(body) => body.size_hint(),
            Kind::Cut(_) => SizeHint::default(),
        }
    }
}

impl AnswerBody {
    /// A call of gRPC ends with these trailers.
    #[cold]
    fn called(&mut self, trailers: &HeaderMap) {
        let (Some(stats), Some(code)) = (self.call.take(), Code::of_head(trailers)) else {
            return;
        };
        stats.add_call(code);
        if let Some(access) = &mut self.ending.access {
            access.called(code);
        }
    }

    /// Keeps the end of an answer's last piece back. HTTP/2's library is done with a stream when it has the last
    /// piece, whether the client has room for it or not, and nothing would watch it any more. It asks for the end
    /// only when there is room for all that was before.
    fn split(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(mut data) if data.len() > 2 * LAST => {
                self.last = data.split_off(data.len() - LAST);
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(frame) => frame,
        }
    }
}

impl Kind {
    /// Whether nothing follows what was taken, though the end itself may be to come.
    fn is_over(&self) -> bool {
        let rest = match self {
            Self::Endpoint(body) => body.size_hint().exact(),
            Self::Own(_) | Self::Cut(_) => None,
        };
        rest == Some(0) || self.is_at_its_end()
    }

    fn is_at_its_end(&self) -> bool {
        match self {
            Self::Own(text) => text.is_empty(),
            Self::Endpoint(body) => body.is_end_stream(),
            Self::Cut(_) => false,
        }
    }
}

impl Ending {
    /// That of the tunnel that follows this answer: a request goes on for as long as its tunnel does.
    fn of_tunnel(&mut self) -> Self {
        self.stream.client.activity.requests.add_one();
        Self {
            stream: Arc::clone(&self.stream),
            version: self.version,
            access: self.access.take(),
        }
    }

    /// What was begun cannot be taken back: the client gets what came of it, and then its connection
    /// is cut, so that it sees that the answer is not whole.
    fn cut_short(&self, failure: Failure) -> Box<dyn StdError + Send + Sync> {
        self.stream.cut_short.store(true, Relaxed);
        // In HTTP/2 a stream that ends so is reset at once: the library drops what its client had no room for.
        let is_http1 = self.version != Version::HTTP_2;
        self.stream.unwritten.store(is_http1, Relaxed);
        failure_log::cut_short(&self.stream.client, &failure);
        failure.into()
    }
}
