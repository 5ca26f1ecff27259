//! `[registry.NAME]`: where instances are learnt, and which registry is meant where none is
//! named. Knows nothing of how a registry is asked.

mod consul;
mod dns;
mod embedded;
mod etcd;
mod eureka;
mod file;
mod identity;
mod servers;
mod zookeeper;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{
    addresses::Claims,
    document::{field::Field, report::Wrong, table::Table, value},
};

pub use consul::{Consul, Warnings};
pub use dns::{Dns, DnsRecord, Resolvers};
pub use embedded::Embedded;
pub use etcd::Etcd;
pub use eureka::{CalledAt, Eureka, NamedBy};
pub use file::{File, FileFormat};
pub use zookeeper::{Digest, ZooKeeper};

/// One `[registry.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// What kind it is, and its settings.
    pub kind: RegistryKind,
    /// What template routes may reach.
    pub expose: Expose,
    /// Whether its instances' tags make routes.
    pub routes: Option<TagRoutes>,
    /// How long after the first of a row of errors the last good sets are given up; `None` for
    /// never. go-kit's `InvalidateOnError`.
    pub max_staleness: Option<Duration>,
}

/// `routes`: which tags of its instances make routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRoutes {
    /// fabio's: see [`TagRoute`](super::TagRoute).
    UrlPrefix,
}

/// A registry's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryKind {
    /// The one built in.
    Embedded(Embedded),
    /// A Consul agent.
    Consul(Consul),
    /// A ZooKeeper ensemble.
    ZooKeeper(ZooKeeper),
    /// An etcd cluster, by its API v3.
    Etcd(Etcd),
    /// An etcd cluster, by its API v2.
    Etcd2(Etcd),
    /// Names in the DNS.
    Dns(Dns),
    /// A file of endpoints.
    File(File),
    /// Eureka's servers.
    Eureka(Eureka),
}

impl RegistryKind {
    /// As the file has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Consul(_) => "consul",
            Self::Eureka(_) => "eureka",
            Self::File(_) => "file",
            Self::Dns(_) => "dns",
            Self::Etcd2(_) => "etcd2",
            Self::Etcd(_) => "etcd",
            Self::ZooKeeper(_) => "zookeeper",
        }
    }

    /// Whether its catalog says which tags a service's instances have.
    fn lists_tags(&self) -> bool {
        matches!(self, Self::Embedded(_) | Self::Consul(_))
    }

    /// Whether it can say which services there are, as template routes need it.
    pub fn lists_services(&self) -> bool {
        !matches!(self, Self::Dns(_))
    }

    /// Whether it takes a service's name in any letter case. Its catalog has the one spelling that
    /// stands for all ([`in_any_case`](crate::instance::in_any_case)).
    pub fn takes_any_case(&self) -> bool {
        matches!(self, Self::Embedded(_) | Self::Consul(_) | Self::Eureka(_))
    }

    /// Whether it is another process or a file, which may be away when the proxy starts.
    pub fn is_elsewhere(&self) -> bool {
        !matches!(self, Self::Embedded(_))
    }

    /// Whether its instances can have tags.
    pub fn has_tags(&self) -> bool {
        !matches!(
            self,
            Self::Dns(_) | Self::Etcd(_) | Self::Etcd2(_) | Self::ZooKeeper(_)
        )
    }
}

/// `expose`: which of a registry's services a template route may reach. `consul` never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expose {
    /// Where not empty: only services with one of these tags.
    pub tags: Vec<String>,
    /// Where not empty: only these services.
    pub services: Vec<String>,
    /// Never these.
    pub not: Vec<String>,
}

/// The registries of the file.
pub(super) struct Registries {
    /// By name; without settings where its kind is not known.
    named: BTreeMap<Arc<str>, Option<Registry>>,
    /// Whether the file has none, so that there is the embedded one.
    is_default: bool,
}

/// Reads all registries; where there is none, the embedded one with its defaults.
pub(super) fn read<'a>(top: &mut Table<'a>, base: &Path, claims: &mut Claims<'a>) -> Registries {
    let mut embedded_before = false;
    let mut named = top.named("registry", |name, table| {
        let read = kind(name, table)?;
        let kind = read(table, base, claims);
        let is_embedded = matches!(kind, RegistryKind::Embedded(_));
        if is_embedded && std::mem::replace(&mut embedded_before, true) {
            let wrong = Wrong::new("there is an embedded registry already");
            table.wrong(wrong.suggest("keep one of them"));
        }
        Some(Registry {
            routes: kind.lists_tags().then(|| routes(table)).flatten(),
            kind,
            expose: table.within("expose", expose),
            max_staleness: table.optional("max_staleness", None),
        })
    });
    let is_default = named.is_empty();
    if is_default {
        let registry = Registry {
            kind: RegistryKind::Embedded(Embedded::by_default(base)),
            expose: Expose::default(),
            routes: None,
            max_staleness: None,
        };
        named.insert("embedded".into(), Some(registry));
    }
    Registries { named, is_default }
}

