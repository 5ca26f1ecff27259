//! The agents of one Consul, and how one of them is asked: in their order, the next where one
//! fails, sticking to the one that answers; with the token, deadlines, limits, and a bound on the
//! questions that are under way at once. Knows nothing of what the answers mean.

use std::{
    num::NonZeroU64,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use reqwest::Url;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{
    breaker::{Breaker, Subject},
    fault::{Failed, Fault},
    http::{Http, MAX_BODY, Reply},
    token::{Bearer, Token},
};
use crate::{
    config,
    evidence::{History, Mark},
    registry::{
        BuildError, RegistryError, http_api,
        room::{Body, Room},
    },
    tls::client_config,
};

/// How long an answer may take to begin, beside what we let the agent wait.
const EXCHANGE: Duration = Duration::from_secs(10);

/// After so much silence it may be a balancer before the agent that ends a query, and not the agent.
const SILENCE: Duration = Duration::from_secs(1);

/// Questions that may be under way at once beside those that wait for a change.
const SHORT: usize = 2;

/// What is asked, again and again.
pub(super) struct Question {
    /// Path and query, without `index` and `wait`.
    target: String,
    /// What it is about, for errors: "service `cart`".
    subject: String,
}

impl Question {
    /// The question at this path, whose segments are encoded, with these parameters; one without
    /// a value is a flag.
    pub(super) fn new<'a>(
        subject: String,
        path: &[&str],
        parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Self {
        // Of a URL this is the query only: see `path_below`.
        let mut url = Url::parse("http://agent").expect("it is a URL");
        for (key, value) in parameters {
            match value {
                Some(value) => url.query_pairs_mut().append_pair(key, value),
                None => url.query_pairs_mut().append_key_only(key),
            };
        }
        let mut target = http_api::path_below("", path);
        if let Some(query) = url.query() {
            target += "?";
            target += query;
        }
        Self { target, subject }
    }
}

/// A 200 with a valid index.
pub(super) struct Answer {
    pub(super) index: Index,
    pub(super) body: Body,
    /// Whether what it lists may be less than there is: the agent denies what no token allows, and
    /// there is no token.
    pub(super) may_hide: bool,
}

/// How far the state is known. Each agent has indexes of its own: it may belong to another
/// datacenter, or have lost its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index {
    agent: usize,
    at: NonZeroU64,
}

impl Index {
    /// What it shows of the history of what was asked. `X-Consul-KnownLeader` says nothing more:
    /// it is `false` in sound answers of Consul 1.20 to who waited for the end of a service.
    pub(super) fn mark(self, part: &str) -> Mark {
        Mark {
            part: part.into(),
            history: Some(History::Agent(self.agent as u64)),
            revision: Some(self.at.get()),
        }
    }

    /// Whether this one follows what was known before. One that went backwards belongs to another
    /// history, which is read from its start.
    pub(super) fn follows(self, before: Option<Self>) -> bool {
        before.is_none_or(|before| before.agent != self.agent || before.at <= self.at)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: RegistryError,
    /// The token that has no right to this answer, or is not known at all.
    pub(super) denied: Option<Bearer>,
}

/// The agents, and how to talk to them.
#[derive(Debug)]
pub(super) struct Client {
    registry: String,
    agents: Vec<Agent>,
    /// The one that is asked first.
    current: AtomicUsize,
    /// Another one became the first, since one said nothing.
    moved: Notify,
    token: Token,
    /// How long a blocking query may wait.
    wait: Duration,
    gate: Breaker,
    /// A question needs a permit of these for each connection to an agent.
    lines: Semaphore,
}

#[derive(Debug)]
struct Agent {
    wire: Http,
    /// What stands before each target.
    prefix: String,
    /// The `Host` of each question.
    authority: HeaderValue,
    /// Its URL without what may be secret in it.
    shown: String,
}

impl Client {
    pub(super) fn new(registry: &str, settings: &config::Consul) -> Result<Self, BuildError> {
        let mut config = None;
        let mut agents = Vec::new();
        let room = Arc::new(Room::default());
        for address in &settings.addresses {
            let url = http_api::base_url(registry, address)?;
            if url.scheme() == "https" && config.is_none() {
                config = Some(Arc::new(
                    client_config(&settings.tls)
                        .map_err(|error| BuildError::tls(registry, error))?,
                ));
            }
            let config = config.as_ref().filter(|_| url.scheme() == "https");
            agents.push(Agent::new(registry, &url, config, Arc::clone(&room))?);
        }
        if agents.is_empty() {
            return Err(BuildError::unsuited(
                registry,
                "there is no address; give it one",
            ));
        }
        Ok(Self {
            registry: registry.to_owned(),
            agents,
            current: AtomicUsize::new(0),
            moved: Notify::new(),
            token: Token::new(settings.token.clone()),
            wait: settings.wait,
            gate: Breaker::default(),
            lines: Semaphore::new(settings.max_watches + SHORT),
        })
    }

