//! `callboard init`: writes a configuration to begin with.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;

use super::{output::say, registry};
use crate::config::Config;

#[derive(Args)]
pub(super) struct Init {
    /// The file to write
    #[arg(value_name = "FILE", default_value = "proxy.toml")]
    file: PathBuf,
    /// The registry's URL, such as consul://127.0.0.1:8500 [default: the embedded one]
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
}

pub(super) fn init(init: &Init) -> anyhow::Result<ExitCode> {
    let file = init.file.display();
    let text = text(init.registry.as_deref())?;
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&init.file);
    let mut created = match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{file} is here already, and stays as it is: name another file");
        }
        created => created.with_context(|| format!("cannot write {file}"))?,
    };
    let written = created.write_all(text.as_bytes());
    written.with_context(|| format!("cannot write {file}"))?;
    let name = match init.file == Path::new("proxy.toml") {
        true => String::new(),
        false => format!(" {file}"),
    };
    say(&format!(
        "wrote {file}; `callboard run{name}` serves it, `callboard check{name}` says what is wrong \
         with it\n"
    ))
}

/// The file's text.
fn text(url: Option<&str>) -> anyhow::Result<String> {
    let registry = match url {
        Some(url) => registry::table_of(url)?,
        None => "[registry.embedded]\n\
                 # Where its HTTP API is, which is Consul's, and the folder that keeps its state.\n\
                 address = \"127.0.0.1:8500\"\n\
                 data = \"callboard-data\"\n"
            .to_owned(),
    };
    let with = |route: &str| format!("{HEAD}{registry}\n{route}{REST}");
    let text = with(TEMPLATE);
    // A registry that cannot list its services has no templates.
    match Config::parse(&text, Path::new("")) {
        Ok(_) => Ok(text),
        Err(_) => Ok(with(ONE)),
    }
}

const HEAD: &str = r#"# What is left out has its default. All keys stand in Callboard's docs/configuration.md,
# and in the proxy.toml that comes with it.

# Where clients come in: 127.0.0.1 is this machine alone, 0.0.0.0 every interface.
[[listen]]
address = "127.0.0.1:8080"
# A balancer in front, whose forwarded headers are believed.
#trusted_proxies = ["10.0.0.0/8"]

# Where the instances of services are learnt.
"#;

const TEMPLATE: &str = r#"# Any service of the registry, below its name: /cart/7 goes to `cart`, which sees /7.
[[route]]
path = "/{service}"
service = "{service}"
strip_prefix = true

# One by its own host.
#[[route]]
#host = "shop.example.com"
#service = "cart"
"#;

const ONE: &str = r#"# /cart/7 goes to `cart`, which sees /7.
[[route]]
path = "/cart"
service = "cart"
strip_prefix = true
"#;

const REST: &str = r#"
# What every service has that says nothing else.
#[defaults]
#timeout = { connect = "1s", response = "30s" }
#retry = { attempts = 3 }

# What one has that differs.
#[service.cart]
#balance = "least_request"
#health = { kind = "http", path = "/health" }

# /live, /ready, /metrics and /api/status.
#[admin]
#address = "127.0.0.1:9900"

# One line for each request, as JSON.
#[access_log]
"#;

#[cfg(test)]
mod tests {
    use super::*;

    /// With what it shows in comments put in.
    fn with_all(text: &str) -> String {
        let key = |line: &'static str| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key,
            _ => line,
        };
        let text: &'static str = text.to_owned().leak();
        text.lines().flat_map(|line| [key(line), "\n"]).collect()
    }

    #[test]
    fn what_is_written_is_right_for_every_kind_of_registry_and_so_are_its_comments() {
        for (url, kind) in [
            (None, "embedded"),
            (Some("consul://10.0.0.5:8500"), "consul"),
            (Some("https://consul.example.com"), "consul"),
            (Some("etcd://127.0.0.1:2379"), "etcd"),
            (Some("etcd2://127.0.0.1:2379"), "etcd2"),
            (Some("eureka://127.0.0.1:8761/eureka"), "eureka"),
            (Some("zookeeper://127.0.0.1:2181"), "zookeeper"),
            (Some("dns://127.0.0.1:53"), "dns"),
            (Some("file:///etc/endpoints.toml"), "file"),
        ] {
            let text = text(url).unwrap();
            for text in [text.clone(), with_all(&text)] {
                let config = Config::parse(&text, Path::new("")).unwrap_or_else(|e| panic!("{e}"));
                let kinds: Vec<_> = config.registries.values().collect();
                assert_eq!(kinds[0].kind.as_str(), kind);
            }
        }
        let unknown = text(Some("consl://127.0.0.1")).unwrap_err().to_string();
        assert!(
            unknown.starts_with("--registry: `consl` is not known"),
            "{unknown}"
        );
    }
}
