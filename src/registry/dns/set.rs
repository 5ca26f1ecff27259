//! Records → instances. Knows nothing of how they were learnt.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use hickory_proto::rr::{Name, rdata::SRV};

use crate::instance::{Address, Instance, InstanceSet, Skipped};

/// What an instance's metadata says of its SRV record.
const TARGET: &str = "dns-target";
const PRIORITY: &str = "dns-priority";

/// Where a target is.
pub(super) enum Host {
    /// At these addresses; nowhere, where there are none.
    At(Vec<IpAddr>),
    /// Not known: its name is resolved at each connect.
    Unresolved,
}

/// One instance for each address, all alike.
pub(super) fn of_addresses(ips: &[IpAddr], port: u16) -> InstanceSet {
    let unnamed = BTreeMap::new();
    InstanceSet::of(ips.iter().map(|ip| {
        let address = Address::new(&ip.to_string(), port.into());
        let address = address.expect("an IP address and a port above 0");
        Ok(instance(address, 1, unnamed.clone()))
    }))
}

/// One instance for each address of each target (RFC 2782), simplified: of the priorities, the one
/// with the lowest number that has an instance is healthy, and the others are listed only; a
/// weight of 0 is one of 1. A target `.` says that there is no such service. Where two records lead
/// to one address, the more important one counts.
pub(super) fn of_srv<'r>(
    records: impl Iterator<Item = &'r SRV>,
    hosts: &BTreeMap<Name, Host>,
) -> InstanceSet {
    let mut records: Vec<_> = records.filter(|record| !record.target.is_root()).collect();
    records.sort_by_key(|record| {
        let SRV {
            priority,
            weight,
            port,
            target,
            ..
        } = record;
        (*priority, Reverse(*weight), target, *port)
    });
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    let mut served = None;
    for record in records {
        for entry in of_record(record, hosts.get(&record.target)) {
            match entry {
                Ok(instance) if !seen.insert(instance.address.clone()) => {}
                Ok(mut instance) => {
                    instance.healthy = *served.get_or_insert(record.priority) == record.priority;
                    entries.push(Ok(instance));
                }
                Err(skipped) => entries.push(Err(skipped)),
            }
        }
    }
    InstanceSet::of(entries)
}

fn of_record(record: &SRV, host: Option<&Host>) -> Vec<Result<Instance, Skipped>> {
    let target = record.target.to_ascii();
    let target = target.trim_end_matches('.');
    let skipped = |reason: String| Skipped {
        id: format!("{target}:{}", record.port),
        reason,
    };
    let hosts = match host {
        Some(Host::At(ips)) => ips.iter().map(ToString::to_string).collect(),
        Some(Host::Unresolved) | None => vec![target.to_owned()],
    };
    if hosts.is_empty() {
        return vec![Err(skipped(format!("the name {target} has no address")))];
    }
    let meta = BTreeMap::from([
        (TARGET.to_owned(), target.to_owned()),
        (PRIORITY.to_owned(), record.priority.to_string()),
    ]);
    let mut entries = hosts.iter().map(|host| {
        let address = Address::new(host, record.port.into());
        let address = address.map_err(|error| skipped(error.to_string()))?;
        Ok(instance(address, record.weight.into(), meta.clone()))
    });
    if record.port == 0 {
        // Once, however many addresses the target has.
        return entries.next().into_iter().collect();
    }
    entries.collect()
}

/// The DNS has no ids: an instance is its address.
fn instance(address: Address, weight: u32, meta: BTreeMap<String, String>) -> Instance {
    Instance {
        weight: weight.max(1),
        meta,
        ..Instance::new(address.to_string(), address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, name(target))
    }

    /// `a.test.` is at 10.0.0.1 and ::1, `b.test.` at 10.0.0.2, `none.test.` nowhere, and other
    /// names are unresolved.
    fn set(records: &[SRV]) -> InstanceSet {
        let hosts = [
            ("a.test.", vec!["10.0.0.1", "::1"]),
            ("b.test.", vec!["10.0.0.2"]),
            ("none.test.", vec![]),
        ];
        let hosts = hosts.map(|(target, ips)| {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            (name(target), Host::At(ips))
        });
        of_srv(records.iter(), &hosts.into())
    }

    fn shown(set: &InstanceSet) -> Vec<(String, u32, bool)> {
        let instances = set.instances.iter();
        instances
            .map(|one| (one.address.to_string(), one.weight, one.healthy))
            .collect()
    }

    #[test]
    fn each_address_of_a_target_is_an_instance() {
        let set = set(&[srv(1, 5, 80, "A.test."), srv(1, 0, 81, "b.test.")]);
        let at = |address: &str, weight| (address.to_owned(), weight, true);
        assert_eq!(
            shown(&set),
            [
                at("10.0.0.1:80", 5),
                at("10.0.0.2:81", 1),
                at("[::1]:80", 5)
            ]
        );
        assert_eq!(set.instances[0].meta[TARGET], "A.test");
        assert_eq!(set.instances[0].meta[PRIORITY], "1");
        assert_eq!(&*set.instances[2].id, "[::1]:80");
    }

    #[test]
    fn the_lowest_priority_that_can_be_called_is_healthy() {
        let records = [
            srv(10, 1, 0, "b.test."),
            srv(10, 1, 80, "none.test."),
            srv(20, 1, 80, "b.test."),
            srv(30, 1, 80, "a.test."),
            srv(30, 9, 80, "b.test."),
        ];
        let set = set(&records);
        assert_eq!(
            shown(&set),
            [
                ("10.0.0.1:80".to_owned(), 1, false),
                ("10.0.0.2:80".to_owned(), 1, true),
                ("[::1]:80".to_owned(), 1, false),
            ]
        );
        let skipped = |id: &str, reason: &str| Skipped {
            id: id.to_owned(),
            reason: reason.to_owned(),
        };
        assert_eq!(
            set.skipped,
            [
                skipped("b.test:0", "port 0 cannot be called"),
                skipped("none.test:80", "the name none.test has no address"),
            ]
        );
    }

    #[test]
    fn a_dot_is_no_target_and_an_unknown_one_stays_a_name() {
        assert_eq!(set(&[srv(0, 0, 0, ".")]), InstanceSet::default());
        let set = set(&[srv(0, 7, 80, "Elsewhere.test.")]);
        assert_eq!(shown(&set), [("elsewhere.test:80".to_owned(), 7, true)]);
    }

    #[test]
    fn the_order_makes_no_difference() {
        let mut records = vec![
            srv(2, 1, 80, "a.test."),
            srv(1, 3, 80, "b.test."),
            srv(1, 8, 80, "b.test."),
            srv(1, 8, 0, "a.test."),
            srv(2, 1, 80, "none.test."),
        ];
        let once = set(&records);
        assert_eq!(once.instances.iter().map(|i| i.weight).max(), Some(8));
        for turn in 0..records.len() {
            records.rotate_left(1);
            records.swap(0, turn);
            assert_eq!(set(&records), once);
        }
    }

    #[test]
    fn a_target_that_is_no_host_is_skipped() {
        let odd = Name::from_labels([&b"a b"[..], b"test"]).unwrap();
        let set = set(&[SRV::new(0, 0, 80, odd)]);
        assert_eq!(set.instances, []);
        assert!(
            set.skipped[0].reason.contains("neither an IP address nor"),
            "{set:?}"
        );
    }
}
