//! Pins a service to a set that it had, for as long as an incident is looked at. What its
//! registries say meanwhile is heard and noted, and followed when the pin is off. Who is in the
//! pinned set is doubted, retried and drained as ever.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use super::{
    combine::Update,
    history::{EntryStatus, Pin, Seat, Why, unix_seconds},
    shrink_guard,
};
use crate::service::Service;

/// The longest that a pin may last: one that is forgotten must end.
pub const LONGEST_PIN: Duration = Duration::from_secs(24 * 3600);

/// A pin, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PinStatus {
    /// The number of the journal's entry whose set it is.
    pub set: u64,
    /// When it was pinned, in seconds since 1970.
    pub since: f64,
    /// When it ends by itself, in seconds since 1970.
    pub ends: f64,
    /// Until then.
    pub seconds_left: f64,
}

/// Why a service cannot be pinned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Its endpoints are always the same.
    #[error("its endpoints stand in proxy.toml, and change with that file only")]
    Fixed,
    /// Nothing was read yet.
    #[error("nothing is known of it yet; wait until its registry was read")]
    Unread,
    /// No entry of that number is in the journal.
    #[error("its journal has no set {0}; it has {1} to {2}")]
    NoSuchSet(u64, u64, u64),
    /// No endpoint of that set could be picked.
    #[error("nobody in the set {0} is healthy; choose one with somebody to route to")]
    Nobody(u64),
    /// It would last for nothing or for ever.
    #[error("a pin lasts for at least a second and at most 24 hours")]
    Time,
}

impl Service {
    /// Pins it to the set that an entry of its journal made; without a number, to the one that it
    /// has. An earlier pin ends. Must be called on a runtime that goes on.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn pin(
        self: &Arc<Self>,
        number: Option<u64>,
        time: Duration,
    ) -> Result<PinStatus, PinError> {
        if self.policy().origin.registries().is_empty() {
            return Err(PinError::Fixed);
        }
        if time < Duration::from_secs(1) || time > LONGEST_PIN {
            return Err(PinError::Time);
        }
        let listing = self.listing();
        let mut board = self.board();
        let mut journal = self.journal();
        let (first, last) = journal.numbers().ok_or(PinError::Unread)?;
        let entry = journal.entry(number);
        let entry = entry.ok_or(PinError::NoSuchSet(number.unwrap_or(last), first, last))?;
        let (number, set) = (entry.number, Arc::clone(&entry.set));
        let instances: Vec<_> = set.iter().map(Seat::instance).collect();
        if !instances.iter().any(|instance| instance.healthy) {
            return Err(PinError::Nobody(number));
        }
        let told = listing.now(time).map(|update| update.instances);
        let began = journal.pin(number, SystemTime::now() + time, &told.unwrap_or_default());
        board.expects_new = listing.is_settled();
        // Our own decision, which the guard does not doubt.
        board.take_over(&Update::ours(instances), self.policy());
        self.publish(&mut board);
        self.tell_of_change();
        journal.note(Why::Pinned { set: number }, board.standings());
        tracing::warn!(
            service = %self.name(), set = number, seconds = time.as_secs(),
            "pinned: whatever its registries say, its set stays what it is"
        );
        let pin = journal.pin.as_mut().expect("it was just pinned");
        let expiry = tokio::spawn(expire(Arc::downgrade(self), began, time));
        pin.expiry = Some(AbortOnDropHandle::new(expiry));
        Ok(PinStatus::of(pin))
    }

    /// Takes the pin off, and follows the registries again. Returns whether there was one.
    pub fn unpin(self: &Arc<Self>) -> bool {
        self.end_pin(None)
    }

    /// Ends the pin; of a given one no later one.
    fn end_pin(self: &Arc<Self>, which: Option<Instant>) -> bool {
        let listing = self.listing();
        let mut board = self.board();
        let mut journal = self.journal();
        let is_it = |began| which.is_none_or(|which| which == began);
        let Some(pinned) = journal.pin.take_if(|pin| is_it(pin.began)) else {
            return false;
        };
        let expired = which.is_some();
        tracing::warn!(service = %self.name(), expired, "no longer pinned: its registries are followed again");
        // A set that was given up meanwhile leaves no endpoint, as it would have without the pin.
        let lasted = pinned.began.elapsed();
        let update = listing
            .now(lasted)
            .unwrap_or_else(|| Update::ours(Vec::new()));
        board.expects_new = listing.is_settled();
        let doubted = board.take_over(&update, self.policy());
        self.publish(&mut board);
        self.tell_of_change();
        let why = if expired {
            Why::PinExpired
        } else {
            Why::Unpinned
        };
        journal.note(why, board.standings());
        drop((listing, board, journal));
        if doubted {
            shrink_guard::watch_over(self);
        }
        true
    }

    /// Whether it is pinned, and to what.
    pub fn pinned(&self) -> Option<PinStatus> {
        self.journal().pin.as_deref().map(PinStatus::of)
    }

    /// The last changes of its set, the latest first.
    pub fn changes(&self) -> Vec<EntryStatus> {
        self.journal().entries()
    }
}

