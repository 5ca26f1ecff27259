//! What is unusual of the proxy itself.

use super::finding::{Finding, Level, count, some, time};
use crate::{
    acme::NameStatus,
    admin::{
        leaving::LeavingStatus, log_level::LogLevelStatus, ready::Readiness, reloader::ReloadStatus,
    },
    discovery::Quarantined,
    registry::watch::WatchSnapshot,
    saved,
    service::{Split, TermStatus},
    tls::CertificateStatus,
};

const DAY: i64 = 24 * 3600;

/// Shares of a route that hold for a while.
pub(in crate::admin) struct ChangedShares {
    /// Which requests are parted.
    pub(in crate::admin) of: String,
    /// In words.
    pub(in crate::admin) now: String,
    pub(in crate::admin) term: TermStatus,
}

impl ChangedShares {
    /// Those of a split, where it has others than the file's.
    pub(in crate::admin) fn of(split: &Split) -> Option<Self> {
        let term = split.changed()?;
        Some(Self {
            of: split.of().to_owned(),
            now: split.in_words(),
            term,
        })
    }

    fn text(&self) -> String {
        let (of, now, left) = (&self.of, &self.now, time(self.term.seconds_left));
        format!("route {of}: the shares are {now} for another {left}")
    }
}

/// What is known of the proxy itself.
pub(in crate::admin) struct ProcessFacts<'a> {
    pub(in crate::admin) readiness: &'a Readiness,
    pub(in crate::admin) reload: &'a ReloadStatus,
    pub(in crate::admin) log: &'a LogLevelStatus,
    /// Shares of routes that are others than the file's.
    pub(in crate::admin) shares: &'a [ChangedShares],
    /// Listeners that are out of the file.
    pub(in crate::admin) leaving: &'a [LeavingStatus],
    pub(in crate::admin) quarantined: &'a [Quarantined],
    pub(in crate::admin) certificates: &'a [CertificateStatus],
    /// Why other files of TLS are not used.
    pub(in crate::admin) tls_errors: &'a [String],
    /// Names that certificates are ordered for.
    pub(in crate::admin) orders: &'a [NameStatus],
    pub(in crate::admin) snapshot: Option<&'a saved::Status>,
    pub(in crate::admin) catalogs: &'a [WatchSnapshot],
    /// In seconds since 1970.
    pub(in crate::admin) now: i64,
}

pub(super) fn of_process(facts: &ProcessFacts<'_>) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut say = |level, kind, text| all.push(Finding::of_proxy(level, kind, text));
    let readiness = facts.readiness;
    if readiness.draining {
        let text = "the proxy drains: it takes no more traffic than it must, and then ends";
        say(Level::Warning, "draining", text.to_owned());
    } else if !readiness.ready {
        let text = match readiness.missing.as_slice() {
            [] => "the proxy is not ready".to_owned(),
            missing => format!("the proxy is not ready: not read yet: {}", some(missing)),
        };
        say(Level::Bad, "not_ready", text);
    }
    if let Some(error) = facts
        .reload
        .last
        .as_ref()
        .and_then(|last| last.error.as_ref())
    {
        let text = format!("the last reload failed, and what ran before goes on: {error}");
        say(Level::Bad, "reload_failed", text);
    }
    for (kind, text) in changed_for_a_while(facts) {
        say(Level::Note, kind, text);
    }
    for certificate in facts.certificates {
        if let Some((level, kind, text)) = of_certificate(certificate, facts.now) {
            say(level, kind, text);
        }
    }
    for order in facts.orders {
        if let Some((level, text)) = of_order(order, facts.now) {
            say(level, "certificate_not_issued", text);
        }
    }
    for error in facts.tls_errors {
        say(Level::Warning, "tls_file", error.clone());
    }
    if let Some(error) = facts.snapshot.and_then(|snapshot| snapshot.error.as_ref()) {
        let text = format!("the snapshot cannot be written: {error}");
        say(Level::Warning, "snapshot_not_written", text);
    }
    if let [first, others @ ..] = facts.quarantined {
        let (what, more) = match others.len() {
            0 => ("a tag makes no route", String::new()),
            more => ("tags make no route", format!("; and {more} more")),
        };
        let Quarantined {
            service,
            tag,
            reason,
            ..
        } = first;
        let text = format!("{what}: `{tag}` of {service}: {reason}{more}");
        say(Level::Warning, "quarantined", text);
    }
    all
}

fn changed_for_a_while(facts: &ProcessFacts<'_>) -> impl Iterator<Item = (&'static str, String)> {
    let log = of_log(facts).map(|text| ("log_level", text));
    let shares = facts.shares.iter().map(|one| ("shares", one.text()));
    let leaving = facts.leaving.iter();
    let leaving = leaving.map(|one| ("listener_leaves", of_leaving(one, facts.now)));
    log.into_iter().chain(shares).chain(leaving)
}

fn of_leaving(one: &LeavingStatus, now: i64) -> String {
    let (address, left) = (&one.address, time((one.ends - now as f64).max(0.0)));
    let connections = count(one.connections, "connection");
    format!("{address} is out of the file and accepts no more: {connections} left, cut in {left}")
}

fn of_log(facts: &ProcessFacts<'_>) -> Option<String> {
    let left = time((facts.log.ends? - facts.now as f64).max(0.0));
    let level = &facts.log.level;
    Some(format!("the log's level is {level} for another {left}"))
}

/// An order that failed is worse where there is no certificate yet.
fn of_order(order: &NameStatus, now: i64) -> Option<(Level, String)> {
    let error = order.error.as_ref()?;
    let name = &order.name;
    let (level, what) = match order.issued {
        true => (Level::Warning, "another certificate"),
        false => (Level::Bad, "a certificate"),
    };
    let again = time((order.next - now).max(0) as f64);
    let text = format!("{what} for {name} was not issued: {error}; ordered again in {again}");
    Some((level, text))
}

fn of_certificate(
    certificate: &CertificateStatus,
    now: i64,
) -> Option<(Level, &'static str, String)> {
    let what = match certificate.hosts.first() {
        Some(host) => format!("the certificate for {host}"),
        None => format!("the certificate {}", certificate.file.display()),
    };
    let left = certificate.not_after - now;
    if left <= 0 {
        let text = format!("{what} expired {} ago", time(-left as f64));
        return Some((Level::Bad, "certificate_expired", text));
    }
    if certificate.not_before > now {
        let text = format!(
            "{what} holds only in {}",
            time((certificate.not_before - now) as f64)
        );
        return Some((Level::Bad, "certificate_too_early", text));
    }
    if let Some(error) = &certificate.error {
        let text = format!("{what}: what its file has now is not used: {error}");
        return Some((Level::Bad, "certificate_not_used", text));
    }
    let (bad, soon) = match certificate.is_ordered {
        // Another is there in time, of however short a lifetime it is.
        true => {
            let lifetime = certificate.not_after - certificate.not_before;
            (lifetime / 28, lifetime / 6)
        }
        false => (i64::MAX, i64::MAX),
    };
    let level = if left < bad.min(3 * DAY) {
        Level::Bad
    } else if left < soon.min(14 * DAY) {
        Level::Warning
    } else {
        return None;
    };
    let text = format!("{what} expires in {}", time(left as f64));
    Some((level, "certificate_expires", text))
}
