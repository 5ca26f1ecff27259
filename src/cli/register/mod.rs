//! `callboard register`: keeps a provider signed in, and runs the command that is the provider.
//! Owns the order of things: healthy, then signed in; signed out, then told to end. Knows nothing
//! of how a registry is told.

mod command;
mod probe;

use std::{
    ffi::OsString,
    io::stderr,
    net::Ipv4Addr,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum, builder::PossibleValue, error::ErrorKind, value_parser};
use nix::sys::signal::Signal;
use reqwest::Url;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    duration, logging,
    registry::{self, Chosen},
    signals::Signals,
};
use crate::{
    instance::{Address, MAX_WEIGHT},
    register::{self, Check, Layout, Provider, Registrar},
};
use command::{Command, Event, exit_code};
use probe::Probe;

/// How long it is looked, before a command is started, whether its place is taken.
const GLANCE: Duration = Duration::from_millis(200);

/// How long a command that was not healthy in time may take to end.
const END: Duration = Duration::from_secs(10);

/// `callboard register`
#[derive(Args)]
pub(super) struct Register {
    /// The service that the provider is an instance of
    #[arg(value_parser = filled)]
    name: String,

    /// The port that it is called at. 0 chooses a free one, which the command finds in PORT
    #[arg(long)]
    port: u16,

    /// The IP address or name that it is called at [default: 127.0.0.1 where the registry is on
    /// this machine, else the address from which the registry is reached]
    #[arg(long, value_name = "HOST", value_parser = host)]
    address: Option<String>,

    /// Its id, unique at the registry [default: NAME-ADDRESS:PORT]
    #[arg(long, value_parser = filled)]
    id: Option<String>,

    /// A registry of the configuration file, or a URL such as consul://127.0.0.1:8500 or
    /// http://… (Consul's API) [default: the file's default; without a file embedded://127.0.0.1:8500]
    #[arg(long, value_name = "NAME|URL", value_parser = filled)]
    registry: Option<String>,

    /// The configuration file that has the registry [default: proxy.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_parser = filled)]
    tags: Vec<String>,

    /// Metadata; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,

    /// Its share relative to the other instances
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=i64::from(MAX_WEIGHT)))]
    weight: u32,

    /// It speaks TLS
    #[arg(long)]
    tls: bool,

    /// How the registry finds out that it is gone: no more signs of life from this process
    /// ("ttl"), or a probe of the registry's own: "tcp", or a path or a URL that answers 2xx
    #[arg(long, value_name = "ttl|tcp|PATH|URL", default_value = "ttl", value_parser = CheckOf::parse)]
    check: CheckOf,

    /// With `--check ttl`: after how long without a sign of life it is taken to be gone
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::some)]
    ttl: Duration,

    /// With any other check: how often the registry probes
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::some)]
    interval: Duration,

    /// How the entry is written, where the registry knows several ways
    #[arg(long, default_value = Layout::GoKit.as_str())]
    layout: Layout,

    /// From deregistering to the signal that ends the command
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::wait)]
    drain: Duration,

    /// How long the provider may take to be healthy
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::some)]
    start_timeout: Duration,

    /// The command that is the provider, after `--`; without one, whatever listens at the port
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What `--check` says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CheckOf {
    Ttl,
    Tcp,
    Path(String),
    Url(String),
}

/// Keeps the provider signed in until a signal comes or its command ends.
///
/// # Errors
/// Where something about the registry or the command cannot be used, or the provider is not
/// healthy in time.
pub(super) fn register(args: Register) -> anyhow::Result<ExitCode> {
    if args.port == 0 && args.command.is_empty() {
        let message = "`--port 0` chooses a port for a command, and there is none\n";
        clap::Error::raw(ErrorKind::MissingRequiredArgument, message).exit();
    }
    if let Some(url) = &args.registry {
        takes_entries(url)?;
    }
    let chosen = registry::choose(args.registry.as_deref(), args.config.as_deref())?;
    // stdout is the command's.
    let _flushed_at_exit = logging::start(&chosen.log, stderr())?.flushed_at_exit;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(args, chosen));
    // Does not wait for a name that is still being resolved.
    runtime.shutdown_background();
    ended
}

