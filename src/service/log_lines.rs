//! What the log says of endpoints that come and go, are avoided, and are back: at a pace that neither
//! an outage nor a rollout of a thousand instances floods it, and at which one service that flaps keeps no
//! other from being named.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::{
    backoff::{Digest, Digests},
    instance::Address,
};

/// So many lines of each kind are written at once of a service.
const AT_ONCE: u32 = 10;
/// The same of all services together.
const OF_ALL: u32 = 100;
/// So many endpoints are named in a line.
const NAMED: usize = 5;

static AVOIDED: LazyLock<Lines> = LazyLock::new(Lines::default);
static BACK: LazyLock<Lines> = LazyLock::new(Lines::default);
static CHECKS: LazyLock<Lines> = LazyLock::new(Lines::default);
static CHANGED: LazyLock<Lines> = LazyLock::new(Lines::default);

/// The lines of one kind.
#[derive(Default)]
struct Lines {
    by_service: Digests<Arc<str>>,
    of_all: Arc<Digest>,
}

impl Lines {
    /// Notes one of a service, which `say` writes with how many it stands for.
    fn note(&self, service: &Arc<str>, say: impl FnOnce(u64) + Send + 'static) {
        let of_all = Arc::clone(&self.of_all);
        let own = self.by_service.of(Arc::clone(service));
        own.note(AT_ONCE, move |times| {
            // Beyond the first hundred it stands for those of other services, too.
            of_all.note_many(OF_ALL, times, say);
        });
    }
}

pub(super) fn ejected(service: &Arc<str>, endpoint: &Address, time: Duration, reason: String) {
    let (name, endpoint, seconds) = (Arc::clone(service), endpoint.clone(), time.as_secs());
    AVOIDED.note(service, move |times| {
        let service = name;
        tracing::warn!(%service, %endpoint, seconds, reason, times, "an endpoint is ejected");
    });
}

pub(super) fn silent(service: &Arc<str>, endpoint: &Address) {
    let (name, endpoint) = (Arc::clone(service), endpoint.clone());
    let reason = "it answers nothing, and its peers do";
    AVOIDED.note(service, move |times| {
        let service = name;
        tracing::warn!(%service, %endpoint, reason, times, "an endpoint is doubted");
    });
}

pub(super) fn back(service: &Arc<str>, endpoint: &Address, reason: &'static str) {
    let (name, endpoint) = (Arc::clone(service), endpoint.clone());
    BACK.note(service, move |times| {
        let service = name;
        tracing::info!(%service, %endpoint, reason, times, "an endpoint is back");
    });
}

/// A line about a service's members, which is written once what it says is published.
#[derive(Debug)]
pub(super) enum Line {
    /// An endpoint's checks have failed, or pass again.
    Checked(Address, Option<String>),
    /// So few pass them that these are not believed.
    Panic,
    /// An instance says that it is called by HTTP/2, and is not.
    Overruled(Address),
    /// The guard has asked about an endpoint that it holds, and holds it for longer or lets it go.
    Settled(Address, Option<String>),
}

impl Line {
    pub(super) fn write(self, service: &Arc<str>) {
        match self {
            Self::Checked(endpoint, error) => checked(service, endpoint, error),
            Self::Panic => {
                tracing::warn!(%service, "so few endpoints pass their checks that all are called");
            }
            Self::Overruled(endpoint) => {
                tracing::warn!(%service, %endpoint, "an instance is for HTTP/2, and is called by HTTP/1.1 for the sake of `send_proxy`");
            }
            Self::Settled(endpoint, Some(why)) => {
                tracing::warn!(%service, %endpoint, why, "held for longer");
            }
            Self::Settled(endpoint, None) => {
                tracing::info!(%service, %endpoint, "no longer held");
            }
        }
    }
}

fn checked(service: &Arc<str>, endpoint: Address, error: Option<String>) {
    let name = Arc::clone(service);
    CHECKS.note(service, move |times| {
        let service = name;
        match error {
            Some(error) => {
                tracing::warn!(%service, %endpoint, %error, times, "an endpoint's checks fail");
            }
            None => tracing::info!(%service, %endpoint, times, "an endpoint's checks pass"),
        }
    });
}

/// A service's set has changed: who is in it that was not, and the other way round.
pub(super) fn changed(service: &Arc<str>, joined: &[&Address], left: &[&Address], why: String) {
    if joined.is_empty() && left.is_empty() {
        return;
    }
    let (joined, left) = (Names(joined).to_string(), Names(left).to_string());
    let name = Arc::clone(service);
    CHANGED.note(service, move |times| {
        let service = name;
        tracing::info!(%service, joined, left, why, times, "endpoints have come or gone");
    });
}

/// The first few, and how many there are beside them.
struct Names<'a>(&'a [&'a Address]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, address) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{address}", if n == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use parking_lot::Mutex;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_flaps_keeps_no_other_from_being_named_and_a_thousand_flood_nothing() {
        let lines = Lines::default();
        let said = Arc::<Mutex<Vec<(String, u64)>>>::default();
        let note = |service: &str| {
            let (said, name) = (Arc::clone(&said), service.to_owned());
            lines.note(&service.into(), move |times| {
                said.lock().push((name, times))
            });
        };
        let take = || std::mem::take(&mut *said.lock());
        (0..1_000).for_each(|_| note("flaps"));
        assert_eq!(take().len(), AT_ONCE as usize);
        note("other");
        assert_eq!(take(), [("other".to_owned(), 1)]);
        (0..1_000).for_each(|n| note(&format!("of-many-{n}")));
        let at_once = OF_ALL - AT_ONCE - 1;
        assert_eq!(take().len(), at_once as usize);
        // Both paces have said by then what was left, and each time is counted once.
        tokio::time::sleep(Duration::from_secs(45)).await;
        let said = take();
        let times: u64 = said.iter().map(|(_, times)| times).sum();
        let left = 1_000 - u64::from(AT_ONCE) + 1_000 - u64::from(at_once);
        assert!(said.len() <= 2 && times == left, "{said:?}, not {left}");
    }

    #[test]
    fn a_line_names_a_few_and_counts_the_rest() {
        let all: Vec<_> = (1..8)
            .map(|port| Address::new("10.0.0.1", port).unwrap())
            .collect();
        let all: Vec<_> = all.iter().collect();
        assert_eq!(Names(&[]).to_string(), "");
        assert_eq!(Names(&all[..2]).to_string(), "10.0.0.1:1, 10.0.0.1:2");
        assert!(Names(&all).to_string().ends_with("10.0.0.1:5 and 2 more"));
    }
}
