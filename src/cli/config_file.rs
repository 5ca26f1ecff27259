//! Where a configuration comes from: a file, the command line, or nowhere.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::Args;

use super::registry;
use crate::{
    app::Source,
    config::{self, Config, Report},
};

/// The file that is read where none is named.
const USUAL: &str = "proxy.toml";

/// The argument that names the file, which several commands take.
#[derive(Args)]
pub(super) struct ConfigFile {
    /// The configuration file [default: proxy.toml]
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What to serve; without a subcommand, which a file's name could be taken for.
#[derive(Args)]
pub(super) struct Start {
    /// The configuration file [default: proxy.toml, if there is one]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["registry", "listen", "admin"])]
    config: Option<PathBuf>,
    /// Without a file: any service of this registry, below /NAME. A URL such as
    /// consul://127.0.0.1:8500
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// Without a file: where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = config::listen_address)]
    listen: Vec<SocketAddr>,
    /// Without a file: where the admin server listens [default: 127.0.0.1:9900]
    #[arg(long, value_name = "ADDRESS", value_parser = config::listen_address)]
    admin: Option<SocketAddr>,
}

/// The same, where a file's name stands for itself.
#[derive(Args)]
pub(super) struct Run {
    /// The configuration file
    #[arg(value_name = "FILE", conflicts_with_all = ["config", "registry", "listen", "admin"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    start: Start,
}

/// A configuration, and whether it is one that no file and no flag asked for.
pub(super) struct Chosen {
    pub(super) config: Config,
    /// The file that it stands in, if it stands in one.
    pub(super) source: Option<Source>,
    pub(super) is_unsaid: bool,
}

impl ConfigFile {
    pub(super) fn path(&self) -> &Path {
        let named = self.file.as_deref().or(self.config.as_deref());
        named.unwrap_or(Path::new(USUAL))
    }
}

impl From<Start> for Run {
    fn from(start: Start) -> Self {
        Self { file: None, start }
    }
}

impl Run {
    /// The configuration that is meant.
    ///
    /// # Errors
    /// What is wrong with the command line; within, what is wrong with the file.
    pub(super) fn choose(self) -> anyhow::Result<Result<Chosen, Report>> {
        let Start {
            config,
            registry,
            listen,
            admin,
        } = self.start;
        let usual = Path::new(USUAL);
        let is_said = registry.is_some() || !listen.is_empty() || admin.is_some();
        let file = self.file.or(config);
        let file = file.as_deref();
        if let Some(file) = file.or_else(|| (!is_said && usual.exists()).then_some(usual)) {
            let source = Source::new(file.to_owned(), Config::load);
            return Ok(source.read().map(|config| Chosen {
                config,
                source: Some(source),
                is_unsaid: false,
            }));
        }
        let listen = match &listen[..] {
            [] => &[SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            named => named,
        };
        Ok(Ok(Chosen {
            config: registry::all_services(registry.as_deref(), listen, admin)?,
            source: None,
            is_unsaid: !is_said,
        }))
    }
}