async fn run(args: Register, chosen: Chosen) -> anyhow::Result<ExitCode> {
    let provider = args.provider(&chosen).await?;
    let probe = Probe::of(&provider)?;
    let (id, address) = (provider.id.clone(), provider.address.clone());
    let entry = register::entry(&chosen.name, &chosen.kind, provider)?;
    let sign_in = || {
        tracing::info!("signing in at {} as {id} at {address}", chosen.name);
        Registrar::start(entry)
    };
    if args.command.is_empty() {
        // Of a TTL this process is the only judge, be it from where the provider cannot be reached.
        let judged = args.check == CheckOf::Ttl;
        if judged && let Err(reason) = probe.passes_within(GLANCE).await {
            tracing::warn!(
                "nobody takes connections at {address} ({reason}): it is signed in all the same, \
                 and requests to it fail until somebody does"
            );
        }
        let probe = (!judged).then_some(probe);
        return alone(probe, args.start_timeout, sign_in).await;
    }
    if probe.passes_within(GLANCE).await.is_ok() {
        tracing::warn!(
            "somebody is at {address} already: it may not be the command that is called"
        );
    }
    let command = Command::start(&args.command, address.port())?;
    with_command(command, &args, &probe, sign_in).await
}

/// Refuses the URL of a kind that takes no entries, and names those that do.
fn takes_entries(registry: &str) -> anyhow::Result<()> {
    const KINDS: [&str; 6] = ["consul", "embedded", "etcd", "etcd2", "eureka", "zookeeper"];
    let Some((scheme, _)) = registry.split_once("://") else {
        return Ok(());
    };
    let known = KINDS.iter().chain(&["http", "https"]);
    if known.into_iter().any(|known| *known == scheme) {
        return Ok(());
    }
    let close = |kind: &&str| strsim::damerau_levenshtein(kind, scheme) <= 2;
    let meant = match KINDS.iter().copied().find(close) {
        Some(meant) => format!("did you mean `{meant}://`?"),
        None => format!(
            "it may be {}, or http and https for Consul's API",
            KINDS.join(", ")
        ),
    };
    let why = match scheme {
        "dns" | "file" => "takes no entries",
        _ => "is not known here",
    };
    bail!("--registry: `{scheme}` {why}; {meant}")
}

/// Stays until a signal asks to end.
async fn alone(
    probe: Option<Probe>,
    limit: Duration,
    sign_in: impl FnOnce() -> Registrar,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::take()?;
    if let Some(probe) = probe {
        tokio::select! {
            healthy = probe.passes_within(limit) => {
                healthy.map_err(|reason| unhealthy(limit, &reason))?;
            }
            _ = signals.until_end() => return Ok(ExitCode::SUCCESS),
        }
    }
    let registrar = sign_in();
    signals.until_end().await;
    tokio::select! {
        gone = registrar.deregister() => gone.context("not signed out")?,
        _ = signals.until_end() => bail!("ended at once by a second signal"),
    }
    tracing::info!("signed out");
    Ok(ExitCode::SUCCESS)
}

/// Stays until the command ends, by itself or since we were told to end.
async fn with_command(
    mut command: Command,
    args: &Register,
    probe: &Probe,
    sign_in: impl FnOnce() -> Registrar,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        healthy = probe.passes_within(args.start_timeout) => {
            if let Err(reason) = healthy {
                tracing::error!("the command was not healthy in time, and is ended");
                command.send(Signal::SIGTERM);
                if timeout(END, command.end()).await.is_err() {
                    command.send(Signal::SIGKILL);
                    command.end().await?;
                }
                return Err(unhealthy(args.start_timeout, &reason));
            }
        }
        event = command.next() => match event? {
            Event::Ended(status) => return Ok(exit_code(status)),
            // The provider is not signed in yet, so that there is no entry to take away.
            Event::Told(signal) => {
                command.send(signal);
                return Ok(exit_code(command.end().await?));
            }
        },
    }
    let registrar = sign_in();
    let status = match command.next().await? {
        Event::Ended(status) => {
            sign_out(registrar).await;
            status
        }
        Event::Told(signal) => leave(&mut command, registrar, signal, args.drain).await?,
    };
    Ok(exit_code(status))
}

/// Signs the command out, and only then passes on the signal that ends it; a second signal does
/// not wait for that.
async fn leave(
    command: &mut Command,
    registrar: Registrar,
    signal: Signal,
    drain: Duration,
) -> anyhow::Result<ExitStatus> {
    let signed_out = CancellationToken::new();
    let leaving = async {
        sign_out(registrar).await;
        signed_out.cancel();
    };
    let ending = async {
        // Until those who watch the registry know, it goes on serving.
        let drained = async {
            signed_out.cancelled().await;
            sleep(drain).await;
        };
        let signal = tokio::select! {
            () = drained => signal,
            event = command.next() => match event? {
                Event::Ended(status) => return Ok(status),
                Event::Told(hurry) => hurry,
            },
        };
        command.send(signal);
        command.end().await
    };
    tokio::join!(leaving, ending).1
}

