//! What goes wrong with registries, in lines that say what to do about it.

use std::time::Duration;

use crate::{error::root_cause, tls::TlsError};

/// How much of someone else's text is shown.
const MAX_TEXT: usize = 240;

/// Why a registry did not do what it was asked. Never means "no instances".
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    /// One line for a person, naming the registry's address, what was asked and what came back.
    pub message: String,
    /// How long the registry asked us to stay away (429 or 503 with `Retry-After`).
    pub retry_after: Option<Duration>,
    /// Whether it refuses who asks: a token, a password or a right is wrong or missing, and will be
    /// until it is mended.
    pub refused: bool,
}

impl RegistryError {
    /// One that says this, and nothing of when to ask again.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry_after: None,
            refused: false,
        }
    }

    /// Names the key of the registry's table that is likely to be wrong, where one is.
    pub(super) fn naming(mut self, registry: &str, key: Option<&str>) -> Self {
        if let Some(key) = key {
            self.message += &format!("; check registry.{registry}.{key}");
        }
        self
    }
}

/// Which key of a registry's table is likely to be wrong where a connection fails for this cause.
pub(super) fn key_of_connection(cause: &str) -> &'static str {
    let cause = cause.to_lowercase();
    let tls = ["certificate", "tls", "alert", "handshake"];
    match tls.iter().any(|word| cause.contains(word)) {
        true => "tls",
        false => "address",
    }
}

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
    /// Its `tls` cannot be used.
    #[error("registry.{registry}.tls: {error}")]
    Tls {
        /// The registry's name.
        registry: String,
        /// Why.
        error: TlsError,
    },
    /// The system gives no client.
    #[error("registry.{registry}: {}", root_cause(source))]
    Client {
        /// The registry's name.
        registry: String,
        /// Why.
        source: reqwest::Error,
    },
    /// What is wanted of the registry is not to be had there.
    #[error("registry.{registry}: {reason}")]
    Unsuited {
        /// The registry's name.
        registry: String,
        /// What, and what to do instead.
        reason: String,
    },
}

impl BuildError {
    pub(super) fn address(registry: &str, address: impl Into<String>) -> Self {
        Self::Address {
            registry: registry.to_owned(),
            address: address.into(),
        }
    }

    pub(super) fn tls(registry: &str, error: TlsError) -> Self {
        Self::Tls {
            registry: registry.to_owned(),
            error,
        }
    }

    pub(crate) fn unsuited(registry: &str, reason: impl Into<String>) -> Self {
        Self::Unsuited {
            registry: registry.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Someone else's text as one line of ours.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ").replace(char::is_control, "");
    match line.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
