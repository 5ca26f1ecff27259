//! The answers that are the proxy's own: why, with which status, and in words that help.

use std::{error::Error as StdError, sync::Arc};

use http::{HeaderValue, StatusCode, header};

use super::{
    Client, RequestStream,
    failure_log::{Question, Trouble},
    grpc_web::Web,
    rate::Limited,
    response::{RequestLog, Response, hsts_of, say_close},
};
use crate::{
    config::Subset,
    grpc::{self, Code},
    service::{Attempts, CallError, Service, Undelivered},
    upstream::FailureKind,
};

/// Why a request was not forwarded, or not answered by an endpoint.
pub(super) enum LocalReply {
    /// It breaks HTTP's rules, or could be read in two ways.
    Malformed(&'static str),
    Connect,
    /// A `CONNECT` of HTTP/2 to a protocol that its stream may not go over to.
    NoUpgrade,
    /// One whose endpoint has answered, and did not go over.
    NotGoneOver(Arc<str>),
    Trace,
    MethodTooLong,
    TargetTooLong,
    TooManyHeaders,
    HeadTooLarge,
    Coding,
    Expectation,
    Loop,
    NoRoute,
    UnknownService(Arc<str>),
    CatalogNotRead,
    /// There is no room for it.
    Shed(Arc<str>),
    /// Its client has made as many as the route allows.
    Limited(Limited),
    /// The service has no endpoint that the route wants, nor has the fallback that was called
    /// instead.
    NoEndpoints {
        service: EmptyService,
        subset: Option<Arc<Subset>>,
        fallback: Option<EmptyService>,
    },
    /// The client's body broke off: mostly the client is gone.
    BodyBroke(Box<dyn StdError + Send + Sync>),
    /// Every attempt failed.
    Failed {
        service: Arc<str>,
        attempts: Attempts,
    },
}

/// A service that has no endpoint to call.
pub(super) struct EmptyService {
    name: Arc<str>,
    /// Whether its registry has ever been read.
    is_read: bool,
    /// Whether its registries were read, and have never heard of it.
    is_unregistered: bool,
}

impl EmptyService {
    fn of(service: &Service) -> Self {
        Self {
            name: Arc::clone(service.name()),
            is_read: service.is_read(),
            is_unregistered: service.is_unregistered(),
        }
    }

    /// What a client is told whose route wants this subset of the service, and whose request had no
    /// answer by the fallback either, where there is one.
    fn message(&self, subset: Option<&Arc<Subset>>, fallback: Option<&Self>) -> String {
        let name = &self.name;
        let wanted = subset.map(ToString::to_string);
        let wanted = wanted.filter(|wanted| !wanted.is_empty());
        let with = wanted.map_or(String::new(), |wanted| format!(" with {wanted}"));
        let why = match (self.is_read, self.is_unregistered) {
            (true, true) => format!("service `{name}` is not registered"),
            (true, false) => format!("service `{name}` has no healthy instance{with}"),
            (false, _) => format!("{UNREAD} for service `{name}`"),
        };
        let Some(Self { name, is_read, .. }) = fallback else {
            return why;
        };
        match (self.is_read, is_read) {
            (true, true) if !self.is_unregistered => {
                format!("{why}, nor has its fallback `{name}`")
            }
            (_, true) => format!("{why}, and its fallback `{name}` has no healthy instance"),
            (true, false) => format!("{why}, and {UNREAD} for its fallback `{name}`"),
            (false, false) => format!("{why}, nor for its fallback `{name}`"),
        }
    }
}

/// What `Allow` says; other methods are forwarded too, but for CONNECT and TRACE.
pub(super) const FORWARDED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Why no endpoint is known where no registry has ever been read.
const UNREAD: &str = "the registry could not be read yet";

/// How long a client is told to stay away where no endpoint can answer it.
const RETRY_AFTER: &str = "1";

impl LocalReply {
    /// Why no endpoint has answered a request of a route that wants this subset.
    pub(super) fn of(undelivered: Undelivered<'_>, subset: Option<&Arc<Subset>>) -> Self {
        let Undelivered {
            service,
            instead_of,
            error,
        } = undelivered;
        let name = Arc::clone(service.name());
        match error {
            CallError::Shed(_) => Self::Shed(name),
            CallError::NoEndpoints => Self::NoEndpoints {
                service: EmptyService::of(instead_of.unwrap_or(service)),
                subset: subset.cloned(),
                fallback: instead_of.map(|_| EmptyService::of(service)),
            },
            CallError::BodyBroke(error) => Self::BodyBroke(error),
            CallError::Failed(attempts) => Self::Failed {
                service: name,
                attempts,
            },
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Malformed(_) | Self::BodyBroke(_) => StatusCode::BAD_REQUEST,
            Self::Connect | Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyHeaders | Self::HeadTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::MethodTooLong | Self::Coding | Self::NoUpgrade => StatusCode::NOT_IMPLEMENTED,
            Self::NotGoneOver(_) => StatusCode::BAD_GATEWAY,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NoRoute | Self::UnknownService(_) => StatusCode::NOT_FOUND,
            Self::CatalogNotRead | Self::NoEndpoints { .. } | Self::Shed(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Failed { attempts, .. } => match last_failure(attempts) {
                Some(kind) if is_late(kind) => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::BAD_GATEWAY,
            },
        }
    }

    /// What the client is told: the service, but not who its endpoints are.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Malformed(why) => (*why).to_owned(),
            Self::Connect | Self::Trace => "CONNECT and TRACE are not forwarded".to_owned(),
            Self::NoUpgrade => "no connection goes over to this protocol here".to_owned(),
            Self::NotGoneOver(name) => {
                format!("service `{name}` has answered, and did not go over to the protocol")
            }
            Self::MethodTooLong => "the request's method is too long".to_owned(),
            Self::TargetTooLong => "the request's target is too long".to_owned(),
            Self::TooManyHeaders => "the request has too many header fields".to_owned(),
            Self::HeadTooLarge => {
                "the request's head, or the number of its fields, is too large".to_owned()
            }
            Self::Coding => "the only transfer coding understood is `chunked`".to_owned(),
            Self::Expectation => "the only expectation understood is `100-continue`".to_owned(),
            Self::Loop => "the request has passed through this proxy too often".to_owned(),
            Self::NoRoute => "no route takes this request".to_owned(),
            Self::UnknownService(name) => format!("no service `{name}` is registered"),
            Self::BodyBroke(_) => "the request's body broke off".to_owned(),
            Self::CatalogNotRead => UNREAD.to_owned(),
            Self::Limited(_) => "too many requests for now".to_owned(),
            Self::Shed(name) => format!("service `{name}` has as much to do as it may"),
            Self::NoEndpoints {
                service,
                subset,
                fallback,
            } => service.message(subset.as_ref(), fallback.as_ref()),
            Self::Failed { service, attempts } => match last_failure(attempts) {
                Some(kind) if is_late(kind) => {
                    format!("service `{service}` did not answer in time")
                }
                Some(FailureKind::BadAnswer(_)) => {
                    format!("service `{service}` gave an answer that is not sound HTTP")
                }
                Some(FailureKind::TooLarge(_)) => {
                    format!("service `{service}` gave an answer with more headers than it may")
                }
                _ => format!("service `{service}` could not be reached"),
            },
        }
    }