async fn sign_out(registrar: Registrar) {
    match registrar.deregister().await {
        Ok(()) => tracing::info!("signed out"),
        Err(error) => {
            tracing::warn!(%error, "not signed out: the entry is left to its lease, session or TTL");
        }
    }
}

fn unhealthy(limit: Duration, reason: &str) -> anyhow::Error {
    anyhow::anyhow!("the provider was not healthy within {limit:?}: {reason}")
}

impl Register {
    async fn provider(&self, chosen: &Chosen) -> anyhow::Result<Provider> {
        let host = match &self.address {
            Some(host) => host.clone(),
            None => register::local_ip(&chosen.kind)
                .await
                .context("cannot tell at which address the provider is called: say --address")?
                .to_string(),
        };
        let port = match self.port {
            0 => free_port(&host).await?,
            port => port,
        };
        let address = Address::new(&host, port.into())?;
        let scheme = if self.tls { "https" } else { "http" };
        let interval = self.interval;
        let check = match &self.check {
            CheckOf::Ttl => Check::Ttl(self.ttl),
            CheckOf::Tcp => Check::Tcp { interval },
            CheckOf::Path(path) => Check::Http {
                url: format!("{scheme}://{address}{path}"),
                interval,
            },
            CheckOf::Url(url) => Check::Http {
                url: url.clone(),
                interval,
            },
        };
        let usual = Provider::new(&self.name, address);
        Ok(Provider {
            id: self.id.clone().unwrap_or(usual.id),
            tls: self.tls,
            tags: self.tags.clone(),
            meta: self.meta.iter().cloned().collect(),
            weight: self.weight,
            check,
            layout: self.layout,
            ..usual
        })
    }
}

/// A port that is free now. Another process may take it before the command listens there; then the
/// command cannot, and says so.
async fn free_port(host: &str) -> anyhow::Result<u16> {
    let listener = match TcpListener::bind((host, 0)).await {
        Ok(listener) => listener,
        // The address may be another machine's, which passes on what comes.
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
    };
    Ok(listener.local_addr()?.port())
}

impl CheckOf {
    fn parse(text: &str) -> Result<Self, String> {
        let usable =
            |url: &str| Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        match text {
            "ttl" => Ok(Self::Ttl),
            "tcp" => Ok(Self::Tcp),
            path if path.starts_with('/') && usable(&format!("http://host{path}")) => {
                Ok(Self::Path(path.to_owned()))
            }
            url if usable(url) => Ok(Self::Url(url.to_owned())),
            _ => Err("write ttl, tcp, a path such as /health, or a URL such as http://127.0.0.1:8080/health".to_owned()),
        }
    }
}

impl ValueEnum for Layout {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::GoKit, Self::Grpc, Self::Curator]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

fn filled(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    // Any port: it stands elsewhere.
    let address = Address::new(text, 1).map_err(|error| error.to_string())?;
    Ok(address.host().into_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_word_a_path_or_a_url() {
        for (text, check) in [
            ("ttl", CheckOf::Ttl),
            ("tcp", CheckOf::Tcp),
            ("/health?deep", CheckOf::Path("/health?deep".to_owned())),
            ("https://h:1/x", CheckOf::Url("https://h:1/x".to_owned())),
        ] {
            assert_eq!(CheckOf::parse(text), Ok(check));
        }
        for text in ["", "http", "ftp://h/", "h:80", "http://"] {
            assert!(CheckOf::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_registries_that_take_entries_are_suggested() {
        for url in ["consul://h:1", "https://h", "zookeeper://h", "main"] {
            assert!(takes_entries(url).is_ok(), "{url}");
        }
        for (url, says) in [
            (
                "consl://h",
                "`consl` is not known here; did you mean `consul://`?",
            ),
            (
                "nacos://h",
                "it may be consul, embedded, etcd, etcd2, eureka, zookeeper, or http",
            ),
            ("dns://h", "`dns` takes no entries; it may be"),
            ("file://h", "`file` takes no entries; it may be"),
        ] {
            let error = takes_entries(url).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn metadata_is_a_key_and_a_value_that_may_be_empty_or_hold_another_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }

    #[test]
    fn an_address_has_no_port_and_no_brackets() {
        assert_eq!(host("[::1]"), Ok("::1".to_owned()));
        assert_eq!(host("My-Host"), Ok("my-host".to_owned()));
        assert!(host("10.0.0.1:80").is_err() && host("").is_err());
    }
}
