//! Which registry is meant: one of proxy.toml, or a URL that needs no file. A URL is put into a
//! small proxy.toml of its own, so that whatever reads the one reads the other.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, anyhow, bail};

use crate::config::{Config, Log, RegistryKind};

/// What proxy.toml must have, beside what is read of it.
const ROUTE: &str = "[[route]]\nservice = \"any\"\n";

/// Where Consul's own tools look for a token.
pub(super) const CONSUL_TOKEN: &str = "CONSUL_HTTP_TOKEN";

/// A registry, and the log that goes with it.
#[derive(Debug)]
pub(super) struct Chosen {
    /// As `[registry.NAME]` has it.
    pub(super) name: String,
    pub(super) kind: RegistryKind,
    pub(super) log: Log,
}

/// The registry that is named, or the default one of the file; where there is no file, the
/// embedded one where it is by default.
pub(super) fn choose(registry: Option<&str>, file: Option<&Path>) -> anyhow::Result<Chosen> {
    if let Some(url) = registry
        && let Some((scheme, rest)) = url.split_once("://")
    {
        if file.is_some() {
            bail!(
                "a registry's URL stands for itself: leave out --config, or name a registry of it"
            );
        }
        return of_url(scheme, rest, has_token());
    }
    let usual = Path::new("proxy.toml");
    let Some(file) = file.or_else(|| usual.exists().then_some(usual)) else {
        let config = parse(ROUTE)?;
        return named(registry, config, "proxy.toml, which is not here");
    };
    let file_name = file.display();
    // The report has many lines, and is `check`'s to print.
    let Ok(config) = Config::load(file) else {
        bail!("{file_name} has errors: see `callboard check --config {file_name}`");
    };
    named(registry, config, &file_name.to_string())
}

fn named(registry: Option<&str>, config: Config, file: &str) -> anyhow::Result<Chosen> {
    let mut registries = config.registries;
    if registries.is_empty() {
        bail!(
            "{file} has no registry, since all endpoints stand in it: say --registry with a URL \
             such as consul://127.0.0.1:8500"
        );
    }
    let names: Vec<_> = registries.keys().map(|name| name.to_string()).collect();
    let names = names.join(", ");
    let name = registry
        .or(config.default_registry.as_deref())
        .with_context(|| {
            format!("{file} has several registries: say --registry with one of {names}")
        })?
        .to_owned();
    let registry = registries.remove(name.as_str()).with_context(|| {
        format!(
            "there is no registry `{name}` in {file}; say --registry with one of {names}, or with a URL such as consul://127.0.0.1:8500"
        )
    })?;
    Ok(Chosen {
        name,
        kind: registry.kind,
        log: config.log,
    })
}

/// A configuration without a file: any service of a registry, or of the embedded one, below its
/// name.
pub(super) fn all_services(
    url: Option<&str>,
    listen: &[SocketAddr],
    admin: Option<SocketAddr>,
) -> anyhow::Result<Config> {
    let registry = url.map(table_of).transpose()?.unwrap_or_default();
    let listen: Vec<_> = listen.iter().map(SocketAddr::to_string).collect();
    let route = "path = \"/{service}\"\nservice = \"{service}\"\nstrip_prefix = true\n";
    let admin = admin.map_or_else(String::new, |at| format!("[admin]\naddress = \"{at}\"\n"));
    let text = format!("[[listen]]\naddress = {listen:?}\n{admin}{registry}[[route]]\n{route}");
    parse(&text)
}

/// The table `[registry.KIND]` of a registry's URL.
pub(super) fn table_of(url: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").with_context(|| {
        format!("--registry: `{url}` is no URL; write, say, consul://127.0.0.1:8500")
    })?;
    let (kind, table) = table(scheme, rest, has_token());
    parse(&format!("{table}{ROUTE}"))?;
    // Its name says the kind.
    Ok(table.replacen(&format!("kind = {}\n", toml::Value::from(kind)), "", 1))
}

fn has_token() -> bool {
    std::env::var_os(CONSUL_TOKEN).is_some_and(|token| !token.is_empty())
}

fn of_url(scheme: &str, rest: &str, token: bool) -> anyhow::Result<Chosen> {
    let (kind, table) = table(scheme, rest, token);
    named(Some(kind), parse(&format!("{table}{ROUTE}"))?, "the URL")
}

/// The scheme is the registry's kind; `http` and `https` are Consul's API.
fn table<'a>(scheme: &'a str, rest: &str, token: bool) -> (&'a str, String) {
    let (kind, address) = match scheme {
        "http" | "https" => ("consul", format!("{scheme}://{rest}")),
        // These are no HTTP servers to those who configure them.
        "embedded" | "zookeeper" | "dns" | "file" => (scheme, rest.to_owned()),
        kind => (kind, format!("http://{rest}")),
    };
    let key = if kind == "file" { "path" } else { "address" };
    let [quoted, address] = [kind, &address].map(toml::Value::from);
    let token = if token && kind == "consul" {
        format!("token = {{ env = \"{CONSUL_TOKEN}\" }}\n")
    } else {
        String::new()
    };
    let name = match kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => kind.to_owned(),
        false => quoted.to_string(),
    };
    let table = format!("[registry.{name}]\nkind = {quoted}\n{key} = {address}\n{token}");
    (kind, table)
}

