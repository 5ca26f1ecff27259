//! One exchange with a member of an etcd by its API v2: credentials, deadlines and limits, and
//! the next member where one fails. Knows nothing of what keys and values mean.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;
use reqwest::{Method, Response, Url};
use tokio::time::timeout;

use super::{
    fault::Fault,
    node::{Change, Content, Node, Refusal},
};
use crate::{
    config::{self, Secret},
    registry::{
        BuildError, RegistryError,
        error::one_line,
        http_api,
        room::{Body, Room},
        trouble::Trouble,
    },
};

/// How long an answer may take to begin. A little more than etcd itself takes
/// to say that it has no majority (7 s), so that it can say so.
const EXCHANGE: Duration = Duration::from_secs(8);

/// The largest answer that is read: some 50,000 keys. There is one of those at a time, and each key
/// costs many times its shortest form.
const MAX_BODY: usize = 16 << 20;

/// A cluster, and how to talk to it.
#[derive(Debug)]
pub(crate) struct Client {
    registry: String,
    /// At least one.
    members: Vec<Url>,
    /// The member that answered last.
    current: AtomicUsize,
    credentials: Option<(String, Secret)>,
    http: reqwest::Client,
    room: Room,
}

/// A moment in a cluster's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) cluster: String,
    pub(super) index: u64,
}

/// A directory's content, and when it was that.
pub(super) struct Read {
    pub(super) position: Position,
    /// `None` where there is no such directory.
    pub(super) node: Option<Node>,
}

/// What came of waiting.
pub(super) enum Waited {
    Change(Change),
    /// Nothing that could be followed: the directory must be read.
    Nothing,
}

impl Client {
    /// Reads the TLS files, and connects to nothing yet.
    pub(crate) fn new(registry: &str, settings: &config::Etcd) -> Result<Self, BuildError> {
        let members = settings.addresses.iter();
        let members = members
            .map(|address| http_api::base_url(registry, address))
            .collect::<Result<Vec<_>, _>>()?;
        let https = members.iter().any(|member| member.scheme() == "https");
        Ok(Self {
            registry: registry.to_owned(),
            members,
            current: AtomicUsize::default(),
            credentials: settings.credentials.clone(),
            http: http_api::client(registry, https, &settings.tls)?,
            room: Room::default(),
        })
    }

    /// All that is in a directory now, and nothing older than what anyone was told before.
    pub(super) async fn read(&self, key: &str, subject: &str) -> Result<Read, RegistryError> {
        let request = Request {
            query: &[("recursive", "true"), ("quorum", "true")],
            ..Request::of(Method::GET, key)
        };
        let read = |answer: Answer| {
            Ok(Read {
                position: answer.position.ok_or(Fault::Index)?,
                node: match answer.body {
                    Some(body) => Some(parse::<Content>(&body)?.node),
                    None => None,
                },
            })
        };
        self.try_each(&request, subject, read).await
    }

    /// The first change in a directory after a moment, for which etcd waits no longer than `wait`.
    pub(super) async fn wait(
        &self,
        key: &str,
        after: &Position,
        wait: Duration,
        subject: &str,
    ) -> Result<Waited, RegistryError> {
        let index = (after.index + 1).to_string();
        let request = Request {
            query: &[
                ("recursive", "true"),
                ("wait", "true"),
                ("waitIndex", index.as_str()),
            ],
            ..Request::of(Method::GET, key)
        };
        let number = self.current.load(Relaxed);
        let waited = async {
            // Its head comes at once, and says where in which history the member is.
            let mut head = self.send(number, &request).await?;
            let now = position(&head);
            let is_another =
                |now: Position| now.cluster != after.cluster || now.index < after.index;
            if head.status().is_success() && now.is_none_or(is_another) {
                return Ok(Waited::Nothing);
            }
            // Its body begins with the change.
            let Ok(first) = timeout(wait, head.chunk()).await else {
                return Ok(Waited::Nothing);
            };
            let first = first.map_err(Trouble::from)?.unwrap_or_default();
            match self.body(head, &first).await {
                Err(fault) if fault.is(Refusal::CLEARED) => Ok(Waited::Nothing),
                // A server that goes down ends it so.
                Ok(body) if body.trim_ascii().is_empty() => Ok(Waited::Nothing),
                body => parse(&body?).map(Waited::Change),
            }
        };
        let waited: Result<Waited, Fault> = waited.await;
        waited.map_err(|fault| self.failed(number, &fault, subject))
    }

    /// Writes a key, which goes away by itself after so many seconds. No member is waited for
    /// longer than `deadline`.
    pub(crate) async fn put(
        &self,
        key: &str,
        value: &str,
        ttl: u64,
        deadline: Duration,
        subject: &str,
    ) -> Result<(), RegistryError> {
        let ttl = ttl.to_string();
        let request = Request {
            form: &[("value", value), ("ttl", &ttl)],
            deadline: deadline.min(EXCHANGE),
            ..Request::of(Method::PUT, key)
        };
        self.try_each(&request, subject, |_| Ok(())).await
    }

