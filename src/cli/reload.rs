//! `callboard reload`: has a running proxy read its file again, and says what came of it.

use std::{
    io::{Write as _, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::{
    config::{Changes, Config, Secret},
    control::server::reachable,
};

/// A file of a hundred thousand routes is read in less.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the admin server is when no file says otherwise.
const DEFAULT: &str = "http://127.0.0.1:9900";

#[derive(Args)]
pub(super) struct Reload {
    /// The admin server's URL
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
    /// The file that has the admin server's token, where --admin says where that is
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
    /// The configuration file that has the admin server's address and token [default: proxy.toml, if
    /// there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What `POST /api/reload` answers.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    changes: Changes,
    #[serde(default)]
    error: String,
}

pub(super) fn reload(reload: &Reload) -> anyhow::Result<ExitCode> {
    let usual = Path::new("proxy.toml");
    let usual = usual.exists().then_some(usual);
    let file = reload.config.as_deref().or(usual);
    let (url, token) = match (&reload.admin, file) {
        (Some(url), _) => (url.clone(), reload.token_file.clone().map(Secret::File)),
        (None, None) => (DEFAULT.to_owned(), None),
        // The proxy is asked for a file with errors, too: it counts them, and logs them.
        (None, Some(path)) => match Config::load(path).ok().or_else(|| admin_alone(path)) {
            Some(config) => (url_of(&config, path)?, config.admin.token),
            None => (DEFAULT.to_owned(), None),
        },
    };
    let token = token.as_ref().map(Secret::read).transpose();
    let token = token.map_err(|error| anyhow::anyhow!("the admin server's token: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let url = format!("{}/api/reload", url.trim_end_matches('/'));
    let answer = runtime.block_on(ask(&url, token, reload.dry_run))?;
    if !answer.ok {
        eprintln!("{}", answer.error.trim_end());
        return Ok(ExitCode::FAILURE);
    }
    let said = match (answer.changes.is_empty(), reload.dry_run) {
        (true, _) => "nothing has changed\n".to_owned(),
        (false, true) => format!("{}nothing is changed: this was a dry run\n", answer.changes),
        (false, false) => format!("{}reloaded\n", answer.changes),
    };
    write!(stdout(), "{said}").context("cannot write the result")?;
    Ok(ExitCode::SUCCESS)
}

/// What a file says of the admin server, though there are errors elsewhere in it.
fn admin_alone(path: &Path) -> Option<Config> {
    let mut all: toml::Table = std::fs::read_to_string(path).ok()?.parse().ok()?;
    all.retain(|key, _| key == "admin");
    let base = path.parent().unwrap_or(Path::new(""));
    Config::parse_for_client(&all.to_string(), base).ok()
}

fn url_of(config: &Config, path: &Path) -> anyhow::Result<String> {
    let address = reachable(config.admin.address);
    if address.port() == 0 {
        bail!(
            "{} lets the admin server take any port: say --admin",
            path.display()
        );
    }
    Ok(format!("http://{address}"))
}

async fn ask(url: &str, token: Option<String>, dry_run: bool) -> anyhow::Result<Answer> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    let mut request = client
        .build()?
        .post(url)
        .json(&json!({ "dry_run": dry_run }));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.map_err(reqwest::Error::without_url);
    let answer = answer.with_context(|| {
        format!("no answer from {url}: a proxy that was started with another [admin] has it still; say --admin")
    })?;
    let status = answer.status();
    let text = answer.text().await.map_err(reqwest::Error::without_url)?;
    serde_json::from_str(&text)
        .map_err(|_| anyhow::anyhow!("{url} answered {status}: {}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_server_is_found_in_a_file_with_errors_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        let admin = "workers = 0\n[admin]\naddress = \"127.0.0.1:9901\"\n";
        std::fs::write(&path, admin).unwrap();
        let config = admin_alone(&path).unwrap();
        assert_eq!(url_of(&config, &path).unwrap(), "http://127.0.0.1:9901");
        std::fs::write(&path, "[[route]\n").unwrap();
        assert!(admin_alone(&path).is_none());
    }
}