    pub(super) fn into_response(self, stream: &RequestStream, mut record: RequestLog) -> Response {
        let (status, message) = (self.status(), self.message());
        let id = format!("{:016x}", fastrand::u64(..));
        let question = record.question.take().unwrap_or_default();
        self.note(&stream.client, *question, status, &message, &id);
        if matches!(self, Self::BodyBroke(_)) {
            record.abandoned(&id);
        } else {
            record.refused(&id);
        }
        if record.is_grpc {
            return self.into_grpc(stream, record, status, &message, &id);
        }
        let json = record.wants_json;
        let body = if json {
            let error = serde_json::json!({
                "status": status.as_u16(), "error": message, "request_id": id,
            });
            format!("{error}\n")
        } else {
            format!("{status}: {message} (request {id})\n")
        };
        let mut response = record.reply(status, body);
        let headers = response.headers_mut();
        let content_type = if json {
            "application/json"
        } else {
            "text/plain; charset=utf-8"
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert("x-request-id", id);
        }
        if let Self::Limited(limited) = &self {
            limited.note(headers);
        }
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static(FORWARDED_METHODS));
            }
            _ => {}
        }
        if self.ends_connection() {
            stream.rest.disregard_what_follows();
            say_close(&mut response);
        }
        response
    }

    /// What a client of gRPC is told: an answer of a head alone, with gRPC's status. It is counted by the
    /// status of HTTP that another client would have.
    #[cold]
    fn into_grpc(
        self,
        stream: &RequestStream,
        mut record: RequestLog,
        status: StatusCode,
        message: &str,
        id: &str,
    ) -> Response {
        let code = self.code(status);
        record.called(code);
        let content_type = record.web.map_or("application/grpc", Web::content_type);
        let mut response = record.reply(status, "");
        *response.status_mut() = StatusCode::OK;
        let message = grpc::message(&format!("{message} (request {id})"));
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(content_type);
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert("grpc-status", code.value());
        for (name, text) in [("grpc-message", &*message), ("x-request-id", id)] {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
        if self.ends_connection() {
            stream.rest.disregard_what_follows();
            say_close(&mut response);
        }
        response
    }

    /// gRPC's status in the place of this one of HTTP.
    fn code(&self, status: StatusCode) -> Code {
        match self {
            Self::BodyBroke(_) => Code::CANCELLED,
            // No server here has such a method.
            Self::NoRoute | Self::UnknownService(_) => Code::UNIMPLEMENTED,
            Self::Limited(_) | Self::Shed(_) | Self::TooManyHeaders | Self::HeadTooLarge => {
                Code::RESOURCE_EXHAUSTED
            }
            Self::CatalogNotRead | Self::NoEndpoints { .. } => Code::UNAVAILABLE,
            Self::Failed { .. } if status == StatusCode::GATEWAY_TIMEOUT => Code::DEADLINE_EXCEEDED,
            Self::Failed { attempts, .. } => match last_failure(attempts) {
                Some(FailureKind::BadAnswer(_) | FailureKind::TooLarge(_)) => Code::INTERNAL,
                _ => Code::UNAVAILABLE,
            },
            Self::Malformed(_) => Code::INTERNAL,
            _ => Code::UNKNOWN,
        }
    }

    /// What follows a request that was not understood need not be the next one; nor what follows a
    /// `CONNECT`, which belongs to the tunnel.
    fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::BodyBroke(_)
                | Self::Coding
                | Self::MethodTooLong
                | Self::Connect
        )
    }

    /// What is answered to a head that the HTTP library does not understand, instead of `answer`, which is
    /// the library's own and has no body. `bodyless`: nor has this.
    fn into_bytes(self, client: &Client, answer: &[u8], bodyless: bool) -> Option<Vec<u8>> {
        let written: [&[u8]; 2] = [b"content-length: 0\r\n", b"Content-Length: 0\r\n"];
        let without_body = written[0];
        let mut found = written.iter();
        let at = found.find_map(|field| memchr::memmem::find(answer, field))?;
        let (status, message) = (self.status(), self.message());
        let id = format!("{:016x}", fastrand::u64(..));
        self.note(client, Question::default(), status, &message, &id);
        let body = format!("{status}: {message} (request {id})\n");
        let mut fields = format!(
            "content-length: {}\r\ncontent-type: text/plain; charset=utf-8\r\nx-request-id: {id}\r\n",
            body.len()
        );
        if let Some(Ok(hsts)) = hsts_of(client).map(HeaderValue::to_str) {
            fields += &format!("{}: {hsts}\r\n", header::STRICT_TRANSPORT_SECURITY);
        }
        let rest = &answer[at + without_body.len()..];
        let body = if bodyless { "" } else { &body };
        Some([&answer[..at], fields.as_bytes(), rest, body.as_bytes()].concat())
    }

    /// One line in the log; at `warn`, and at a slowing pace, where an endpoint or a registry is at
    /// fault.
    fn note(
        &self,
        client: &Client,
        question: Question,
        status: StatusCode,
        reason: &str,
        request_id: &str,
    ) {
        let (status, worker) = (status.as_u16(), &client.worker);
        let trouble = |service: &Arc<str>| Trouble {
            service: Arc::clone(service),
            question,
            client: client.peer.ip.clone(),
            status,
            request_id: request_id.to_owned(),
        };
        match self {
            Self::Failed { service, attempts } => trouble(service).failed(attempts),
            Self::NoEndpoints { service, .. } => {
                let cause = match (service.is_read, service.is_unregistered) {
                    (true, true) => "not registered",
                    (true, false) => "no healthy instance",
                    (false, _) => "not read yet",
                };
                trouble(&service.name).no_endpoint(cause, reason);
            }
            Self::Limited(limited) => {
                let (client, wait) = (&client.peer.ip, limited.wait);
                tracing::debug!(status, request_id, %client, ?wait, "limited");
            }
            // Counted by the service; a line for each would be one more load.
            Self::Shed(service) => {
                tracing::debug!(status, request_id, %service, "shed");
            }
            // Counted by the service, with its answers: a success, as far as it goes.
            Self::NotGoneOver(service) => trouble(service).not_gone_over(),
            Self::BodyBroke(error) => {
                tracing::debug!(status, request_id, client = %client.peer.ip, %error, "{reason}");
            }
            Self::NoRoute | Self::UnknownService(_) | Self::CatalogNotRead => {
                worker.unrouted.add_one();
                tracing::debug!(status, request_id, reason, "not routed");
            }
            _ => {
                worker.refused.add_one();
                tracing::debug!(status, request_id, client = %client.peer.ip, reason, "refused");
            }
        }
    }
}

/// What is answered to a head that the HTTP library does not understand: as to any request that is
/// refused. `answer` is the library's own; with `bodyless` the request is a `HEAD`.
pub(crate) fn refusal_of_head(client: &Client, answer: &[u8], bodyless: bool) -> Option<Vec<u8>> {
    let refusal = match answer.get(b"HTTP/1.1 ".len()..)?.get(..3)? {
        b"414" => LocalReply::TargetTooLong,
        b"431" => LocalReply::HeadTooLarge,
        _ => LocalReply::Malformed("the request's head is not sound HTTP/1.1"),
    };
    refusal.into_bytes(client, answer, bodyless)
}

/// Whether an attempt was over before its endpoint had done what it should.
fn is_late(kind: &FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::Timeout
            | FailureKind::TryTimeout
            | FailureKind::ConnectTimeout
            | FailureKind::NoTurn
    )
}

fn last_failure(attempts: &Attempts) -> Option<&FailureKind> {
    attempts.failed.last().map(|last| &last.failure.kind)
}