    /// Takes a key away, if it is there.
    pub(crate) async fn delete(&self, key: &str, subject: &str) -> Result<(), RegistryError> {
        let request = Request::of(Method::DELETE, key);
        self.try_each(&request, subject, |_| Ok(())).await
    }

    /// Asks the member that answered last, then the others, until one is not at fault itself.
    async fn try_each<T>(
        &self,
        request: &Request<'_>,
        subject: &str,
        read: impl Fn(Answer) -> Result<T, Fault>,
    ) -> Result<T, RegistryError> {
        let first = self.current.load(Relaxed);
        let mut messages = Vec::new();
        for number in first..first + self.members.len() {
            let exchange = self.exchange(number, request);
            let answer = if request.method == Method::GET {
                exchange.await
            } else {
                // What is answered to a change is short, and is waited for by a heartbeat.
                within(request.deadline, exchange).await
            };
            let fault = match answer.and_then(&read) {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let error = self.failed(number, &fault, subject);
            if !fault.is_the_members() {
                return Err(error);
            }
            messages.push(error.message);
        }
        Err(RegistryError::new(messages.join("; ")))
    }

    fn member(&self, number: usize) -> &Url {
        &self.members[number % self.members.len()]
    }

    /// The error, and the next member's turn where this one is at fault.
    fn failed(&self, number: usize, fault: &Fault, subject: &str) -> RegistryError {
        if fault.is_the_members() {
            // Unless another question has passed it on already.
            let _ = self
                .current
                .compare_exchange(number, number + 1, Relaxed, Relaxed);
        }
        let member = http_api::without_credentials(self.member(number));
        fault.explain(&self.registry, &member, subject)
    }

    async fn exchange(&self, number: usize, request: &Request<'_>) -> Result<Answer, Fault> {
        let head = self.send(number, request).await?;
        let position = position(&head);
        let body = match self.body(head, &[]).await {
            Err(fault) if fault.is(Refusal::NOT_FOUND) => None,
            body => Some(body?),
        };
        Ok(Answer { position, body })
    }

    /// The body of a good answer, which begins with what was read of it.
    async fn body(&self, mut answer: Response, first: &[u8]) -> Result<Body, Fault> {
        let status = answer.status();
        let mut body = self.room.body(MAX_BODY);
        body.push(first).await;
        let (body, whole) = http_api::read_into(&mut answer, body).await?;
        if status.is_success() {
            return match whole {
                true => Ok(body),
                false => Err(Trouble::TooLarge(MAX_BODY).into()),
            };
        }
        Err(refusal(status, &body))
    }

    /// The answer's head, within the request's deadline.
    async fn send(&self, number: usize, request: &Request<'_>) -> Result<Response, Fault> {
        within(request.deadline, self.open(number, request)).await
    }

    async fn open(&self, number: usize, request: &Request<'_>) -> Result<Response, Fault> {
        let key = request.key.split('/').filter(|segment| !segment.is_empty());
        let path: Vec<_> = ["v2", "keys"].into_iter().chain(key).collect();
        let url = http_api::url_below(self.member(number), &path);
        let mut send = self.http.request(request.method.clone(), url);
        send = send.query(request.query);
        if !request.form.is_empty() {
            send = send.form(request.form);
        }
        if let Some((name, password)) = &self.credentials {
            let password = password.read_aside().await.map_err(Trouble::Password)?;
            send = send.basic_auth(name, Some(password));
        }
        Ok(send.send().await.map_err(Trouble::from)?)
    }
}

/// What is asked of any member.
struct Request<'a> {
    method: Method,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    form: &'a [(&'a str, &'a str)],
    /// For one member's answer to begin.
    deadline: Duration,
}

impl<'a> Request<'a> {
    fn of(method: Method, key: &'a str) -> Self {
        Self {
            method,
            key,
            query: &[],
            form: &[],
            deadline: EXCHANGE,
        }
    }
}

struct Answer {
    position: Option<Position>,
    /// `None` where there is no such key.
    body: Option<Body>,
}

async fn within<T>(
    deadline: Duration,
    something: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout(deadline, something)
        .await
        .unwrap_or(Err(Trouble::Silent(deadline).into()))
}

fn position(answer: &Response) -> Option<Position> {
    let header = |name| answer.headers().get(name)?.to_str().ok();
    Some(Position {
        cluster: header("X-Etcd-Cluster-Id")?.to_owned(),
        index: header("X-Etcd-Index")?.parse().ok()?,
    })
}

fn refusal(status: StatusCode, body: &[u8]) -> Fault {
    let (code, text) = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => {
            let text = match refusal.cause.as_str() {
                "" => refusal.message,
                cause => format!("{} ({cause})", refusal.message),
            };
            (Some(refusal.code), text)
        }
        Err(_) => (None, String::from_utf8_lossy(body).into_owned()),
    };
    let text = match one_line(&text) {
        text if text.is_empty() => status.canonical_reason().unwrap_or("no reason").to_owned(),
        text => text,
    };
    Fault::Refused { status, code, text }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| Trouble::Garbage("etcd's JSON", error.to_string()).into())
}
