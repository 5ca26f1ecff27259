//! One exchange with a Consul agent: TLS, token, deadlines and limits. Knows nothing of what the
//! answers mean.

use std::{num::NonZeroU64, path::Path, path::PathBuf, time::Duration};

use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use reqwest::{Certificate, Identity, Response, Url};

use super::fault::{Fault, one_line, root_cause};
use crate::{
    config::{self, ClientTls, Secret},
    registry::SourceError,
};

const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take beside what we let the agent wait, its body included.
const EXCHANGE: Duration = Duration::from_secs(10);

/// The largest answer that is read: some 50,000 instances of one service.
const MAX_BODY: usize = 64 << 20;

/// How much of an error's body is looked at.
const MAX_ERROR_BODY: usize = 4 << 10;

/// Why no client could be made of `[registry.NAME]`.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address is not an `http://` or `https://` URL.
    #[error("registry.{registry}.address: `{address}` is not an http:// or https:// URL")]
    Address {
        /// The registry's name.
        registry: String,
        /// What stands in its place.
        address: String,
    },
    /// A TLS file cannot be read.
    #[error("registry.{registry}.tls: cannot read {}", path.display())]
    Read {
        /// The registry's name.
        registry: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A TLS file is not what it should be.
    #[error("registry.{registry}.tls: {} holds no {wanted} in PEM form", path.display())]
    Pem {
        /// The registry's name.
        registry: String,
        /// The file.
        path: PathBuf,
        /// "certificate", or "certificate and key".
        wanted: &'static str,
    },
    /// The certificates and the key cannot be used together, or the system has none.
    #[error("registry.{registry}.tls: {}", root_cause(source))]
    Tls {
        /// The registry's name.
        registry: String,
        /// Why.
        source: reqwest::Error,
    },
}

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
        let base = Url::parse(&settings.address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| BuildError::Address {
                registry: registry.to_owned(),
                address: settings.address.clone(),
            })?;
        let builder = reqwest::Client::builder()
            // An agent is asked directly, and its token is sent to nobody else.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            // Finds a machine that is gone while a query waits for it.
            .tcp_keepalive(Duration::from_secs(15));
        let http = with_tls(builder, registry, &base, &settings.tls)?
            .build()
            .map_err(|source| BuildError::Tls {
                registry: registry.to_owned(),
                source,
            })?;
        Ok(Self {
            registry: registry.to_owned(),
            shown: without_credentials(&base),
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
    ) -> Result<Answer, SourceError> {
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
    ) -> SourceError {
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
        let (body, whole) = read(&mut answer, MAX_BODY)
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

    /// One line: who, what was asked, what came back, and the key to look at.
    fn explain(&self, question: &Question, fault: &Fault) -> SourceError {
        let Self {
            registry, shown, ..
        } = self;
        let mut message = format!("{registry} at {shown} {}", fault.says(&question.subject));
        if let Some(key) = fault.key() {
            message += &format!("; check registry.{registry}.{key}");
        }
        SourceError {
            message,
            retry_after: fault.retry_after(),
        }
    }
}

/// Reads the token off the runtime's threads: a file may lie on a slow disk.
async fn read_token(token: Secret) -> Result<HeaderValue, Fault> {
    let text = tokio::task::spawn_blocking(move || token.read())
        .await
        .map_err(|error| Fault::Token(error.to_string()))?
        .map_err(Fault::Token)?;
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Fault::Token("the token is not one line of plain text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn refusal(mut answer: Response) -> Fault {
    let status = answer.status();
    // In seconds; the form with a date is left to the watcher's own backoff.
    let retry_after = answer
        .headers()
        .get(RETRY_AFTER)
        .filter(|_| {
            matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            )
        })
        .and_then(|seconds| seconds.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    // A body that breaks off must not hide the status.
    let body = read(&mut answer, MAX_ERROR_BODY)
        .await
        .map_or_else(|_| Vec::new(), |(body, _)| body);
    let mut text = one_line(&String::from_utf8_lossy(&body));
    if text.is_empty() {
        text = status
            .canonical_reason()
            .unwrap_or("no reason given")
            .into();
    }
    Fault::Refused {
        status,
        text,
        retry_after,
    }
}

/// The body up to a limit, and whether that was all of it.
async fn read(answer: &mut Response, limit: usize) -> reqwest::Result<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = limit - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok((body, false));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, true))
}

fn without_credentials(url: &Url) -> String {
    let mut url = url.clone();
    let plain = url.set_username("").and_then(|()| url.set_password(None));
    plain.expect("an http URL has a host");
    url.as_str().trim_end_matches('/').to_owned()
}

fn with_tls(
    builder: reqwest::ClientBuilder,
    registry: &str,
    base: &Url,
    tls: &ClientTls,
) -> Result<reqwest::ClientBuilder, BuildError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| BuildError::Read {
            registry: registry.to_owned(),
            path: path.to_owned(),
            source,
        })
    };
    let pem = |path: &Path, wanted| BuildError::Pem {
        registry: registry.to_owned(),
        path: path.to_owned(),
        wanted,
    };
    let mut builder = builder;
    if let Some(ca) = &tls.ca {
        let roots = Certificate::from_pem_bundle(&read(ca)?)
            .ok()
            .filter(|roots| !roots.is_empty())
            .ok_or_else(|| pem(ca, "certificate"))?;
        builder = builder.tls_certs_only(roots);
    } else if base.scheme() == "http" {
        // The system's certificates are neither needed nor, in a small image, there to be loaded.
        builder = builder.tls_certs_only([]);
    }
    if let Some((chain, key)) = &tls.identity {
        let both = [read(chain)?, read(key)?].join(&b'\n');
        let identity = Identity::from_pem(&both).map_err(|_| pem(chain, "certificate and key"))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}
