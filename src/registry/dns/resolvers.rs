//! Who is asked, in which order. One that was away is asked last for a while, so that it costs its
//! time-out only now and then. Knows nothing of services.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::Path,
    time::Duration,
};

use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    answer::Answer,
    exchange::{self, Dialect},
    fault::{Failure, Fault},
};
use crate::config;

const SYSTEM: &str = "/etc/resolv.conf";

/// How long a resolver that was away is asked last.
const LAST: Duration = Duration::from_secs(30);

/// How long one that was understood without EDNS only is asked so: it may be another by then.
const PLAIN: Duration = Duration::from_secs(15 * 60);

/// The resolvers of one registry.
#[derive(Debug)]
pub(super) struct Resolvers {
    named: config::Resolvers,
    limit: Duration,
    /// Until when those that were away are asked last.
    away: Mutex<BTreeMap<SocketAddr, Instant>>,
    /// Until when those that know no EDNS are asked without it.
    plain: Mutex<BTreeMap<SocketAddr, Instant>>,
}

/// Those that may be asked now.
pub(super) struct Panel<'r> {
    resolvers: &'r Resolvers,
    members: Vec<SocketAddr>,
}

impl Resolvers {
    pub(super) fn new(settings: &config::Dns) -> Self {
        Self {
            named: settings.resolvers.clone(),
            limit: settings.timeout,
            away: Mutex::default(),
            plain: Mutex::default(),
        }
    }

    /// Those that may be asked now. The system's are read each time, since networks change.
    pub(super) async fn panel(&self) -> Result<Panel<'_>, Failure> {
        let members = match &self.named {
            config::Resolvers::Listed(listed) => listed.clone(),
            config::Resolvers::System => system(Path::new(SYSTEM))
                .await
                .map_err(Failure::NoResolvers)?,
        };
        Ok(Panel {
            resolvers: self,
            members,
        })
    }

    /// Which of `members` are asked after which.
    fn order(&self, members: &[SocketAddr]) -> Vec<SocketAddr> {
        let (now, away) = (Instant::now(), self.away.lock());
        let mut order = members.to_vec();
        order.sort_by_key(|resolver| away.get(resolver).is_some_and(|until| *until > now));
        order
    }

    fn note(&self, resolver: SocketAddr, fault: Option<&Fault>) {
        let mut away = self.away.lock();
        if fault.is_some_and(Fault::is_absence) {
            away.insert(resolver, Instant::now() + LAST);
        } else {
            away.remove(&resolver);
        }
    }

    /// In which dialect this one is asked.
    fn dialect(&self, resolver: SocketAddr) -> Dialect {
        let plain = self.plain.lock();
        match plain
            .get(&resolver)
            .is_some_and(|until| *until > Instant::now())
        {
            true => Dialect::Plain,
            false => Dialect::Edns,
        }
    }

    /// Remembers in which dialect this one gave an answer.
    fn answered_in(&self, resolver: SocketAddr, asked: Dialect, answered: Dialect) {
        if (asked, answered) == (Dialect::Edns, Dialect::Plain) {
            self.plain.lock().insert(resolver, Instant::now() + PLAIN);
            tracing::info!(%resolver, "this resolver knows no EDNS, and is asked without it");
        }
    }
}

impl Panel<'_> {
    /// How long one resolver may take.
    pub(super) fn limit(&self) -> Duration {
        self.resolvers.limit
    }

    /// The first answer that one of them gives.
    pub(super) async fn ask(&self, name: &Name, wanted: RecordType) -> Result<Answer, Failure> {
        let Self { resolvers, members } = self;
        let mut faults = Vec::new();
        for resolver in resolvers.order(members) {
            let dialect = resolvers.dialect(resolver);
            let asked = exchange::ask(resolver, name, wanted, dialect, resolvers.limit).await;
            let answer = asked.and_then(|reply| {
                let answer = Answer::read(reply.message, wanted)?;
                resolvers.answered_in(resolver, dialect, reply.dialect);
                Ok(answer)
            });
            resolvers.note(resolver, answer.as_ref().err());
            match answer {
                Ok(answer) => return Ok(answer),
                Err(fault) => faults.push((resolver, fault)),
            }
        }
        Err(Failure::Unanswered(faults))
    }
}

async fn system(path: &Path) -> Result<Vec<SocketAddr>, String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let members = nameservers(&text);
    if members.is_empty() {
        return Err(format!("{} names no resolver", path.display()));
    }
    Ok(members)
}

/// The resolvers that a resolv.conf names, in its order.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let named = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        let plain = address.parse::<IpAddr>().ok();
        plain.map(|ip| SocketAddr::new(ip, 53)).or_else(|| {
            // An address of one link: `fe80::1%2`.
            let scoped: SocketAddrV6 = format!("[{address}]:53").parse().ok()?;
            Some(scoped.into())
        })
    };
    text.lines().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_resolvers_are_read_as_resolv_conf_has_them() {
        let text = "# nameserver 10.0.0.1\nsearch example.com\n\
            nameserver 10.0.0.53\n nameserver\t::1 \nnameserver fe80::1%2\n\
            nameserver fe80::1%eth0\nnameserver\noptions ndots:5\n;nameserver 10.0.0.2\n";
        let found: Vec<_> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53:53", "[::1]:53", "[fe80::1%2]:53"]);
    }

    #[tokio::test]
    async fn without_any_it_is_said_where_they_were_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let missing = system(&path).await.unwrap_err();
        assert!(
            missing.starts_with(&format!("cannot read {}", path.display())),
            "{missing}"
        );
        std::fs::write(&path, "search example.com\n").unwrap();
        let empty = system(&path).await.unwrap_err();
        assert_eq!(empty, format!("{} names no resolver", path.display()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_away_is_asked_last_for_a_while() {
        let members = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let resolvers = Resolvers::new(&config::Dns {
            resolvers: config::Resolvers::Listed(members.to_vec()),
            query: "{service}".to_owned(),
            record: config::DnsRecord::Srv,
            ttl: Duration::from_secs(1)..=Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        });
        let order = || {
            let order = resolvers.order(&members);
            order.iter().map(SocketAddr::port).collect::<Vec<_>>()
        };
        resolvers.note(members[0], Some(&Fault::Elsewhere));
        assert_eq!(order(), [1, 2, 3], "it is there, and answers");
        resolvers.note(members[0], Some(&Fault::Silent(LAST)));
        assert_eq!(order(), [2, 3, 1]);
        resolvers.note(members[1], Some(&Fault::Silent(LAST)));
        assert_eq!(order(), [3, 1, 2]);
        resolvers.note(members[1], None);
        assert_eq!(order(), [2, 3, 1], "it is back");
        tokio::time::sleep(LAST).await;
        assert_eq!(order(), [1, 2, 3]);
    }
}
