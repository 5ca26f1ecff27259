//! The whole request: admit → route → service → attempts → answer, on one screen. Knows nothing
//! of sockets and listeners, or of where endpoints come from.

mod admit;
mod body;
mod client;
mod client_certificate;
mod connection_fields;
mod failure_log;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod generation;
mod grpc_timeout;
mod local_reply;
mod outgoing;
mod rate;
mod response;
mod spelling;
mod to_https;
mod unread_body;
mod worker;

use std::{
    borrow::Cow,
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Instant;

pub use body::{ClientBody, RequestBody};
pub use client::{Activity, Client, Peer, RequestStream, Scheme};
pub use generation::{Generation, Goal, Rates, Strip, Target};
pub use local_reply::refusal_of_head;
pub use rate::Rate;
pub use response::{AnswerBody, Response};
pub use spelling::HeadText;
pub use unread_body::Rest;
pub use worker::{Pinned, Shared, Worker};

use crate::{
    config::Timeouts,
    discovery::Lookup,
    route::Match,
    service::{CallAnswer, CallError, CallPolicy, Service, within},
    upstream::Answer,
};
use admit::Admitted;
use failure_log::Question;
use local_reply::LocalReply;
use outgoing::{Asking, Outgoing};
use response::RequestLog;

/// Answers one request.
#[allow(
    clippy::manual_async_fn,
    reason = "an `async fn` holds its arguments twice: as given, and as used"
)]
pub fn handle(
    stream: &Arc<RequestStream>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> + Send {
    async move {
        let client = &*stream.client;
        let mut record = RequestLog::new(stream, Instant::now(), &request);
        let mut admitted = admit::admit(stream, &mut record, request);
        let outcome = match admitted {
            Ok(ref mut request) => {
                let outcome = outcome(client, &mut record, request).await;
                if !matches!(outcome, Ok(Outcome::Answer(_))) {
                    // A body that was not forwarded is read no more.
                    drop(std::mem::take(&mut request.body));
                }
                outcome
            }
            Err(refusal) => Err(refusal),
        };
        if !matches!(outcome, Ok(Outcome::Answer(_))) {
            stream.rest.settle().await;
        }
        Ok(match outcome {
            Ok(Outcome::Answer(answer)) => record.pass_on(answer),
            Ok(Outcome::Health) => health(client, record),
            Ok(Outcome::Options) => options(record),
            Ok(Outcome::Redirect(location)) => redirect(record, &location),
            Err(refusal) => refusal.into_response(stream, record),
        })
    }
}

/// What a request that is not refused gets.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are the large one, and no request has a box of its own"
)]
enum Outcome {
    Answer(Answer<RequestBody>),
    Health,
    Options,
    Redirect(String),
}

async fn outcome(
    client: &Client,
    record: &mut RequestLog,
    request: &mut Admitted,
) -> Result<Outcome, LocalReply> {
    Ok(match request.head.path() {
        path if client.listener.health_path.as_deref() == Some(path) => Outcome::Health,
        admit::ASTERISK => Outcome::Options,
        _ => match to_https::location(client, &request.head)? {
            Some(location) => Outcome::Redirect(location),
            None => Outcome::Answer(forward(client, record, request).await?),
        },
    })
}

