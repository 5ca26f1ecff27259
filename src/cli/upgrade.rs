//! `callboard upgrade`: has the binary that stands in a running proxy's place on the disk take its place in
//! the process table, and says what came of it.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::{admin_server::AdminServer, duration};
use crate::admin::WITHIN;

/// How much longer than that the answer may take: what is given up may say why, and is ended first.
const MORE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    server: AdminServer,
    /// How long the new process may take to get ready [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration::some)]
    within: Option<Duration>,
    /// Though pins, drains, weights and shares end with the process that has them
    #[arg(long)]
    force: bool,
}

/// What `POST /api/upgrade` answers.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    unpinned: Vec<String>,
    #[serde(default)]
    undrained: Vec<String>,
    #[serde(default)]
    unweighed: Vec<String>,
    #[serde(default)]
    shares_reset: Vec<String>,
    #[serde(default)]
    error: String,
}

pub(super) fn upgrade(upgrade: &Upgrade) -> anyhow::Result<ExitCode> {
    let within = upgrade.within.unwrap_or(WITHIN);
    let within_text = format!("{}ms", within.as_millis());
    let body = json!({ "within": within_text, "force": upgrade.force });
    let path = ["api", "upgrade"];
    let server = &upgrade.server;
    let answer = server.ask_for(within + MORE, Method::POST, &path, &[], Some(&body))?;
    let answer: Answer = answer.json()?;
    if !answer.ok {
        eprintln!("not upgraded: {}", answer.error.trim_end());
        return Ok(ExitCode::FAILURE);
    }
    let mut said = format!(
        "upgraded: process {} serves, after {:.1} s; the one before it drains\n",
        answer.pid, answer.seconds
    );
    if !answer.unpinned.is_empty() {
        said += &format!("no longer pinned: {}\n", answer.unpinned.join(", "));
    }
    if !answer.undrained.is_empty() {
        said += &format!("no longer drained: {}\n", answer.undrained.join(", "));
    }
    if !answer.unweighed.is_empty() {
        let endpoints = answer.unweighed.join(", ");
        said += &format!("with their own weights again: {endpoints}\n");
    }
    if !answer.shares_reset.is_empty() {
        let routes = answer.shares_reset.join(", ");
        said += &format!("with the file's shares again: {routes}\n");
    }
    write!(stdout(), "{said}").context("cannot write the result")?;
    Ok(ExitCode::SUCCESS)
}
