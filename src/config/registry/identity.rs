//! What makes a registry another registry: what stands in its table that says whose entries are read.
//! Credentials, time-outs and limits do not. Knows nothing of who compares.

use super::{DnsRecord, RegistryKind, Resolvers};

impl RegistryKind {
    /// A text that is another one where another registry, or another part of it, is read. Holds no
    /// secret.
    pub fn identity(&self) -> String {
        let parts: Vec<(&str, String)> = match self {
            Self::Embedded(_) => Vec::new(),
            Self::Consul(consul) => vec![
                ("at", addresses(&consul.addresses)),
                ("datacenters", consul.datacenters.join(",")),
                ("namespace", consul.namespace.clone().unwrap_or_default()),
                ("partition", consul.partition.clone().unwrap_or_default()),
                ("tags", consul.tags.join(",")),
                ("filter", consul.filter.clone().unwrap_or_default()),
            ],
            Self::ZooKeeper(zookeeper) => vec![
                (
                    "at",
                    sorted(zookeeper.addresses.iter().map(ToString::to_string)),
                ),
                ("below", format!("{}{}", zookeeper.chroot, zookeeper.path)),
            ],
            Self::Etcd(etcd) | Self::Etcd2(etcd) => vec![
                ("at", addresses(&etcd.addresses)),
                ("below", etcd.prefix.clone()),
            ],
            Self::Dns(dns) => vec![
                (
                    "at",
                    match &dns.resolvers {
                        Resolvers::System => "the system's".to_owned(),
                        Resolvers::Listed(listed) => sorted(listed.iter().map(ToString::to_string)),
                    },
                ),
                ("query", dns.query.clone()),
                (
                    "record",
                    match dns.record {
                        DnsRecord::Srv => "srv".to_owned(),
                        DnsRecord::Address { port } => format!("address {port}"),
                    },
                ),
            ],
            Self::File(file) => vec![("path", file.path.display().to_string())],
            Self::Eureka(eureka) => vec![
                ("at", addresses(&eureka.addresses)),
                ("by", format!("{:?}", eureka.by).to_lowercase()),
                ("zones", eureka.zones.join(",")),
            ],
        };
        let parts = parts.into_iter().filter(|(_, value)| !value.is_empty());
        let parts = parts.map(|(key, value)| format!(" {key} {value}"));
        format!("{}{}", self.as_str(), parts.collect::<String>())
    }
}

/// Of several members any may be asked first.
fn sorted(addresses: impl Iterator<Item = String>) -> String {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort();
    addresses.join(",")
}

/// URLs, without what may be secret in them.
fn addresses(urls: &[String]) -> String {
    sorted(urls.iter().map(|url| match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => url.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use crate::config::testing::config;

    fn identity(table: &str) -> String {
        let registries = config(&format!(
            "[registry.main]\n{table}\n[[route]]\nservice = \"cart\"\n"
        ))
        .registries;
        registries["main"].kind.identity()
    }

    #[test]
    fn what_makes_it_another_registry_makes_another_identity() {
        let consul = "kind = \"consul\"\naddress = \"http://a:1\"\n";
        let etcd = "kind = \"etcd\"\naddress = \"http://a:1\"\n";
        let zookeeper = "kind = \"zookeeper\"\naddress = \"a:1\"\n";
        let eureka = "kind = \"eureka\"\naddress = \"http://a:1/eureka\"\n";
        let tables = [
            consul.to_owned(),
            consul.replace("a:1", "b:1"),
            format!("{consul}datacenters = [\"dc1\"]"),
            format!("{consul}datacenters = [\"dc1\", \"dc2\"]"),
            format!("{consul}namespace = \"team\""),
            format!("{consul}partition = \"team\""),
            format!("{consul}tags = [\"team\"]"),
            format!("{consul}filter = \"team\""),
            etcd.to_owned(),
            etcd.replace("a:1", "b:1"),
            etcd.replace("etcd", "etcd2"),
            format!("{etcd}prefix = \"/other/\""),
            zookeeper.to_owned(),
            zookeeper.replace("a:1", "b:1"),
            format!("{zookeeper}chroot = \"/prod\""),
            format!("{zookeeper}path = \"/other\""),
            eureka.to_owned(),
            eureka.replace("a:1", "b:1"),
            format!("{eureka}zones = [\"a\"]"),
            "kind = \"dns\"".to_owned(),
            "kind = \"dns\"\naddress = \"127.0.0.1\"".to_owned(),
            "kind = \"dns\"\nquery = \"_http._tcp.{service}.test\"".to_owned(),
            "kind = \"file\"\npath = \"a.toml\"".to_owned(),
            "kind = \"file\"\npath = \"b.toml\"".to_owned(),
        ];
        let mut all: Vec<_> = tables.iter().map(|table| identity(table)).collect();
        all.sort();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "{all:#?}");
    }

    #[test]
    fn what_does_not_make_it_another_registry_makes_none() {
        let consul = identity("kind = \"consul\"\naddress = [\"http://a:1\", \"http://b:1\"]");
        for same in [
            "address = [\"http://b:1\", \"http://a:1/\"]",
            "address = [\"http://a:1\", \"http://b:1\"]\ntoken = { env = \"T\" }",
            "address = [\"http://a:1\", \"http://b:1\"]\nstale = true\nmax_watches = 7",
        ] {
            assert_eq!(identity(&format!("kind = \"consul\"\n{same}")), consul);
        }
    }

    #[test]
    fn no_secret_stands_in_it() {
        let urls = ["http://user:hunter2@a:1/x".to_owned()];
        assert_eq!(super::addresses(&urls), "http://a:1/x");
    }
}