impl PinStatus {
    fn of(pin: &Pin) -> Self {
        let left = pin.ends.duration_since(SystemTime::now());
        Self {
            set: pin.of,
            since: unix_seconds(pin.since),
            ends: unix_seconds(pin.ends),
            seconds_left: left.unwrap_or_default().as_secs_f64(),
        }
    }
}

async fn expire(service: Weak<Service>, began: Instant, time: Duration) {
    tokio::time::sleep(time).await;
    if let Some(service) = service.upgrade() {
        service.end_pin(Some(began));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::{
        config::{Config, EndpointTls},
        instance::{Address, Instance, InstanceSet},
        registry::watch::Event,
        upstream::Tls,
    };

    fn service() -> Arc<Service> {
        let text = "[registry.a]\nkind = \"consul\"\n[[route]]\nservice = \"cart\"\n";
        let config = Config::parse(text, Path::new(".")).unwrap();
        let tls = Arc::new(Tls::open(&EndpointTls::default()).unwrap());
        let policy = config.services["cart"].clone();
        Arc::new(Service::new(
            "cart".into(),
            policy,
            tls,
            1,
            [],
            Arc::default(),
        ))
    }

    fn says(service: &Service, ports: &[i64]) {
        let instances = ports.iter().map(|port| {
            Ok(Instance {
                id: format!("i{port}").into(),
                address: Address::new("127.0.0.1", *port).unwrap(),
                tls: false,
                healthy: true,
                weight: 1,
                tags: Vec::new(),
                meta: BTreeMap::new(),
            })
        });
        service.hear(0, Event::State(InstanceSet::of(instances)));
    }

    fn ports(service: &Service) -> Vec<u16> {
        let board = service.board();
        let set = board.standings().map(|(one, _)| one.address.port());
        set.collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_pin_ends_at_its_time_and_no_earlier_one_ends_a_later_one() {
        let service = service();
        assert_eq!(service.pin(None, HOUR).unwrap_err(), PinError::Unread);
        says(&service, &[1, 2]);
        says(&service, &[1, 2, 3]);
        service.pin(Some(1), HOUR).unwrap();
        assert_eq!(ports(&service), [1, 2]);
        tokio::time::sleep(HOUR / 2).await;
        service.pin(None, HOUR).unwrap();
        tokio::time::sleep(HOUR * 3 / 4).await;
        says(&service, &[2, 3, 4]);
        assert_eq!(ports(&service), [1, 2], "the second pin holds");
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(ports(&service), [2, 3, 4]);
        assert!(!service.unpin());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_meanwhile_leaves_nobody_when_the_pin_ends() {
        let service = service();
        says(&service, &[1, 2]);
        service.pin(None, HOUR).unwrap();
        service.hear(0, Event::Failed);
        service.hear(0, Event::Stale);
        assert_eq!(ports(&service), [1, 2]);
        assert!(service.unpin());
        assert!(service.is_empty());
    }
}