impl Registries {
    /// The registry that a field names.
    pub(super) fn find(&self, field: &Field<'_>) -> Option<Arc<str>> {
        let name = field.parse("a registry's name", "\"consul\"", value::filled)?;
        if let Some((name, _)) = self.named.get_key_value(name.as_str()) {
            return Some(name.clone());
        }
        let names: Vec<_> = self.named.keys().map(AsRef::as_ref).collect();
        let wrong = Wrong::new(format!("there is no registry `{name}`"));
        field.names_nothing(match value::nearest(&name, names.iter().copied()) {
            Some(meant) => wrong.suggest(format!("did you mean \"{meant}\"?")),
            None => wrong.suggest(format!("it may be {}", value::list(&names))),
        });
        // A known one in its place, so that nothing else is said of it.
        Some(self.first())
    }

    /// The first in the order of names.
    pub(super) fn first(&self) -> Arc<str> {
        let first = self.named.keys().next();
        first.expect("there is at least one registry").clone()
    }

    /// The only one, if there is no other.
    pub(super) fn only(&self) -> Option<Arc<str>> {
        (self.named.len() == 1).then(|| self.first())
    }

    /// What kind a registry is, where that is known.
    pub(super) fn kind(&self, name: &str) -> Option<&RegistryKind> {
        Some(&self.named.get(name)?.as_ref()?.kind)
    }

    /// The first that can say which services there are.
    pub(super) fn listing(&self) -> Option<&Arc<str>> {
        let lists = |name: &&Arc<str>| self.kind(name).is_some_and(RegistryKind::lists_services);
        self.named.keys().find(lists)
    }

    /// Whether some registry's tags make routes.
    pub(super) fn make_routes(&self) -> bool {
        let mut named = self.named.values().flatten();
        named.any(|registry| registry.routes.is_some())
    }

    /// Those that could be read. One that the file does not name is left out where no service is
    /// learnt there, so that its port stays free; where one is, the port is taken.
    pub(super) fn into_map(
        self,
        is_used: bool,
        claims: &mut Claims<'_>,
    ) -> BTreeMap<Arc<str>, Registry> {
        if self.is_default && !is_used {
            return BTreeMap::new();
        }
        if self.is_default {
            embedded::claim(claims);
        }
        let read = |(name, registry)| Some((name, registry?));
        self.named.into_iter().filter_map(read).collect()
    }
}

/// Reads a kind's own settings.
type Read = for<'a> fn(&mut Table<'a>, &Path, &mut Claims<'a>) -> RegistryKind;

/// What each `kind` is read by.
const KINDS: [(&str, Read); 8] = [
    ("consul", |table, base, _| {
        RegistryKind::Consul(consul::read(table, base))
    }),
    ("dns", |table, _, _| RegistryKind::Dns(dns::read(table))),
    ("embedded", |table, base, claims| {
        RegistryKind::Embedded(embedded::read(table, base, claims))
    }),
    ("etcd", |table, base, _| {
        RegistryKind::Etcd(etcd::read(table, base))
    }),
    ("etcd2", |table, base, _| {
        RegistryKind::Etcd2(etcd::read(table, base))
    }),
    ("eureka", |table, base, _| {
        RegistryKind::Eureka(eureka::read(table, base))
    }),
    ("file", |table, base, _| {
        RegistryKind::File(file::read(table, base))
    }),
    ("zookeeper", |table, base, _| {
        RegistryKind::ZooKeeper(zookeeper::read(table, base))
    }),
];

fn kind(name: &str, table: &mut Table<'_>) -> Option<Read> {
    let kind = match table.take("kind") {
        Some(field) => field.choice(&KINDS),
        None => {
            let kind = KINDS.iter().find(|(kind, _)| *kind == name);
            if kind.is_none() {
                let names = KINDS.map(|(kind, _)| kind);
                let wrong = Wrong::new(format!("the kind of the registry `{name}` is missing"));
                let meant = value::nearest(name, names).unwrap_or("consul");
                table.absent("kind", wrong.suggest(format!("write `kind = \"{meant}\"`")));
            }
            kind.map(|(_, read)| *read)
        }
    };
    if kind.is_none() {
        table.ignore_rest();
    }
    kind
}

