//! `callboard health`: asks a running proxy whether it is alive, for a container's health check.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use reqwest::StatusCode;

use super::admin_server::{DEFAULT, url_of};
use crate::{config::Config, control::http_client::client};

/// Less than a health check usually waits, so that its log has the reason.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Health {
    /// The admin server's URL
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
    /// The configuration file that has the admin server's address [default: proxy.toml, if there
    /// is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn health(health: &Health) -> anyhow::Result<ExitCode> {
    let url = match (&health.admin, &health.config) {
        (Some(url), _) => url.clone(),
        (None, Some(path)) => url_from(path)?,
        (None, None) => {
            let path = Path::new("proxy.toml");
            if path.exists() {
                url_from(path)?
            } else {
                DEFAULT.to_owned()
            }
        }
    };
    let url = format!("{}/live", url.trim_end_matches('/'));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime
        .block_on(ask(&url))
        .map_err(reqwest::Error::without_url)
        .with_context(|| format!("no answer from {url}"))?;
    if status != StatusCode::OK {
        bail!("{url} answered {status}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the admin server of a file is: at the usual place where the file does not say. Other errors of the
/// file are no matter: what runs goes on by what it has read.
fn url_from(path: &Path) -> anyhow::Result<String> {
    if !path.exists() {
        bail!("{} is not there", path.display());
    }
    match Config::admin_of(path) {
        Some(admin) => url_of(&admin, path),
        None => Ok(DEFAULT.to_owned()),
    }
}

async fn ask(url: &str) -> reqwest::Result<StatusCode> {
    let client = client(|| reqwest::Client::builder().no_proxy().timeout(PATIENCE))?;
    Ok(client.get(url).send().await?.status())
}
