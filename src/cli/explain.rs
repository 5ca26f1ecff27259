//! `callboard explain`: says what becomes of a request, by a file alone or by a proxy that runs.

use std::{
    collections::BTreeMap,
    future::pending,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use futures_util::future::{BoxFuture, join_all};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    admin_server::AdminServer,
    output::{Format, say},
    plain::{self, Plain},
};
use crate::{
    config::{Config, RegistryKind},
    discovery::{Directory, Lookup},
    instance::InstanceSet,
    proxy::{
        Generation, Shared, Worker,
        explain::{Explanation, Question, explain_once_read},
    },
    registry::{self, Catalog, Registry, RegistryError, ServiceQuery, Source},
    saved,
    service::Service,
};

/// How long a file of endpoints may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
#[command(override_usage = "callboard explain [OPTIONS] [METHOD] URL")]
pub(super) struct Explain {
    /// The request's method [default: GET]
    #[arg(value_name = "METHOD")]
    method_or_url: String,
    /// The request's URL, or its path
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// A header field of the request, as "Name: value"; may be given several times
    #[arg(short = 'H', long, value_name = "FIELD")]
    header: Vec<String>,
    /// Who sends the request
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// Ask the proxy that runs, which knows its endpoints, and not only the file (with --admin it is
    /// always asked)
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    server: AdminServer,
    /// Text for people, or one JSON object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn explain(explain: &Explain) -> anyhow::Result<ExitCode> {
    let (method, url) = match &explain.url {
        Some(url) => (&*explain.method_or_url, url),
        None => ("GET", &explain.method_or_url),
    };
    let fields = explain.header.iter().map(String::as_str);
    let question = match Question::new(method, url, fields, explain.client) {
        Ok(question) => question,
        Err(error) => {
            eprintln!("error: {}", Plain(error));
            return Ok(ExitCode::from(2));
        }
    };
    let explanation = if explain.live || explain.server.is_named() {
        ask(explain, method, url)?
    } else {
        let path = explain.server.file().unwrap_or(Path::new("proxy.toml"));
        match Config::load(path) {
            Ok(config) => by_file(config, &question)?,
            Err(report) => {
                eprintln!("{report}");
                return Ok(ExitCode::FAILURE);
            }
        }
    };
    let text = match explain.format {
        Format::Json => plain::json(&serde_json::to_string(&explanation)?) + "\n",
        Format::Text => text(&explanation)?,
    };
    say(&text)?;
    Ok(match explanation.is_forwarded() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Its lines. What others have chosen is escaped before they are made: a line's end in it begins none.
fn text(explanation: &Explanation) -> anyhow::Result<String> {
    let mut value = serde_json::to_value(explanation)?;
    escape(&mut value);
    let text = serde_json::from_value::<Explanation>(value)?.to_string();
    let lines = text.lines().map(|line| format!("{}\n", Plain(line)));
    Ok(lines.collect())
}

fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = Plain(&*text).to_string(),
        Value::Array(all) => all.iter_mut().for_each(escape),
        // A head's lines are lines: no field of it has an end of one in it.
        Value::Object(all) => {
            let all = all.iter_mut().filter(|(key, _)| *key != "head");
            all.for_each(|(_, value)| escape(value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What the proxy that runs says.
fn ask(explain: &Explain, method: &str, url: &str) -> anyhow::Result<Explanation> {
    let client = explain.client.to_string();
    let mut query = vec![("method", method), ("url", url), ("client", &client)];
    let fields = explain.header.iter();
    query.extend(fields.map(|field| ("header", field.as_str())));
    let answer = explain.server.get(&["api", "explain"], &query)?;
    answer.good()
}

/// What the file says.
fn by_file(mut config: Config, question: &Question) -> anyhow::Result<Explanation> {
    // Checks are requests, and none is made.
    config.defaults.health = None;
    for service in config.services.values_mut() {
        Arc::make_mut(service).health = None;
    }
    let config = Arc::new(config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let explanation = runtime.block_on(async {
        let until = Instant::now() + PATIENCE;
        let explanation = explain_with(&config, question, None, until).await?;
        let Some(name) = &explanation.unlisted else {
            return Ok(explanation);
        };
        // Its service is explained as one that is listed; that this is not known is still said.
        let name = Some(name.as_str().into());
        let listed = explain_with(&config, question, name, until).await?;
        Ok::<_, anyhow::Error>(Explanation {
            unlisted: explanation.unlisted,
            ..listed
        })
    });
    runtime.shutdown_background();
    let tags = config.registries.iter();
    let tags = tags.filter(|(_, registry)| registry.routes.is_some());
    Ok(Explanation {
        unread_tags: tags.map(|(name, _)| name.to_string()).collect(),
        ..explanation?
    })
}

/// What becomes of a request where registries list no service but this one. Files of endpoints are waited
/// for until then.
async fn explain_with(
    config: &Arc<Config>,
    question: &Question,
    listed: Option<Arc<str>>,
    until: Instant,
) -> anyhow::Result<Explanation> {
    let mut registries: BTreeMap<Arc<str>, Arc<dyn Registry>> = BTreeMap::new();
    for (name, settings) in &config.registries {
        let registry: Arc<dyn Registry> = match &settings.kind {
            RegistryKind::File(_) => registry::open(name, &settings.kind)?,
            kind => Arc::new(Unasked {
                keeps_a_list: kind.lists_services(),
                listed: listed.clone(),
            }),
        };
        registries.insert(Arc::clone(name), registry);
    }
    let directory = Directory::start(config, registries, &saved::Contents::default())?;
    let is_file = |name: &Arc<str>| matches!(config.registries[name].kind, RegistryKind::File(_));
    let wait = async |services: Vec<Arc<Service>>| {
        let is_by_file =
            |service: &&Arc<Service>| service.policy().origin.registries().iter().all(is_file);
        let left = until.saturating_duration_since(Instant::now());
        let services = services.iter().filter(is_by_file);
        join_all(services.map(|service| service.wait_until_read(left))).await;
    };
    wait(directory.services()).await;
    let left = until.saturating_duration_since(Instant::now());
    let is_said = |name: &Arc<str>| listed.is_some() || is_file(name);
    directory.wait_for_catalogs_of(is_said, left).await;
    let generation = Generation::new(Arc::clone(config), Arc::clone(&directory));
    let shared = Arc::new(Shared::new(generation, Arc::default()));
    shared.ready.store(true, Relaxed);
    let worker = Arc::new(Worker::new(0, shared));
    let explanation = explain_once_read(&worker, question, Duration::ZERO).await;
    let unwatched = explanation.destinations.iter().filter(|it| !it.is_watched);
    let made: Vec<_> = unwatched
        .filter_map(|it| match directory.lookup(&it.service) {
            Lookup::Found(service) => Some(service),
            Lookup::Unknown | Lookup::NotRead => None,
        })
        .collect();
    if made.is_empty() {
        return Ok(explanation);
    }
    wait(made).await;
    Ok(explain_once_read(&worker, question, Duration::ZERO).await)
}

/// A registry that is elsewhere, and is not asked for instances.
struct Unasked {
    keeps_a_list: bool,
    /// The one service that it lists; `None` where it lists nothing, not even that it has none.
    listed: Option<Arc<str>>,
}

impl Registry for Unasked {
    fn service(&self, _: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        Box::new(Said(None))
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let list = |name: &Arc<str>| Catalog::from([(Arc::clone(name), Vec::new())]);
        let said: Box<dyn Source<Catalog>> = Box::new(Said(self.listed.as_ref().map(list)));
        self.keeps_a_list.then_some(said)
    }
}

/// What is said once, if anything is.
struct Said<T>(Option<T>);

impl<T: Send + 'static> Source<T> for Said<T> {
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        let said = self.0.take();
        Box::pin(async move {
            match said {
                Some(said) => Ok(said),
                None => pending().await,
            }
        })
    }
}
