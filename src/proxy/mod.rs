//! The whole request: admit → route → service → attempts → answer, on one screen. Knows nothing
//! of sockets and listeners, or of where endpoints come from.

mod access;
mod admit;
mod body;
mod client;
mod client_certificate;
mod connection_fields;
pub(crate) mod explain;
mod failure_log;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod generation;
mod grpc_timeout;
mod grpc_web;
mod header_counts;
mod local_reply;
mod outgoing;
mod rate;
mod response;
mod spelling;
mod to_https;
mod tunnel;
mod unread_body;
mod worker;

use std::{
    borrow::Cow,
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Instant;

pub(crate) use body::RequestBody;
pub(crate) use client::{Client, ClientAddress, RequestStream, Scheme};
pub(crate) use generation::{Generation, Goal, Target};
pub(crate) use local_reply::refusal_of_head;
pub(crate) use rate::Rate;
pub(crate) use response::Response;
pub(crate) use spelling::HeadText;
pub(crate) use tunnel::{Parting, Tunnel, TunnelClient, TunnelWatch};
pub(crate) use unread_body::Rest;
pub(crate) use worker::{Http2Counts, Shared, Worker};

use crate::{
    discovery::Lookup,
    route::Match,
    service::{ANSWERED, AnswerSlot, Destination, Service, dispatch, over_at, within},
    upstream,
};
use admit::{Admitted, Head};
use failure_log::Question;
use local_reply::LocalReply;
use outgoing::{Asking, Outgoing};
use rate::Level;
use response::RequestLog;

/// Answers one request.
#[allow(
    clippy::manual_async_fn,
    reason = "an `async fn` holds its arguments twice: as given, and as used"
)]
pub(crate) fn handle(
    stream: &Arc<RequestStream>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> + Send {
    let (mut parts, incoming) = request.into_parts();
    async move {
        let client = &*stream.client;
        let mut record = RequestLog::new(stream, Instant::now(), &parts);
        let mut slot = AnswerSlot::default();
        let own = match admit::admit(stream, &mut record, &mut parts, incoming) {
            Ok(Admitted {
                ref mut head,
                ref mut request,
            }) => match Own::answer_to(client, head) {
                Some(own) => own,
                None => match forward(client, &mut record, head, request, &mut slot).await {
                    Ok(()) => match slot.answer {
                        Some(answer) => return Ok(record.pass_on(slot.head, answer)),
                        None => unreachable!("{ANSWERED}"),
                    },
                    Err(refusal) => Own::Refusal(refusal),
                },
            },
            Err(refusal) => Own::Refusal(refusal),
        };
        // A body that was not forwarded is read no more.
        stream.rest.settle().await;
        Ok(match own {
            Own::Health => health(client, record),
            Own::Proof(proof) => record.reply(StatusCode::OK, proof),
            Own::Options => options(record),
            Own::Redirect(location) => redirect(record, &location),
            Own::Refusal(refusal) => refusal.into_response(stream, record),
        })
    }
}

/// An answer of the proxy's own.
enum Own {
    Health,
    Proof(Bytes),
    Options,
    Redirect(String),
    Refusal(LocalReply),
}

impl Own {
    /// What a request gets that is forwarded nowhere. To a `CONNECT` an answer of success would say that its
    /// stream has gone over.
    fn answer_to(client: &Client, head: &Head<'_>) -> Option<Self> {
        match Self::to(client, head) {
            Some(Self::Health | Self::Proof(_)) if head.is_connect() => {
                Some(Self::Refusal(LocalReply::NoUpgrade))
            }
            own => own,
        }
    }

    /// The same of any other request.
    fn to(client: &Client, head: &Head<'_>) -> Option<Self> {
        // An authority of certificates asks in the clear, and where routes may lead elsewhere.
        if let Some(proof) = client.worker.shared.challenges.answer(head.path()) {
            return Some(Self::Proof(proof));
        }
        match head.path() {
            path if client.listener.health_path.as_deref() == Some(path) => Some(Self::Health),
            admit::ASTERISK => Some(Self::Options),
            _ => match to_https::location(client, head) {
                Ok(location) => location.map(Self::Redirect),
                Err(refusal) => Some(Self::Refusal(refusal)),
            },
        }
    }
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
    if client.worker.shared.ready.load(Relaxed) && !client.is_listener_leaving() {
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
    head: &mut Head<'_>,
    request: &mut upstream::Request<RequestBody>,
    slot: &mut AnswerSlot<RequestBody>,
) -> Result<(), LocalReply> {
    let generation = client.worker.generation();
    let matched = route(&generation, client, head)?;
    let target = &generation.targets[matched.route];
    record.goes_by(target);
    let granted = grant(target, &Asking(client, head), record.arrived())?;
    let worker = client.worker.index;
    let strip = target.strip.bytes(matched.prefix_len);
    let found;
    let mut asked = record.arrived();
    let service = match &target.goal {
        Goal::Service(service) => service,
        Goal::Split(split) => split.next(worker),
        Goal::Template { by_host } => {
            let name = name(matched.service.unwrap_or_default(), *by_host);
            let mut lookup = generation.directory.lookup(&name);
            if matches!(lookup, Lookup::NotRead) {
                asked = Box::pin(until_listed(&generation, target, asked, head.deadline)).await;
                lookup = generation.directory.lookup(&name);
            }
            found = found_in(lookup, &name)?;
            &found
        }
    };
    let to = Destination {
        service,
        subset: target.subset.as_ref(),
        overrides: target.overrides.as_deref(),
        deadline: head.deadline,
        fallback: || generation.fallback(target, service),
    };
    let (count, access) = record.parts();
    let mut outgoing = Outgoing {
        client,
        head,
        service,
        access,
        target,
        strip,
    };
    outgoing.check_connect(|| generation.fallback(target, service))?;
    let dispatched = dispatch(to, &mut outgoing, request, count, worker, asked, slot);
    if let Err(undelivered) = dispatched.await {
        let question = Question::new(&head.parts.method, head.host(), head.path());
        record.question = Some(Box::new(question));
        return Err(LocalReply::of(undelivered, target.subset.as_ref()));
    }
    let service = outgoing.service;
    check_answer(head, service, record, granted, slot)
}

/// Notes of a service's answer what its client and the log are to know; or says why it is not passed on.
fn check_answer(
    head: &Head<'_>,
    service: &Service,
    record: &mut RequestLog,
    granted: Option<(&Arc<Rate>, Level)>,
    slot: &mut AnswerSlot<RequestBody>,
) -> Result<(), LocalReply> {
    if let Some(answer) = &slot.answer {
        record.answered_by(answer.by.pool().address());
    }
    let answer = &mut slot.head;
    if let Some((rate, level)) = granted {
        rate.note(level, &mut answer.headers);
    }
    if head.is_connect() && answer.status.is_success() {
        let question = Question::new(&head.parts.method, head.host(), head.path());
        record.question = Some(Box::new(question));
        return Err(LocalReply::NotGoneOver(Arc::clone(service.name())));
    }
    Ok(())
}

/// The route that takes a request.
fn route<'g>(
    generation: &'g Generation,
    client: &Client,
    head: &'g Head<'_>,
) -> Result<Match<'g>, LocalReply> {
    let matched = generation.routes.find(&head.route_by());
    let leads_elsewhere =
        |reading: &String| leads_elsewhere(generation, client, head, reading, matched);
    if head.readings.iter().any(leads_elsewhere) {
        return Err(LocalReply::Malformed(
            "the path can be read in another way, which leads elsewhere",
        ));
    }
    matched.ok_or(LocalReply::NoRoute)
}

