//! `callboard reload`: has a running proxy read its file again, and says what came of it.

use std::process::ExitCode;

use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::{admin_server::AdminServer, output::say};
use crate::config::Changes;

#[derive(Args)]
pub(super) struct Reload {
    #[command(flatten)]
    server: AdminServer,
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
    let body = json!({ "dry_run": reload.dry_run });
    // The proxy is asked for a file with errors, too: it counts them, and logs them.
    let path = ["api", "reload"];
    let answer = reload.server.ask(Method::POST, &path, &[], Some(&body))?;
    let answer: Answer = answer.json()?;
    if !answer.ok {
        eprintln!("{}", answer.error.trim_end());
        return Ok(ExitCode::FAILURE);
    }
    let said = match (answer.changes.is_empty(), reload.dry_run) {
        (true, _) => format!("{}nothing has changed\n", answer.changes),
        (false, true) => format!("{}nothing is changed: this was a dry run\n", answer.changes),
        (false, false) => format!("{}reloaded\n", answer.changes),
    };
    say(&said)
}
