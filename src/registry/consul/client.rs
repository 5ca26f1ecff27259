//! One exchange with a Consul agent: TLS, token, deadlines and limits. Knows nothing of what the
//! answers mean.

use std::{num::NonZeroU64, time::Duration};

use http::{HeaderValue, StatusCode};
use reqwest::{Response, Url};

use super::fault::Fault;
use crate::{
    config::{self, Secret},
    registry::{BuildError, RegistryError, http_api},
};

/// How long an answer may take beside what we let the agent wait, its body included.
const EXCHANGE: Duration = Duration::from_secs(10);

/// The largest answer that is read: some 50,000 instances of one service.
const MAX_BODY: usize = 64 << 20;

/// What is asked, again and again.
pub(super) struct Question {
    /// Without `index` and `wait`.
    pub(super) url: Url,
    /// What it is about, for errors: "service `cart`".
    pub(super) subject: String,
}

/// A 200 with a valid index.
pub(super) struct Answer {
    pub(super) index: NonZeroU64,
    pub(super) body: Vec<u8>,
}

/// An agent, and how to talk to it.
#[derive(Debug)]
pub(super) struct Client {
    registry: String,
    base: Url,
    /// `base` without what may be secret in it.
    shown: String,
    token: Option<Secret>,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(registry: &str, settings: &config::Consul) -> Result<Self, BuildError> {
        let base = http_api::base_url(registry, &settings.address)?;
        let http = http_api::client(registry, base.scheme() == "https", &settings.tls)?;
        Ok(Self {
            registry: registry.to_owned(),
            shown: http_api::without_credentials(&base),
            base,
            token: settings.token.clone(),
            http,
        })
    }

    /// The agent's URL for this path, whose segments are encoded.
    pub(super) fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(path);
        url
    }

    /// Asks for the present state, or with an index for the next one, which the agent may keep
    /// for `wait` (and a sixteenth more, as Consul does).
    pub(super) async fn ask(
        &self,
        question: &Question,
        index: Option<NonZeroU64>,
        wait: Duration,
    ) -> Result<Answer, RegistryError> {
        let mut url = question.url.clone();
        let mut deadline = EXCHANGE;
        if let Some(index) = index {
            url.query_pairs_mut()
                .append_pair("index", &index.to_string())
                .append_pair("wait", &format!("{}ms", wait.as_millis()));
            deadline += wait + wait / 16;
        }
        tokio::time::timeout(deadline, self.exchange(url))
            .await
            .unwrap_or(Err(Fault::Silent(deadline)))
            .map_err(|fault| self.explain(question, &fault))
    }

    /// The error for an answer whose body is not what it should be.
    pub(super) fn misunderstood(
        &self,
        question: &Question,
        error: &serde_json::Error,
    ) -> RegistryError {
        self.explain(question, &Fault::Garbage(error.to_string()))
    }

    async fn exchange(&self, url: Url) -> Result<Answer, Fault> {
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            request = request.header("X-Consul-Token", read_token(token.clone()).await?);
        }
        let mut answer = request.send().await.map_err(Fault::connection)?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer).await);
        }
        let index = answer.headers().get("X-Consul-Index");
        let index = index.map(|index| String::from_utf8_lossy(index.as_bytes()).into_owned());
        let Some(index) = index.as_deref().and_then(|index| index.parse().ok()) else {
            return Err(Fault::Index(index));
        };
        let hidden = answer.headers().get("X-Consul-Results-Filtered-By-ACLs");
        let hidden = hidden.is_some_and(|hidden| hidden.as_bytes() == b"true");
        let (body, whole) = http_api::read(&mut answer, MAX_BODY)
            .await
            .map_err(Fault::connection)?;
        if !whole {
            return Err(Fault::TooLarge(MAX_BODY));
        }
        // Nothing is left of what there is: the token lost its rights, not the service its
        // instances.
        if hidden && matches!(body.trim_ascii(), b"[]" | b"{}") {
            return Err(Fault::Hidden);
        }
        Ok(Answer { index, body })
    }

    fn explain(&self, question: &Question, fault: &Fault) -> RegistryError {
        fault.explain(&self.registry, &self.shown, &question.subject)
    }
}

/// Reads the token off the runtime's threads: a file may lie on a slow disk.
pub(super) async fn read_token(token: Secret) -> Result<HeaderValue, Fault> {
    let text = tokio::task::spawn_blocking(move || token.read())
        .await
        .map_err(|error| Fault::Token(error.to_string()))?
        .map_err(Fault::Token)?;
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Fault::Token("the token is not one line of plain text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(super) async fn refusal(answer: Response) -> Fault {
    let status = answer.status();
    let retry_after = http_api::retry_after(&answer);
    let text = http_api::reason(answer).await;
    Fault::Refused {
        status,
        text,
        retry_after,
    }
}