    /// Asks for the present state, or where it is known up to an index for the next one. That is
    /// cut short where another agent or another token is better asked: then for the present state.
    pub(super) async fn ask(
        &self,
        question: &Question,
        mut known: Option<Index>,
    ) -> Result<Answer, Failure> {
        // Questions get their lines in the order in which they came: a question waits for a change
        // only after all that came before it have been read.
        let line = self.lines.acquire().await;
        let _line = line.expect("the lines are never closed");
        loop {
            self.gate.rested().await;
            let bearer = self.token.read().await;
            let bearer = bearer.map_err(|fault| self.explain_token(question, &fault))?;
            if let Some(failed) = self.gate.verdict(&bearer) {
                return Err(self.explain(question, &failed, bearer));
            }
            let first = self.current.load(Relaxed);
            let asked = known.take().filter(|index| index.agent == first);
            let disturbed = async {
                match asked {
                    None => std::future::pending().await,
                    Some(_) => tokio::select! {
                        () = self.token.changes(&bearer) => {}
                        () = self.is_no_longer_first(first) => {}
                    },
                }
            };
            let asking = self.ask_in_order(question, first, asked, &bearer);
            let answer = tokio::select! {
                biased;
                answer = asking => answer,
                () = disturbed => continue,
            };
            return answer.map_err(|failed| self.heed(question, failed.into(), bearer));
        }
    }

    /// The error for an answer whose body is not what it should be.
    pub(super) fn misunderstood(
        &self,
        question: &Question,
        answer: &Answer,
        error: &serde_json::Error,
    ) -> RegistryError {
        let failed = Failed {
            agent: answer.index.agent,
            fault: Fault::Garbage(error.to_string()),
        };
        self.explain(question, &[failed], None).error
    }

    /// Waits until a token is another one, which may be known or have more rights.
    pub(super) async fn token_changes(&self, from: &Bearer) {
        self.token.changes(from).await;
    }

    async fn ask_in_order(
        &self,
        question: &Question,
        first: usize,
        known: Option<Index>,
        bearer: &Bearer,
    ) -> Result<Answer, Vec<Failed>> {
        let mut failed = Vec::new();
        for step in 0..self.agents.len() {
            let agent = (first + step) % self.agents.len();
            let index = known.filter(|index| index.agent == agent);
            let asked = Instant::now();
            let mut answer = self.ask_agent(question, agent, index, bearer).await;
            let is_cut = |fault: &Fault| fault.is_cut() && asked.elapsed() >= SILENCE;
            if index.is_some() && answer.as_ref().is_err_and(is_cut) {
                // That nothing came for a while is no failure of who would have sent it.
                answer = self.ask_agent(question, agent, None, bearer).await;
            }
            let fault = match answer {
                Ok(answer) => {
                    self.gate.open();
                    if step > 0 {
                        self.stick_to(agent, first, &failed);
                    }
                    return Ok(answer);
                }
                Err(fault) => fault,
            };
            let next_may_know = fault.may_be_the_agents();
            failed.push(Failed { agent, fault });
            if !next_may_know {
                break;
            }
        }
        Err(failed)
    }