/// The client is to come again by TLS, with the same method and body.
fn redirect(record: RequestLog, location: &str) -> Response {
    let mut response = record.reply(StatusCode::PERMANENT_REDIRECT, "");
    // A host and a target that were admitted are sound values.
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The listener's own answer, for load balancers that reach nothing but this port.
fn health(client: &Client, record: RequestLog) -> Response {
    if client.worker.shared.ready.load(Relaxed) {
        record.reply(StatusCode::OK, "ready\n")
    } else {
        record.reply(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// `OPTIONS *` asks what the server itself can do (RFC 9110 9.3.7), and has no route.
fn options(record: RequestLog) -> Response {
    let mut response = record.reply(StatusCode::NO_CONTENT, "");
    let allowed = HeaderValue::from_static(local_reply::FORWARDED_METHODS);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

async fn forward(
    client: &Client,
    record: &mut RequestLog,
    request: &mut Admitted,
) -> Result<Answer<RequestBody>, LocalReply> {
    // One generation for the whole request.
    let generation = client.worker.generation();
    let matched = generation.routes.find(&request.head.route_by());
    let leads_elsewhere =
        |reading: &String| leads_elsewhere(&generation, client, &request.head, reading, matched);
    if request.head.readings.iter().any(leads_elsewhere) {
        return Err(LocalReply::Malformed(
            "the path can be read in another way, which leads elsewhere",
        ));
    }
    let matched = matched.ok_or(LocalReply::NoRoute)?;
    let target = &generation.targets[matched.route];
    let strip = target.strip.bytes(matched.prefix_len);
    let granted = match &target.rate {
        Some(rate) => {
            let asking = Asking(client, &request.head);
            let level = rate.take(&asking, record.arrived);
            Some((rate, level.map_err(LocalReply::Limited)?))
        }
        None => None,
    };
    let worker = client.worker.index;
    let (arrived, deadline) = (record.arrived, request.head.deadline);
    // When all must be over.
    let total = |timeout: &Timeouts| {
        let limits = [timeout.total, deadline];
        let total = limits.into_iter().flatten().min();
        total.map(|total| arrived + total)
    };
    let found;
    let mut asked = record.arrived;
    let mut service = match &target.goal {
        Goal::Service(service) => service,
        Goal::Split(split) => split.next(worker),
        Goal::Template { by_host } => {
            let name = name(matched.service.unwrap_or_default(), *by_host);
            let defaults = generation.directory.defaults().timeout;
            let mut lookup = generation.directory.lookup(&name);
            if matches!(lookup, Lookup::NotRead) {
                let total = total(&target.overrides().timeout(defaults));
                Box::pin(until_listed(&generation, asked, total)).await;
                (lookup, asked) = (generation.directory.lookup(&name), Instant::now());
            }
            found = match lookup {
                Lookup::Found(service) => service,
                Lookup::Unknown => return Err(LocalReply::UnknownService(name.into())),
                Lookup::NotRead => return Err(LocalReply::CatalogNotRead),
            };
            &found
        }
    };
    let mut subset = target.subset.as_ref();
    let mut instead_of = None;
    loop {
        let terms = CallPolicy::of(service, subset, target.overrides());
        let total = total(&terms.timeout);
        service.usage().note(asked);
        if !service.is_read() {
            asked = Box::pin(until_read(service, asked, total)).await;
        }
        record.routed_to(service, worker);
        let body = std::mem::take(&mut request.body);
        let mut outgoing = Outgoing {
            client,
            head: &mut request.head,
            service,
            host_header: target.host_header,
            strip,
        };
        let unanswered = match service
            .call(worker, &mut outgoing, body, &terms, total, asked)
            .await
        {
            Ok(CallAnswer {
                mut answer,
                by,
                attempts,
            }) => {
                record.answered_by(by.pool().address(), attempts);
                if let Some((rate, level)) = granted {
                    rate.note(level, &mut answer.head.headers);
                }
                return Ok(answer);
            }
            Err(unanswered) => unanswered,
        };
        match (unanswered, generation.fallback(target, service)) {
            (CallError::NoEndpoints(body), Some(fallback)) if instead_of.is_none() => {
                service.lane(worker).fallbacks.add_one();
                instead_of = Some((service, subset));
                asked = Instant::now();
                (service, subset, request.body) = (fallback, None, body);
            }
            (unanswered, _) => {
                let head = &request.head;
                let question = Question::new(&head.parts.method, head.host(), head.path());
                record.question = Some(Box::new(question));
                return Err(LocalReply::of(service, subset, instead_of, unanswered));
            }
        }
    }
}

/// Whether another reading of a request's path leads to another route or service than the one that was
/// found, or to what the listener answers itself.
#[cold]
fn leads_elsewhere(
    generation: &Generation,
    client: &Client,
    head: &admit::Head,
    reading: &str,
    found: Option<Match<'_>>,
) -> bool {
    if client.listener.health_path.as_deref() == Some(reading) {
        return true;
    }
    let other = generation.routes.find_reading(&head.route_as(reading));
    match (found, other) {
        (None, None) => false,
        (Some(found), Some(other)) => {
            let named = |matched: &Match<'_>| {
                let captured = matched.service.unwrap_or_default();
                name(captured, false).into_owned()
            };
            found.route != other.route || named(&found) != named(&other)
        }
        _ => true,
    }
}

/// Waits for a service that was not read yet, from now, and returns the moment at which it was. At
/// `total` the request is over.
async fn until_read(service: &Service, now: Instant, total: Option<Instant>) -> Instant {
    let limit = within(service.policy().discovery_timeout, total, now);
    service.wait_until_read(limit).await;
    Instant::now()
}

/// Waits for the catalogs that were not read yet, from now. At `total` the request is over.
async fn until_listed(generation: &Generation, now: Instant, total: Option<Instant>) {
    let directory = &generation.directory;
    let limit = within(directory.defaults().discovery_timeout, total, now);
    directory.wait_for_catalogs(limit).await;
}

/// A service's name as a request has it: escaped in a path, for registries allow spaces and the
/// like, and in any letter case in a host.
fn name(captured: &str, by_host: bool) -> Cow<'_, str> {
    if by_host {
        captured.to_ascii_lowercase().into()
    } else if captured.contains('%') {
        percent_encoding::percent_decode_str(captured).decode_utf8_lossy()
    } else {
        captured.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<C, R, F>(_: impl Fn(C, R) -> F) -> usize {
        size_of::<F>()
    }

    /// Of each request its future is copied once, and its memory is waited for: arguments that are held
    /// twice, and waiting that seldom happens, add up.
    #[test]
    fn the_future_of_a_request_is_small() {
        let size = size(|stream: &'static Arc<RequestStream>, request| handle(stream, request));
        assert!(size <= 2_816, "{size} bytes");
    }
}
