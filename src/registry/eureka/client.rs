//! One exchange with one of a registry's Eureka servers: TLS, credentials, deadlines, limits, and
//! which server's turn it is. Knows nothing of what the answers mean.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use http::{
    HeaderValue, Method, StatusCode,
    header::{ACCEPT, ETAG, IF_NONE_MATCH},
};
use reqwest::{RequestBuilder, Response, Url};
use serde_json::Value;
use tokio::time::timeout;

use super::fault::Fault;
use crate::{
    config::{self, Secret},
    registry::{
        BuildError, RegistryError, http_api,
        room::{Body, Room},
        trouble::Trouble,
    },
};

/// How long an answer may take to begin.
const EXCHANGE: Duration = Duration::from_secs(10);

/// The largest answer that is read: some 80,000 instances.
const MAX_BODY: usize = 64 << 20;

/// JSON where the server has a choice.
const FORMATS: HeaderValue = HeaderValue::from_static("application/json, application/xml;q=0.5");

/// A registry's servers, and how to talk to them.
#[derive(Debug)]
pub(crate) struct Client {
    registry: String,
    servers: Vec<Server>,
    /// The server whose turn it is: the same until it fails, and then the next.
    turn: AtomicUsize,
    login: Option<(String, Secret)>,
    http: reqwest::Client,
    room: Room,
}

#[derive(Debug)]
struct Server {
    base: Url,
    /// `base` without what may be secret in it.
    shown: String,
}

/// What a server is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// Below the base URL; its segments are encoded.
    pub(crate) path: &'a [&'a str],
    /// What need not be sent again where it is this still.
    pub(crate) known: Option<HeaderValue>,
    pub(crate) body: Option<&'a Value>,
    /// What is an answer besides the 200s.
    pub(crate) also: &'a [StatusCode],
}

/// An answer as it was asked for.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) tag: Option<HeaderValue>,
    pub(crate) body: Body,
}

impl Client {
    /// A client of `[registry.NAME]`. Reads the TLS files, and connects to nothing yet.
    pub(crate) fn new(registry: &str, settings: &config::Eureka) -> Result<Self, BuildError> {
        let server = |address: &String| {
            let base = http_api::base_url(registry, address)?;
            let shown = http_api::without_credentials(&base);
            Ok(Server { base, shown })
        };
        let servers: Result<Vec<_>, _> = settings.addresses.iter().map(server).collect();
        let servers = servers?;
        let https = servers.iter().any(|server| server.base.scheme() == "https");
        Ok(Self {
            registry: registry.to_owned(),
            login: settings.login.clone(),
            http: http_api::client(registry, https, &settings.tls)?,
            servers,
            turn: AtomicUsize::new(0),
            room: Room::default(),
        })
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// The registry, and the server whose turn it is.
    pub(crate) fn shown(&self) -> String {
        let server = &self.servers[self.turn.load(Relaxed)];
        format!("{} at {}", self.registry, server.shown)
    }

    /// Asks the server whose turn it is.
    pub(crate) async fn ask(&self, question: Question<'_>) -> Result<Reply, Fault> {
        let server = &self.servers[self.turn.load(Relaxed)];
        let mut answer = timeout(EXCHANGE, self.begin(server, question))
            .await
            .unwrap_or(Err(Trouble::Silent(EXCHANGE).into()))?;
        // A copy: the value itself would hold what it was read into until the tag is another.
        let tag = answer.headers().get(ETAG);
        let tag = tag.and_then(|tag| HeaderValue::from_bytes(tag.as_bytes()).ok());
        let body = self.room.body(MAX_BODY);
        let (body, whole) = http_api::read_into(&mut answer, body).await?;
        if !whole {
            return Err(Trouble::TooLarge(MAX_BODY).into());
        }
        Ok(Reply {
            status: answer.status(),
            tag,
            body,
        })
    }

    /// An answer that is one to what was asked, its body still to come.
    async fn begin(&self, server: &Server, question: Question<'_>) -> Result<Response, Fault> {
        let url = http_api::url_below(&server.base, question.path);
        let request = self.http.request(question.method, url);
        let mut request = self.signed(request).await?.header(ACCEPT, FORMATS);
        if let Some(tag) = question.known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        if let Some(body) = question.body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(Trouble::from)?;
        let status = answer.status();
        if !status.is_success() && !question.also.contains(&status) {
            return Err(Fault::Refused {
                status,
                retry_after: http_api::retry_after(&answer),
                text: http_api::reason(answer).await,
            });
        }
        Ok(answer)
    }

    async fn signed(&self, request: RequestBuilder) -> Result<RequestBuilder, Fault> {
        let Some((user, password)) = &self.login else {
            return Ok(request);
        };
        let password = password.read_aside().await.map_err(Trouble::Password)?;
        Ok(request.basic_auth(user, Some(password)))
    }

    /// Notes that the server whose turn it is failed, and passes the turn on.
    pub(crate) fn failed(&self, fault: Fault, failures: &mut Failures) {
        let server = self.turn.load(Relaxed);
        self.turn.store((server + 1) % self.servers.len(), Relaxed);
        failures.0.push((server, fault));
    }

    /// One line: who, what was asked, what came back from each server, and the key to look at.
    pub(crate) fn explain(&self, subject: &str, failures: &Failures) -> RegistryError {
        let said: Vec<_> = failures
            .0
            .iter()
            .map(|(server, fault)| {
                format!("{} {}", self.servers[*server].shown, fault.says(subject))
            })
            .collect();
        let message = format!("{} at {}", self.registry, said.join("; at "));
        let faults = || failures.0.iter().map(|(_, fault)| fault);
        let key = faults().find_map(Fault::key);
        RegistryError {
            retry_after: faults().filter_map(Fault::retry_after).max(),
            refused: faults().any(Fault::is_of_the_user),
            ..RegistryError::new(message).naming(&self.registry, key)
        }
    }
}

/// What went wrong with each server that was asked.
#[derive(Default)]
pub(crate) struct Failures(Vec<(usize, Fault)>);