    async fn ask_agent(
        &self,
        question: &Question,
        agent: usize,
        index: Option<Index>,
        bearer: &Bearer,
    ) -> Result<Answer, Fault> {
        let Agent {
            wire,
            prefix,
            authority,
            ..
        } = &self.agents[agent];
        let mut target = format!("{prefix}{}", question.target);
        let mut patience = EXCHANGE;
        if let Some(index) = index {
            let joint = if target.contains('?') { '&' } else { '?' };
            let (at, wait) = (index.at, self.wait.as_millis());
            target += &format!("{joint}index={at}&wait={wait}ms");
            // The agent adds up to a sixteenth.
            patience += self.wait + self.wait / 16;
        }
        let mut request = Request::get(target).header(header::HOST, authority);
        if let Some(token) = bearer {
            request = request.header("X-Consul-Token", token);
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.expect("an encoded path and query, and headers that are values");
        let reply = wire.exchange(request, patience).await?;
        let denies = denies(&reply);
        let (at, body) = read(reply)?;
        Ok(Answer {
            index: Index { agent, at },
            body,
            may_hide: denies && bearer.is_none(),
        })
    }

    /// This agent answered where those before did not: it is asked first from now on.
    fn stick_to(&self, agent: usize, first: usize, failed: &[Failed]) {
        let moved = self
            .current
            .compare_exchange(first, agent, Relaxed, Relaxed)
            .is_ok();
        if !moved {
            return;
        }
        for failed in failed {
            self.agents[failed.agent].wire.close_idle();
        }
        tracing::info!(
            registry = self.registry,
            agent = self.agents[agent].shown,
            instead_of = self.agents[first].shown,
            "another agent is asked from now on"
        );
        // What waits at one that says nothing waits in vain; one that refused a question may be
        // right about the others.
        if failed.iter().any(|failed| failed.fault.says_nothing()) {
            self.moved.notify_waiters();
        }
    }

    async fn is_no_longer_first(&self, agent: usize) {
        loop {
            let mut moved = pin!(self.moved.notified());
            // Before looking, so that no move is missed.
            moved.as_mut().enable();
            if self.current.load(Relaxed) != agent {
                return;
            }
            moved.await;
        }
    }

    /// What a failure says of other questions.
    fn heed(&self, question: &Question, failed: Arc<[Failed]>, bearer: Bearer) -> Failure {
        let rest = failed
            .iter()
            .filter_map(|failed| failed.fault.retry_after());
        if let Some(rest) = rest.max() {
            self.gate.rest(rest);
        }
        if failed.iter().all(|failed| failed.fault.is_away()) {
            self.gate.close(Subject::Agents, Arc::clone(&failed));
        }
        if failed.iter().any(|failed| failed.fault.is_unknown_token()) {
            let on = Subject::Token(bearer.clone());
            self.gate.close(on, Arc::clone(&failed));
        }
        self.explain(question, &failed, bearer)
    }

    /// One line: who, what was asked, what came back, and the key to look at.
    fn explain(&self, question: &Question, failed: &[Failed], bearer: Bearer) -> Failure {
        let said: Vec<_> = failed
            .iter()
            .map(|Failed { agent, fault }| {
                let says = fault.says(&question.subject);
                format!("at {} {says}", self.agents[*agent].shown)
            })
            .collect();
        let message = format!("{} {}", self.registry, said.join(", and "));
        let faults = || failed.iter().map(|failed| &failed.fault);
        let key = faults().find_map(Fault::key);
        Failure {
            error: RegistryError {
                retry_after: faults().filter_map(Fault::retry_after).max(),
                refused: faults().any(Fault::is_denied),
                ..RegistryError::new(message).naming(&self.registry, key)
            },
            denied: faults().any(Fault::is_denied).then_some(bearer),
        }
    }

    /// The failure where no agent was asked, for want of a token.
    fn explain_token(&self, question: &Question, fault: &Fault) -> Failure {
        let Self { registry, .. } = self;
        let says = fault.says(&question.subject);
        let error = RegistryError::new(format!("{registry} {says}"));
        Failure {
            error: RegistryError {
                refused: true,
                ..error.naming(registry, Some("token"))
            },
            denied: None,
        }
    }
}

impl Agent {
    fn new(
        registry: &str,
        url: &Url,
        tls: Option<&Arc<ClientConfig>>,
        room: Arc<Room>,
    ) -> Result<Self, BuildError> {
        let wrong = || BuildError::address(registry, http_api::without_credentials(url));
        let host = url.host_str().ok_or_else(wrong)?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        // A socket's address, and a certificate's name, have no brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = match tls {
            Some(config) => Some((
                Arc::clone(config),
                ServerName::try_from(host.to_owned()).map_err(|_| wrong())?,
            )),
            None => None,
        };
        let port = url.port_or_known_default().ok_or_else(wrong)?;
        Ok(Self {
            wire: Http::new(host.to_owned(), port, tls, room),
            prefix: url.path().trim_end_matches('/').to_owned(),
            authority: authority.parse().map_err(|_| wrong())?,
            shown: http_api::without_credentials(url),
        })
    }
}

/// Whether the agent denies what no token allows.
fn denies(reply: &Reply) -> bool {
    let policy = reply.headers.get("X-Consul-Default-ACL-Policy");
    policy.is_some_and(|policy| policy.as_bytes() == b"deny")
}

/// The index and the body of a 200; everything else is a fault.
fn read(reply: Reply) -> Result<(NonZeroU64, Body), Fault> {
    let denies = denies(&reply);
    let Reply {
        status,
        headers,
        body,
        whole,
    } = reply;
    if status != StatusCode::OK {
        return Err(Fault::Refused {
            status,
            text: http_api::reason_in(status, &body),
            retry_after: http_api::retry_after_in(status, &headers),
        });
    }
    let index = headers.get("X-Consul-Index");
    let index = index.map(|index| String::from_utf8_lossy(index.as_bytes()).into_owned());
    let Some(index) = index.as_deref().and_then(|index| index.parse().ok()) else {
        return Err(Fault::Index(index));
    };
    if !whole {
        return Err(Fault::TooLarge(MAX_BODY));
    }
    let hidden = headers.get("X-Consul-Results-Filtered-By-ACLs");
    let hidden = hidden.is_some_and(|hidden| hidden.as_bytes() == b"true");
    // Nothing is left of what there is: the token lost its rights, not the service its instances.
    if hidden && matches!(body.trim_ascii(), b"[]" | b"{}") {
        return Err(Fault::Hidden);
    }
    // A catalog lists Consul itself at least.
    if denies && body.trim_ascii() == b"{}" {
        return Err(Fault::Nothing);
    }
    Ok((index, body))
}
