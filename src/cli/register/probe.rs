//! Whether a provider answers already, found out as a registry would. This comes before the sign-in,
//! so that no client is sent to a provider that is still starting.

use std::time::Duration;

use anyhow::Context;
use tokio::{net::TcpStream, time::timeout};

use crate::register::{Check, Provider};

/// One that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) enum Probe {
    /// It takes a connection at this address.
    Connect(String),
    /// It answers a GET of this URL with a 2xx.
    Get(reqwest::Client, String),
}

impl Probe {
    /// What the provider's check asks for; where that is a TTL, whether it takes connections.
    pub(super) fn of(provider: &Provider) -> anyhow::Result<Self> {
        let Check::Http { url, .. } = &provider.check else {
            return Ok(Self::Connect(provider.address.to_string()));
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            // Whether it is there, not who it is: its certificate is seldom one for its address.
            .tls_danger_accept_invalid_certs(true)
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self::Get(client, url.clone()))
    }

    /// Returns when it passes, or after this time with what went wrong at last.
    pub(super) async fn passes_within(&self, limit: Duration) -> Result<(), String> {
        let mut last = "it does not answer".to_owned();
        let passes = async {
            while let Err(reason) = self.attempt().await {
                last = reason;
                tokio::time::sleep(PAUSE).await;
            }
        };
        timeout(limit, passes).await.map_err(|_| last)
    }

    async fn attempt(&self) -> Result<(), String> {
        match self {
            Self::Connect(address) => match timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("{address}: {error}")),
                Err(_) => Err(format!("{address}: no connection within {PATIENCE:?}")),
            },
            Self::Get(client, url) => match client.get(url).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(format!("{url} answered {}", answer.status())),
                Err(error) => {
                    let error = anyhow::Error::new(error.without_url());
                    Err(format!("{url}: {error:#}"))
                }
            },
        }
    }
}
