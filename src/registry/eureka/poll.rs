//! What a registry holds, kept up to date by asking again: everything at times, and in between
//! what has changed. Knows nothing of when it is asked, or for whom.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, StatusCode};
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    applications::{Applications, Services},
    client::{Client, Failures, Question, Reply},
    entry::Reading,
    fault::Fault,
    wire::{self, Answer},
};
use crate::{
    config,
    registry::{BuildError, RegistryError, room::Body, trouble::Trouble},
};

/// Everything is asked for again after this long. A server keeps a change for three minutes: what
/// came between two questions is in the answer then, and what Eureka's hash cannot see (it counts
/// statuses) does not last.
const EVERYTHING: Duration = Duration::from_secs(120);

/// An answer of more bytes is read on a thread of its own. That of 64 MiB takes a second, in which no
/// watcher, check or page of the control plane would be served.
const LARGE: usize = 1024 * 1024;

/// What an answer without the changes looks like: a server that was told to keep none, or one
/// that knows no such thing.
const NO_CHANGES: [StatusCode; 3] = [
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
];

#[derive(Debug)]
pub(super) struct Poller {
    client: Client,
    reading: Reading,
    delta: bool,
    /// What the server whose turn it is said last; `None` where that is not known.
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    applications: Applications,
    services: Arc<Services>,
    /// When everything was asked for.
    since: Instant,
    /// The tag of the answer that `applications` stands for; `None` also after a change to them.
    tag: Option<HeaderValue>,
    /// The tag of the last changes.
    delta_tag: Option<HeaderValue>,
    /// What became of asking for changes.
    delta: Delta,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delta {
    /// They can be asked for, and checked.
    Given,
    /// The server's hash is not computed as Eureka's is, so that changes cannot be checked for
    /// completeness.
    Unchecked,
    /// The server gives none.
    Refused,
}

/// What an answer with changes has come to.
enum Outcome {
    Taken,
    /// With them, what is known is still not what the server has.
    Unfit,
    Refused,
}

impl Poller {
    pub(super) fn new(registry: &str, settings: &config::Eureka) -> Result<Self, BuildError> {
        Ok(Self {
            client: Client::new(registry, settings)?,
            reading: Reading {
                by: settings.by,
                host: settings.host,
            },
            delta: settings.delta,
            known: None,
        })
    }

    /// Asks once: the server whose turn it is, and where that fails each of the others. After an
    /// error, or where it is dropped before its end, the next one starts from the beginning.
    pub(super) async fn poll(&mut self) -> Result<Arc<Services>, RegistryError> {
        let mut failures = Failures::default();
        for _ in 0..self.client.servers() {
            let known = self.known.take();
            match self.read(known).await {
                Ok(known) => {
                    let services = Arc::clone(&known.services);
                    self.known = Some(known);
                    return Ok(services);
                }
                Err(fault) => self.client.failed(fault, &mut failures),
            }
        }
        Err(self.client.explain("its applications", &failures))
    }

    async fn read(&self, mut known: Option<Known>) -> Result<Known, Fault> {
        let mut refused = known
            .as_ref()
            .is_some_and(|known| known.delta == Delta::Refused);
        let current = |known: &mut Known| {
            self.delta && known.delta == Delta::Given && known.since.elapsed() < EVERYTHING
        };
        if let Some(mut known) = known.take_if(current) {
            match self.changes(&mut known).await? {
                Outcome::Taken => return Ok(known),
                Outcome::Unfit => {}
                Outcome::Refused => refused = true,
            }
        }
        let mut known = self.everything(known).await?;
        if refused {
            known.delta = Delta::Refused;
        }
        Ok(known)
    }

    async fn everything(&self, before: Option<Known>) -> Result<Known, Fault> {
        let since = Instant::now();
        let tag = before.as_ref().and_then(|before| before.tag.clone());
        let reply = self.ask(&["apps"], tag, &[]).await?;
        if let Some(before) = before
            && reply.status == StatusCode::NOT_MODIFIED
        {
            return Ok(Known { since, ..before });
        }
        let answer = self.understood(reply.body).await?;
        let mut applications = Applications::default();
        applications.apply(answer.changes);
        let checked = applications.hash() == answer.hash;
        Ok(Known {
            services: Arc::new(applications.by_service()),
            applications,
            since,
            tag: reply.tag,
            delta_tag: None,
            delta: if checked {
                Delta::Given
            } else {
                Delta::Unchecked
            },
        })
    }

    async fn changes(&self, known: &mut Known) -> Result<Outcome, Fault> {
        let tag = known.delta_tag.clone();
        let reply = self.ask(&["apps", "delta"], tag, &NO_CHANGES).await?;
        match reply.status {
            StatusCode::NOT_MODIFIED => return Ok(Outcome::Taken),
            status if NO_CHANGES.contains(&status) => return Ok(Outcome::Refused),
            _ => {}
        }
        let answer = self.understood(reply.body).await?;
        let changed = known.applications.apply(answer.changes);
        if known.applications.hash() != answer.hash {
            return Ok(Outcome::Unfit);
        }
        if changed {
            known.services = Arc::new(known.applications.by_service());
            known.tag = None;
        }
        known.delta_tag = reply.tag;
        Ok(Outcome::Taken)
    }

    /// Asks for what may be known already under this tag.
    async fn ask(
        &self,
        path: &[&str],
        known: Option<HeaderValue>,
        also: &[StatusCode],
    ) -> Result<Reply, Fault> {
        let unchanged = known.is_some().then_some(StatusCode::NOT_MODIFIED);
        let also: Vec<_> = also.iter().copied().chain(unchanged).collect();
        let question = Question {
            method: Method::GET,
            path,
            known,
            body: None,
            also: &also,
        };
        self.client.ask(question).await
    }

    async fn understood(&self, body: Body) -> Result<Answer, Fault> {
        let reading = self.reading;
        let answer = if body.len() > LARGE {
            let read = spawn_blocking(move || wire::read(&body, reading));
            read.await
                .unwrap_or_else(|_| Err("it was not read".to_owned()))
        } else {
            wire::read(&body, reading)
        };
        answer.map_err(|error| Trouble::Garbage("Eureka's JSON or XML", error).into())
    }
}
