//! A running proxy's admin server, as commands find it and ask it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{
    config::{Admin, Config, Secret},
    control::{http_client::client, server::reachable},
};

/// A file of a hundred thousand routes is read in less.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the admin server is when no file says otherwise.
pub(super) const DEFAULT: &str = "http://127.0.0.1:9900";

/// Where an admin server is.
#[derive(Args)]
pub(super) struct AdminServer {
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
}

/// What an admin server answers.
pub(super) struct Answer {
    url: String,
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl AdminServer {
    /// Whether its URL is said.
    pub(super) fn is_named(&self) -> bool {
        self.admin.is_some()
    }

    /// The file that is named, else proxy.toml where there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        let usual = Path::new("proxy.toml");
        let usual = usual.exists().then_some(usual);
        self.config.as_deref().or(usual)
    }

    /// Gets a page of it, whose parts and query are encoded here.
    ///
    /// # Errors
    /// Where there is no answer.
    pub(super) fn get(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, query, None)
    }

    /// Changes something there: at the proxy of the file, and where that does not say which one it is at none.
    ///
    /// # Errors
    /// Where there is no answer, or the file cannot be read.
    fn change(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        if let (None, Some(file)) = (&self.admin, self.file())
            && Config::admin_of(file).is_none()
        {
            bail!(
                "{} cannot be read, and so it is not known which proxy is meant: say --admin",
                file.display()
            );
        }
        self.ask(method, path, query, body)
    }

    /// Has something be otherwise there for so long, or for as long as is usual.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub(super) fn begin(
        &self,
        path: &[&str],
        mut body: Value,
        time: Option<Duration>,
    ) -> anyhow::Result<Answer> {
        if let Some(time) = time {
            body["for"] = format!("{}ms", time.as_millis()).into();
        }
        self.change(Method::POST, path, &[], Some(&body))
    }

    /// Has it be as it was.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub(super) fn end(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.change(Method::DELETE, path, query, None)
    }

    /// Asks it for anything.
    ///
    /// # Errors
    /// Where there is no answer.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        self.ask_for(PATIENCE, method, path, query, body)
    }

    /// The same where the answer may take so long.
    ///
    /// # Errors
    /// Where there is no answer.
    pub(super) fn ask_for(
        &self,
        patience: Duration,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let (server, token) = self.find()?;
        let token = token.as_ref().map(Secret::read).transpose();
        let token = token.map_err(|error| anyhow::anyhow!("the admin server's token: {error}"))?;
        let mut url: reqwest::Url = server
            .parse()
            .with_context(|| format!("{server} is no URL"))?;
        // A URL has no such parts: it names what stands above.
        if let Some(dots) = path.iter().find(|part| matches!(**part, "." | "..")) {
            bail!("`{dots}` is not the name of a service");
        }
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(path);
            }
            Err(()) => bail!("{server} is not the URL of an admin server"),
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(exchange(patience, method, url, token, body))
    }

    fn find(&self) -> anyhow::Result<(String, Option<Secret>)> {
        Ok(match (&self.admin, self.file()) {
            (Some(url), _) => (url.clone(), self.token_file.clone().map(Secret::File)),
            (None, None) => (DEFAULT.to_owned(), None),
            (None, Some(path)) => match Config::admin_of(path) {
                Some(admin) => (url_of(&admin, path)?, admin.token),
                None => (DEFAULT.to_owned(), None),
            },
        })
    }
}

impl Answer {
    /// The answer, as the JSON that it must be.
    ///
    /// # Errors
    /// Where it is something else, and what.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> anyhow::Result<T> {
        let Self { url, status, text } = self;
        serde_json::from_str(text)
            .map_err(|_| anyhow::anyhow!("{url} answered {status}: {}", text.trim_end()))
    }

    /// The same where its status must be 200.
    ///
    /// # Errors
    /// What it says otherwise.
    pub(super) fn good<T: serde::de::DeserializeOwned>(&self) -> anyhow::Result<T> {
        if self.status == StatusCode::OK {
            return self.json();
        }
        let said = serde_json::from_str::<Value>(&self.text).ok();
        let error = said.as_ref().and_then(|said| said["error"].as_str());
        let Self { url, status, text } = self;
        match error {
            Some(error) => bail!("{error}"),
            None => bail!("{url} answered {status}: {}", text.trim_end()),
        }
    }
}

/// The URL of the admin server that a file names.
///
/// # Errors
/// Where it may take any port.
pub(super) fn url_of(admin: &Admin, path: &Path) -> anyhow::Result<String> {
    let address = reachable(admin.address);
    if address.port() == 0 {
        bail!(
            "{} lets the admin server take any port: say --admin",
            path.display()
        );
    }
    Ok(format!("http://{address}"))
}

async fn exchange(
    patience: Duration,
    method: Method,
    url: reqwest::Url,
    token: Option<String>,
    body: Option<&Value>,
) -> anyhow::Result<Answer> {
    let client = client(|| reqwest::Client::builder().no_proxy().timeout(patience))?;
    let mut request = client.request(method, url.clone());
    if let Some(body) = body {
        request = request.json(body);
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let mut shown = url;
    shown.set_query(None);
    // A URL that has a host can be without a password.
    let _ = shown.set_password(None);
    let url = shown.to_string();
    let answer = request.send().await.map_err(reqwest::Error::without_url);
    let answer = answer.with_context(|| {
        format!("no answer from {url}: a proxy that was started with another [admin] has it still; say --admin")
    })?;
    Ok(Answer {
        url,
        status: answer.status(),
        text: answer.text().await.map_err(reqwest::Error::without_url)?,
    })
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
        let admin = Config::admin_of(&path).unwrap();
        assert_eq!(url_of(&admin, &path).unwrap(), "http://127.0.0.1:9901");
        std::fs::write(&path, "[[route]\n").unwrap();
        assert!(Config::admin_of(&path).is_none());
    }

    #[test]
    fn nothing_is_changed_at_a_proxy_that_the_file_does_not_name_nor_of_a_service_that_is_no_name()
    {
        let folder = tempfile::tempdir().unwrap();
        let missing = AdminServer {
            admin: None,
            token_file: None,
            config: Some(folder.path().join("proxy.tml")),
        };
        let changed = missing.change(Method::POST, &["api"], &[], None);
        let error = changed.err().unwrap().to_string();
        assert!(error.contains("proxy.tml cannot be read"), "{error}");
        let named = AdminServer {
            admin: Some("http://127.0.0.1:9".to_owned()),
            config: None,
            ..missing
        };
        let changed = named.change(Method::DELETE, &["api", "services", "..", "pin"], &[], None);
        let error = changed.err().unwrap().to_string();
        assert_eq!(error, "`..` is not the name of a service");
    }
}