fn parse(text: &str) -> anyhow::Result<Config> {
    Config::parse(text, Path::new("")).map_err(|report| {
        let error = &report.diagnostics()[0];
        let suggestion = error.suggestion.as_ref();
        let suggestion = suggestion.map_or_else(String::new, |text| format!("; {text}"));
        let flag = match error.key.as_deref() {
            Some(key) if key.starts_with("listen") => "--listen",
            Some(key) if key.starts_with("admin") => "--admin",
            _ => "--registry",
        };
        anyhow!("{flag}: {}{suggestion}", error.message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn consul(url: &str, token: bool) -> (String, String, Option<Secret>) {
        let (scheme, rest) = url.split_once("://").unwrap();
        let chosen = of_url(scheme, rest, token).unwrap();
        match chosen.kind {
            RegistryKind::Consul(consul) => (chosen.name, consul.addresses.join(","), consul.token),
            other => panic!("{other:?}"),
        }
    }

    fn error(url: &str) -> String {
        choose(Some(url), None).unwrap_err().to_string()
    }

    #[test]
    fn a_urls_scheme_says_the_kind() {
        for (url, address) in [
            ("consul://10.0.0.5:8500", "http://10.0.0.5:8500"),
            ("http://consul:8500/x/", "http://consul:8500/x"),
            ("https://consul.example.com", "https://consul.example.com"),
        ] {
            let expected = ("consul".to_owned(), address.to_owned(), None);
            assert_eq!(consul(url, false), expected, "{url}");
        }
        let token = Secret::Env("CONSUL_HTTP_TOKEN".to_owned());
        assert_eq!(consul("consul://127.0.0.1:8500", true).2, Some(token));
        for kind in ["etcd", "etcd2", "eureka", "zookeeper", "dns"] {
            let chosen = choose(Some(&format!("{kind}://127.0.0.1:1234")), None).unwrap();
            assert_eq!(chosen.kind.as_str(), kind);
        }
        let chosen = choose(Some("embedded://127.0.0.1:8501"), None).unwrap();
        match chosen.kind {
            RegistryKind::Embedded(embedded) => assert_eq!(embedded.address.port(), 8501),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrong_url_is_an_error_in_one_line() {
        assert!(error("consl://127.0.0.1").starts_with("--registry: `consl` is not known here; "));
        let with_password = error("consul://u:secret@127.0.0.1:8500");
        assert!(
            with_password.contains("no user and no password"),
            "{with_password}"
        );
        assert!(!with_password.contains("secret"), "{with_password}");
        assert!(error("\"]://x").starts_with("--registry: "));
        let both = choose(Some("consul://127.0.0.1"), Some(Path::new("x.toml")));
        assert!(both.unwrap_err().to_string().contains("leave out --config"));
    }

    #[test]
    fn without_a_file_any_service_is_served_below_its_name() {
        let listen = ["127.0.0.1:0".parse().unwrap()];
        for (url, kind) in [(None, "embedded"), (Some("eureka://h:1/eureka"), "eureka")] {
            let config = all_services(url, &listen, None).unwrap();
            let kinds: Vec<_> = config.registries.values().collect();
            assert_eq!(kinds[0].kind.as_str(), kind);
            assert!(config.routes[0].strip_prefix);
            assert_eq!(config.listeners[0].address.tcp(), Some(listen[0]));
            assert_eq!(config.admin.address.port(), 9900);
        }
        let wrong = |url| all_services(url, &listen, Some("0.0.0.0:1".parse().unwrap()));
        let error = wrong(None).unwrap_err().to_string();
        assert!(
            error.starts_with("--admin: the admin server on 0.0.0.0:1 is open"),
            "{error}"
        );
        let error = all_services(Some("dns://127.0.0.1:53"), &listen, None).unwrap_err();
        assert!(
            error.to_string().contains("cannot list its services"),
            "{error}"
        );
        let error = all_services(Some("127.0.0.1:8500"), &listen, None).unwrap_err();
        assert!(error.to_string().contains("is no URL"), "{error}");
    }

    #[test]
    fn the_files_registry_is_the_named_one_or_its_default() {
        let text = |defaults: &str| {
            let registries = "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n";
            format!(
                "{registries}{defaults}[[route]]\nservice = \"a\"\n[service.a]\nregistry = \"a\"\n"
            )
        };
        let choose = |registry, text: &str| {
            let chosen = named(registry, parse(text).unwrap(), "proxy.toml");
            chosen
                .map(|chosen| chosen.name)
                .map_err(|error| error.to_string())
        };
        assert_eq!(choose(Some("b"), &text("")), Ok("b".to_owned()));
        let default = text("[defaults]\nregistry = \"b\"\n");
        assert_eq!(choose(None, &default), Ok("b".to_owned()));
        assert_eq!(choose(None, ROUTE), Ok("embedded".to_owned()));
        assert_eq!(
            choose(None, &text("")).unwrap_err(),
            "proxy.toml has several registries: say --registry with one of a, b"
        );
        let unknown = choose(Some("c"), &text("")).unwrap_err();
        assert!(
            unknown.starts_with("there is no registry `c` in proxy.toml; "),
            "{unknown}"
        );
    }
}