/// The service that a template route's request names.
fn found_in(lookup: Lookup, name: &str) -> Result<Arc<Service>, LocalReply> {
    match lookup {
        Lookup::Found(service) => Ok(service),
        Lookup::Unknown => Err(LocalReply::UnknownService(name.into())),
        Lookup::NotRead => Err(LocalReply::CatalogNotRead),
    }
}

/// Takes a request out of what its client may make; with what its answer says of that.
fn grant<'g>(
    target: &'g Target,
    asking: &Asking<'_>,
    arrived: Instant,
) -> Result<Option<(&'g Arc<Rate>, Level)>, LocalReply> {
    let Some(rate) = &target.rate else {
        return Ok(None);
    };
    let level = rate.take(asking, arrived);
    Ok(Some((rate, level.map_err(LocalReply::Limited)?)))
}

/// Whether another reading of a request's path leads to another route or service than the one that was
/// found, or to what the listener answers itself.
#[cold]
fn leads_elsewhere(
    generation: &Generation,
    client: &Client,
    head: &Head<'_>,
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

/// Waits for the catalogs that were not read yet, from now, and returns the moment at which they were.
/// At the end of its time the request is over.
async fn until_listed(
    generation: &Generation,
    target: &Target,
    now: Instant,
    deadline: Option<Duration>,
) -> Instant {
    let directory = &generation.directory;
    let defaults = directory.defaults();
    let timeout = target.overrides().timeout(defaults.timeout);
    let total = over_at(now, &timeout, deadline);
    let limit = within(defaults.discovery_timeout, total, now);
    directory.wait_for_catalogs(limit).await;
    Instant::now()
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
        assert!(size <= 2_912, "{size} bytes");
    }
}
