//! What the log says of requests that no endpoint has answered: one line for each cause and service,
//! and then at a slowing pace the latest with how many there were. An outage is not one more load.

use std::sync::{Arc, LazyLock};

use http::Method;

use super::Client;
use crate::{
    backoff::Digests,
    service::Attempts,
    upstream::{Cause, Failure},
};

/// So many lines of a cause and a service are written at once.
const AT_ONCE: u32 = 1;

static UNANSWERED: LazyLock<Digests<(Arc<str>, &'static str)>> = LazyLock::new(Digests::default);
static CUT_SHORT: LazyLock<Digests<&'static str>> = LazyLock::new(Digests::default);

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    method: Method,
    host: String,
    path: String,
}

impl Question {
    pub(super) fn new(method: &Method, host: Option<&str>, path: &str) -> Self {
        Self {
            method: method.clone(),
            host: host.unwrap_or_default().to_owned(),
            path: path.to_owned(),
        }
    }
}

/// A request that got no endpoint's answer, but the proxy's own.
pub(super) struct Trouble {
    pub(super) service: Arc<str>,
    pub(super) question: Question,
    pub(super) client: String,
    pub(super) status: u16,
    pub(super) request_id: String,
}

impl Trouble {
    /// Each of its attempts failed.
    pub(super) fn failed(self, attempts: &Attempts) {
        let last = attempts.failed.last();
        let cause = last.map_or("none", |last| Cause::of(&last.failure.kind).as_str());
        let out_of_budget = attempts.out_of_budget;
        let attempts = attempts.to_string();
        self.note(cause, move |trouble, times| {
            let Self {
                service,
                question,
                client,
                status,
                request_id,
            } = trouble;
            let Question { method, host, path } = question;
            tracing::warn!(
                status, request_id, %service, %method, host, path, client, cause, attempts,
                out_of_budget, times, "no answer"
            );
        });
    }

    /// Its endpoint has answered, and did not go over to the protocol.
    pub(super) fn not_gone_over(self) {
        self.note("not gone over", move |trouble, times| {
            let Self {
                service,
                question,
                client,
                status,
                request_id,
            } = trouble;
            let Question { host, path, .. } = question;
            tracing::warn!(
                status, request_id, %service, host, path, client, times,
                "an endpoint did not go over to the protocol"
            );
        });
    }

    /// There was no endpoint to ask.
    pub(super) fn no_endpoint(self, cause: &'static str, reason: &str) {
        let reason = reason.to_owned();
        self.note(cause, move |trouble, times| {
            let Self {
                service,
                question,
                client,
                status,
                request_id,
            } = trouble;
            let Question { method, host, path } = question;
            tracing::warn!(
                status, request_id, %service, %method, host, path, client, reason, times,
                "{cause}"
            );
        });
    }

    fn note(self, cause: &'static str, say: impl FnOnce(Self, u64) + Send + 'static) {
        let digest = UNANSWERED.of((Arc::clone(&self.service), cause));
        digest.note(AT_ONCE, move |times| say(self, times));
    }
}

/// An answer broke off after its head.
pub(super) fn cut_short(client: &Client, failure: &Failure) {
    let (client, error) = (client.peer.ip.clone(), failure.to_string());
    let digest = CUT_SHORT.of(Cause::of(&failure.kind).as_str());
    digest.note(AT_ONCE, move |times| {
        tracing::warn!(client, error, times, "an answer was cut short");
    });
}