fn routes(table: &mut Table<'_>) -> Option<TagRoutes> {
    let field = table.take("routes")?;
    field.choice(&[("urlprefix", TagRoutes::UrlPrefix)])
}

fn expose(table: &mut Table<'_>) -> Expose {
    Expose {
        tags: table.texts("tags", "\"public\"").unwrap_or_default(),
        services: table.texts("services", "\"cart\"").unwrap_or_default(),
        not: table.texts("not", "\"billing\"").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Secret,
        testing::{ROUTE, assert_errors, config, error, errors},
    };
    use super::*;

    fn consul(text: &str) -> Consul {
        let registries = config(&format!("{text}\n{ROUTE}")).registries;
        match &registries["consul"].kind {
            RegistryKind::Consul(consul) => consul.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn embedded(text: &str, name: &str) -> Embedded {
        let registries = config(&format!("{text}\n{ROUTE}")).registries;
        match &registries[name].kind {
            RegistryKind::Embedded(embedded) => embedded.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_table_the_registry_is_the_embedded_one() {
        for text in ["", "[registry]"] {
            let embedded = embedded(text, "embedded");
            assert_eq!(embedded.address.to_string(), "127.0.0.1:8500");
            assert_eq!(embedded.data, Path::new("/etc/callboard/callboard-data"));
            assert_eq!(embedded.token, None);
        }
    }

    #[test]
    fn a_tables_name_is_its_kind_unless_it_says_another() {
        let embedded = embedded(
            "[registry.local]\nkind = \"embedded\"\naddress = \"127.0.0.1:0\"\ndata = \"/var/lib/x\"",
            "local",
        );
        assert_eq!(embedded.address.port(), 0);
        assert_eq!(embedded.data, Path::new("/var/lib/x"));
        assert_errors(
            r#"
            port = 1
            => 1:1 registry.legacy.kind: the kind of the registry `legacy` is missing; write `kind = "consul"`
            kind = "nacos"
            port = 1
            => 2:1 registry.legacy.kind: `nacos` is not known here; for now it may be `consul`, `dns`, `embedded`, `etcd`, `etcd2`, `eureka`, `file` or `zookeeper`
            "#,
            |keys| format!("[registry.legacy]\n{keys}\n{ROUTE}"),
        );
    }

    #[test]
    fn all_of_consuls_keys_are_read() {
        let consul = consul(
            r#"
            [registry.consul]
            address = ["https://consul.example.com:8501/", "https://other.example.com:8501"]
            token = { file = "token" }
            datacenters = ["dc2", "dc1"]
            namespace = "team"
            partition = "east"
            tags = ["a", "b"]
            near = "_agent"
            filter = "x == y"
            stale = true
            max_watches = 7
            tls = { ca = "ca.pem", certificate = "/c.pem", key = "k.pem" }
            expose = { tags = ["public"], services = ["cart"], not = ["billing"] }
            "#,
        );
        assert_eq!(
            consul.addresses,
            [
                "https://consul.example.com:8501",
                "https://other.example.com:8501"
            ]
        );
        assert_eq!(
            consul.token,
            Some(Secret::File("/etc/callboard/token".into()))
        );
        assert_eq!(consul.datacenters, ["dc2", "dc1"]);
        assert_eq!(consul.namespace.as_deref(), Some("team"));
        assert_eq!(consul.partition.as_deref(), Some("east"));
        assert_eq!(consul.tags, ["a", "b"]);
        assert_eq!(consul.near.as_deref(), Some("_agent"));
        assert_eq!(consul.filter.as_deref(), Some("x == y"));
        assert!(consul.stale);
        assert_eq!(consul.max_watches, 7);
        assert_eq!(
            consul.tls.ca.as_deref(),
            Some(Path::new("/etc/callboard/ca.pem"))
        );
        let identity = ("/c.pem".into(), "/etc/callboard/k.pem".into());
        assert_eq!(consul.tls.identity, Some(identity));
    }

    #[test]
    fn consul_alone_is_the_agent_of_this_machine() {
        let consul = consul("[registry.consul]");
        assert_eq!(consul.addresses, ["http://127.0.0.1:8500"]);
        assert_eq!(consul.datacenters, [""; 0]);
        assert_eq!(consul.max_watches, 100);
    }

    #[test]
    fn each_of_several_agents_is_read_by_itself() {
        let two = consul("[registry.consul]\naddress = [\"http://a:1\", \"http://b:2/\"]");
        assert_eq!(two.addresses, ["http://a:1", "http://b:2"]);
        assert_errors(
            r#"
            address = []
            => 2:1 registry.consul.address: there is no address; write `address = "http://127.0.0.1:8500"`, or leave it out
            address = ["http://a:1", "b:2"]
            => 2:26 registry.consul.address: `b:2` is not the URL of an HTTP API; did you mean "http://b:2"?
            address = ["http://a:1", "http://a:1/"]
            => 2:26 registry.consul.address: `http://a:1` is here twice
            address = ["https://a:1", "http://b:2"]
            tls = { ca = "x" }
            => 3:1 registry.consul.tls: `tls` needs an address of https; write `address = "https://b:2"`
            address = "http://a:1"
            max_watches = 0
            => 3:1 registry.consul.max_watches: 0 is out of range; write a number from 1 to 10000
            "#,
            |keys| format!("[registry.consul]\n{keys}\n{ROUTE}"),
        );
    }

    #[test]
    fn what_is_exposed_belongs_to_any_kind() {
        let text = "[registry.embedded]\nexpose = { not = [\"billing\"] }\n";
        let registries = config(&format!("{text}{ROUTE}")).registries;
        assert_eq!(registries["embedded"].expose.not, ["billing"]);
    }

    #[test]
    fn tags_may_make_all_the_routes() {
        let config = config("[registry.consul]\nroutes = \"urlprefix\"\n");
        assert_eq!(
            config.registries["consul"].routes,
            Some(TagRoutes::UrlPrefix)
        );
        assert!(config.routes.is_empty());
        assert_eq!(
            error(&format!("[registry.consul]\nroutes = \"tags\"\n{ROUTE}")),
            "2:1 registry.consul.routes: `tags` is not known here; for now it may be `urlprefix`"
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = "[registry.consul]\n\
            address = \"127.0.0.1:8500\"\n\
            token = \"hunter2\"\n\
            datacenter = \"dc1\"\n\
            datacenters = [\"dc1\", \"dc2\", \"dc1\"]\n\
            namespace = \"\"\n\
            tls = { certificate = \"c.pem\" }\n\
            [registry.a]\nkind = \"embedded\"\ntoken = { file = \"x\", env = \"Y\" }\n\
            [registry.b]\nkind = \"embedded\"\naddress = \"127.0.0.1:8501\"\ntoken = {}\n\
            [defaults]\nregistry = \"consl\"\n";
        let secret = "write `token = { file = \"…\" }` or `token = { env = \"…\" }`";
        assert_eq!(
            errors(&format!("{text}{ROUTE}")),
            [
                "2:1 registry.consul.address: `127.0.0.1:8500` is not the URL of an HTTP API; did you mean \"http://127.0.0.1:8500\"?".to_owned(),
                format!("3:1 registry.consul.token: a secret does not stand in this file; {secret}"),
                "4:1 registry.consul.datacenter: unknown key `datacenter`; did you mean `datacenters`?".to_owned(),
                "5:30 registry.consul.datacenters: `dc1` is here twice".to_owned(),
                "6:1 registry.consul.namespace: this text is empty; fill it in, or leave the key out".to_owned(),
                "7:1 registry.consul.tls: `tls` needs an address of https; write `address = \"https://127.0.0.1:8500\"`".to_owned(),
                "7:1 registry.consul.tls.key: `certificate` is of no use without `key`; add `key = \"….pem\"`".to_owned(),
                format!("10:1 registry.a.token: a secret comes from a file or from a variable; {secret}"),
                "11:1 registry.b: there is an embedded registry already; keep one of them".to_owned(),
                format!("14:1 registry.b.token: a secret comes from a file or from a variable; {secret}"),
                "16:1 defaults.registry: there is no registry `consl`; did you mean \"consul\"?".to_owned(),
            ]
        );
    }

    #[test]
    fn a_secret_in_the_text_is_kept_out_of_the_report() {
        let text = format!("[registry.consul]\ntoken = \"hunter2\" # x\n{ROUTE}");
        let report = super::super::Config::parse(&text, Path::new("")).unwrap_err();
        assert!(
            report.to_string().contains("token = ********* # x"),
            "{report}"
        );
    }

    #[test]
    fn an_embedded_registry_beyond_loopback_needs_a_token() {
        let text = "[registry.embedded]\naddress = \"0.0.0.0:8500\"\n";
        assert_eq!(
            error(&format!("{text}{ROUTE}")),
            "2:1 registry.embedded.address: the embedded registry on 0.0.0.0:8500 is open to strangers; add `token = { file = \"…\" }`, or listen on 127.0.0.1"
        );
        embedded(&format!("{text}token = {{ env = \"T\" }}\n"), "embedded");
    }
}
