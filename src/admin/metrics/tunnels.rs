//! The samples of connections that have gone over to another protocol.

use std::fmt;

use super::scrape::{Samples, Scrape};
use crate::{
    metrics::Counter,
    service::{Service, TunnelEnd, TunnelStats},
};

/// The services that ever had a tunnel.
fn tunnelled<'s>(scrape: &'s Scrape<'_>) -> impl Iterator<Item = &'s Service> {
    let services = scrape.called().map(|(service, _)| &**service);
    services.filter(|service| sum(service, |tunnels| &tunnels.opened) > 0)
}

fn sum(service: &Service, counter: fn(&TunnelStats) -> &Counter) -> u64 {
    let stats = service.all_stats();
    stats.map(|stats| counter(&stats.tunnels).value()).sum()
}

pub(super) fn ends(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    tunnelled(scrape).try_for_each(|service| {
        TunnelEnd::ALL.into_iter().try_for_each(|end| {
            let ends = service.all_stats().map(|stats| &stats.tunnels.ends);
            let sum: u64 = ends.map(|ends| ends[end.index()].value()).sum();
            samples.add(&[service.name(), end.as_str()], sum)
        })
    })
}

pub(super) fn bytes(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    tunnelled(scrape).try_for_each(|service| {
        let up = sum(service, |tunnels| &tunnels.from_clients);
        let down = sum(service, |tunnels| &tunnels.to_clients);
        samples.add(&[service.name(), "client"], up)?;
        samples.add(&[service.name(), "endpoint"], down)
    })
}
