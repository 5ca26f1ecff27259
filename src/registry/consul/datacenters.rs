//! Several datacenters of one Consul. A service's set is that of the first datacenter with a healthy
//! instance, and the catalog is all of theirs. Each is watched by itself. Knows nothing of how a
//! datacenter is asked.
//!
//! Of a service's datacenters those are watched that matter at the moment, which are all up to the
//! first with a healthy instance. Where that is the first of the list, as it nearly always is, a
//! service costs one watch and not one for each datacenter. To fail over costs one read of the
//! next, a round trip over the WAN, during which the last good set stays.

use std::{collections::BTreeMap, panic::resume_unwind, pin::Pin, task::Poll};

use futures_util::future::BoxFuture;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    backoff::Backoff,
    instance::{InstanceSet, Skipped},
    registry::{Catalog, RegistryError, Source, watch},
};

type Open<T> = Box<dyn Fn() -> Box<dyn Source<T>> + Send + Sync>;

/// One datacenter, and what it said last.
pub(super) struct Leg<T> {
    name: String,
    open: Open<T>,
    /// In a task of its own: what it holds of the registry (a line, room for a large answer) does not
    /// wait for those who take the answers, who rest after an error of another datacenter's.
    running: Option<AbortOnDropHandle<Step<T>>>,
    /// Whether it was read, or could not be, since it began to run.
    is_settled: bool,
    /// What it said last, however long ago.
    state: Option<T>,
    /// Why it cannot be read; `None` after a success.
    error: Option<RegistryError>,
    backoff: Backoff,
}

type Step<T> = (Box<dyn Source<T>>, Result<T, RegistryError>);

impl<T: Send + 'static> Leg<T> {
    /// The datacenter of this name; `open` begins to watch it.
    pub(super) fn new(
        name: &str,
        open: impl Fn() -> Box<dyn Source<T>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            open: Box::new(open),
            running: None,
            is_settled: false,
            state: None,
            error: None,
            backoff: watch::backoff(),
        }
    }

    fn run(&mut self) {
        if self.running.is_none() {
            let source = (self.open)();
            self.go_on(source, None);
        }
    }

    fn go_on(&mut self, mut source: Box<dyn Source<T>>, error: Option<&RegistryError>) {
        let pause = error.map(|error| self.backoff.delay() + error.retry_after.unwrap_or_default());
        let running = tokio::spawn(async move {
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            let result = source.next().await;
            (source, result)
        });
        self.running = Some(AbortOnDropHandle::new(running));
    }

    /// Takes a step's result over and goes on.
    fn step(&mut self, (source, result): Step<T>) {
        self.is_settled = true;
        match result {
            Ok(state) => {
                self.backoff.reset();
                self.state = Some(state);
                self.error = None;
                self.go_on(source, None);
            }
            Err(error) => {
                self.go_on(source, Some(&error));
                self.error = Some(error);
            }
        }
    }

    /// Ends the watch. What the datacenter said last will only count again where it cannot be read.
    fn stop(&mut self) {
        self.running = None;
        self.is_settled = false;
        self.error = None;
        self.backoff.reset();
    }
}

/// The legs that run, until one of them has something to say; returns which.
async fn next_of<T: Send + 'static>(legs: &mut [Leg<T>]) -> usize {
    let (at, step) = std::future::poll_fn(|context| {
        for (at, leg) in legs.iter_mut().enumerate() {
            let Some(running) = &mut leg.running else {
                continue;
            };
            let Poll::Ready(step) = Pin::new(running).poll(context) else {
                continue;
            };
            // One that panics is begun anew.
            leg.running = None;
            match step.map_err(tokio::task::JoinError::try_into_panic) {
                Ok(step) => return Poll::Ready((at, step)),
                Err(Ok(panic)) => resume_unwind(panic),
                // The runtime ends, and this future with it.
                Err(Err(_)) => {}
            }
        }
        Poll::Pending
    })
    .await;
    legs[at].step(step);
    at
}

/// A service in the first of its datacenters that has a healthy instance.
pub(super) struct First {
    legs: Vec<Leg<InstanceSet>>,
    /// Whose set was handed out last.
    chosen: Option<usize>,
}

impl First {
    /// In the order in which they are preferred.
    pub(super) fn new(legs: Vec<Leg<InstanceSet>>) -> Self {
        Self { legs, chosen: None }
    }

    /// How far down the list one must look: to the first with a healthy instance, or to the first
    /// of which it is not known yet whether it has any.
    fn reach(&self) -> usize {
        let decides = |leg: &Leg<InstanceSet>| !leg.is_settled || has_healthy(leg);
        let last = self.legs.len() - 1;
        self.legs.iter().position(decides).unwrap_or(last)
    }

    /// The datacenter whose set is the service's; `None` while that is not known. Where none has a
    /// healthy instance it is the first that could be read: an operator will want to see what is
    /// wrong there.
    fn choice(&self) -> Option<usize> {
        let reach = self.reach();
        let leg = &self.legs[reach];
        if !leg.is_settled {
            return None;
        }
        if has_healthy(leg) {
            return Some(reach);
        }
        let read = self.legs.iter().position(|leg| leg.state.is_some());
        Some(read.unwrap_or(0))
    }

    /// The chosen datacenter's set. Which datacenters before it cannot be read stands with it, and
    /// whom the others list.
    fn set(&self, chosen: usize) -> Option<InstanceSet> {
        let mut set = self.legs[chosen].state.clone()?;
        let unreadable = self.legs.iter().enumerate().filter_map(|(at, leg)| {
            let error = leg.error.as_ref().filter(|_| at != chosen)?;
            Some(Skipped {
                id: format!("datacenter {}", leg.name),
                reason: error.message.clone(),
            })
        });
        set.skipped.extend(unreadable);
        let others = self.legs.iter().enumerate();
        let others = others.filter(|(at, leg)| *at != chosen && leg.is_settled);
        let listed = others.filter_map(|(_, leg)| leg.state.as_ref());
        let elsewhere = listed.flat_map(|set| set.instances.iter().map(|one| one.identity()));
        set.elsewhere.extend(elsewhere);
        Some(set)
    }
}

impl Source<InstanceSet> for First {
    fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
        Box::pin(async move {
            loop {
                let reach = self.reach();
                for (at, leg) in self.legs.iter_mut().enumerate() {
                    if at <= reach {
                        leg.run();
                    } else {
                        leg.stop();
                    }
                }
                let spoke = next_of(&mut self.legs).await;
                let Some(chosen) = self.choice() else {
                    continue;
                };
                let error = &self.legs[chosen].error;
                let Some(set) = self.set(chosen) else {
                    return Err(error.clone().expect("what was not read has failed"));
                };
                // An error of the chosen one leaves its last good set, and is told once each time.
                if let Some(error) = error
                    && self.chosen == Some(chosen)
                {
                    if spoke == chosen {
                        return Err(error.clone());
                    }
                    continue;
                }
                self.chosen = Some(chosen);
                return Ok(set);
            }
        })
    }
}

fn has_healthy(leg: &Leg<InstanceSet>) -> bool {
    let set = leg.state.as_ref();
    set.is_some_and(|set| set.instances.iter().any(|instance| instance.healthy))
}

/// What all datacenters list.
pub(super) struct Union {
    legs: Vec<Leg<Catalog>>,
    /// Those whose present trouble was told: once is enough, or it would hold up the others' news.
    told: Vec<bool>,
    /// Something was read that was not handed out.
    has_news: bool,
}

impl Union {
    pub(super) fn new(legs: Vec<Leg<Catalog>>) -> Self {
        let told = vec![false; legs.len()];
        Self {
            legs,
            told,
            has_news: false,
        }
    }

    fn union(&self) -> Catalog {
        let mut union = BTreeMap::new();
        for (name, tags) in self
            .legs
            .iter()
            .filter_map(|leg| leg.state.as_ref())
            .flatten()
        {
            let all: &mut Vec<String> = union.entry(name.clone()).or_default();
            all.extend(tags.iter().cloned());
            all.sort();
            all.dedup();
        }
        union
    }
}

impl Source<Catalog> for Union {
    fn next(&mut self) -> BoxFuture<'_, Result<Catalog, RegistryError>> {
        Box::pin(async move {
            loop {
                for leg in &mut self.legs {
                    leg.run();
                }
                let spoke = next_of(&mut self.legs).await;
                let error = self.legs[spoke].error.clone();
                if error.is_none() {
                    self.told[spoke] = false;
                    self.has_news = true;
                }
                if self.legs.iter().any(|leg| !leg.is_settled) {
                    continue;
                }
                if std::mem::take(&mut self.has_news) {
                    return Ok(self.union());
                }
                let none_can_be_read = self.legs.iter().all(|leg| leg.error.is_some());
                let told = std::mem::replace(&mut self.told[spoke], true);
                if let Some(error) = error.filter(|_| none_can_be_read || !told) {
                    return Err(error);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        time::Duration,
    };

    use tokio::{sync::watch as state, time::timeout};

    use crate::instance::{Address, Instance};

    /// What a datacenter says at the moment: a state, an error, or nothing.
    type Saying<T> = Option<Result<T, &'static str>>;

    struct Datacenter<T> {
        says: state::Sender<Saying<T>>,
        /// How many watch it.
        watched: Arc<AtomicUsize>,
    }

    /// Says the present state at once, and then what follows, as a registry does; what is wrong it
    /// says each time it is asked.
    struct Watch<T> {
        saying: state::Receiver<Saying<T>>,
        knows: bool,
        watched: Arc<AtomicUsize>,
    }

    impl<T: Clone + Send + Sync + 'static> Source<T> for Watch<T> {
        fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
            Box::pin(async {
                if self.knows {
                    self.saying.changed().await.unwrap();
                }
                self.knows = false;
                let said = self.saying.wait_for(Option::is_some).await.unwrap();
                let said = said.clone().unwrap();
                self.knows = said.is_ok();
                said.map_err(RegistryError::new)
            })
        }
    }

    impl<T> Drop for Watch<T> {
        fn drop(&mut self) {
            self.watched.fetch_sub(1, SeqCst);
        }
    }

    impl<T: Clone + Send + Sync + 'static> Datacenter<T> {
        fn silent() -> Self {
            Self {
                says: state::Sender::new(None),
                watched: Arc::default(),
            }
        }

        fn leg(&self, name: &str) -> Leg<T> {
            let (says, watched) = (self.says.clone(), self.watched.clone());
            Leg::new(name, move || {
                watched.fetch_add(1, SeqCst);
                Box::new(Watch {
                    saying: says.subscribe(),
                    knows: false,
                    watched: watched.clone(),
                })
            })
        }

        fn says(&self, state: T) {
            self.says.send_replace(Some(Ok(state)));
        }

        fn fails(&self) {
            self.says.send_replace(Some(Err("no path")));
        }

        fn is_watched(&self) -> bool {
            self.watched.load(SeqCst) == 1
        }
    }

    fn set(id: &str, healthy: bool) -> InstanceSet {
        InstanceSet::of([Ok(Instance {
            healthy,
            ..Instance::new(id, Address::new("10.0.0.1", 80).unwrap())
        })])
    }

    fn pair<T: Clone + Send + Sync + 'static>() -> ([Datacenter<T>; 2], Vec<Leg<T>>) {
        let [near, far] = [Datacenter::silent(), Datacenter::silent()];
        let legs = vec![near.leg("near"), far.leg("far")];
        ([near, far], legs)
    }

    /// What is said within a minute.
    async fn said<T>(source: &mut impl Source<T>) -> Option<Result<T, String>> {
        let next = timeout(Duration::from_secs(60), source.next()).await.ok()?;
        Some(next.map_err(|error| error.message))
    }

    async fn id(first: &mut First) -> String {
        let set = said(first).await.unwrap().unwrap();
        set.instances[0].id.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_is_taken_while_the_one_before_has_nobody_and_given_up_after() {
        let ([near, far], legs) = pair();
        let mut first = First::new(legs);
        near.says(set("n1", true));
        far.says(set("f1", true));
        assert_eq!(id(&mut first).await, "n1");
        assert!(said(&mut first).await.is_none());
        assert!(near.is_watched() && !far.is_watched(), "it costs one watch");

        near.says(set("n1", false));
        assert_eq!(id(&mut first).await, "f1");
        far.says(set("f2", true));
        assert_eq!(id(&mut first).await, "f2", "it is watched");
        assert!(near.is_watched(), "and so is the better one");

        near.says(set("n2", true));
        assert_eq!(id(&mut first).await, "n2");
        assert!(said(&mut first).await.is_none());
        assert!(!far.is_watched());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_said_before_it_is_known_who_has_it() {
        let ([near, far], legs) = pair();
        let mut first = First::new(legs);
        far.says(set("f1", true));
        assert!(said(&mut first).await.is_none(), "the nearer is not read");
        near.says(set("n1", false));
        assert_eq!(id(&mut first).await, "f1");
        far.says(set("f1", false));
        assert_eq!(
            id(&mut first).await,
            "n1",
            "where nobody is healthy the first says why"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_never_read_has_nobody_once_it_has_failed_and_is_named() {
        let ([near, far], legs) = pair();
        let mut first = First::new(legs);
        near.fails();
        far.says(set("f1", true));
        let found = said(&mut first).await.unwrap().unwrap();
        assert_eq!(&*found.instances[0].id, "f1");
        let unreadable = Skipped {
            id: "datacenter near".to_owned(),
            reason: "no path".to_owned(),
        };
        assert_eq!(found.skipped, [unreadable]);
        near.says(set("n1", true));
        while id(&mut first).await != "n1" {}
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_read_any_more_keeps_its_last_good_answer() {
        let ([near, far], legs) = pair();
        let mut first = First::new(legs);
        near.says(set("n1", true));
        far.says(set("f1", true));
        assert_eq!(id(&mut first).await, "n1");
        near.fails();
        for _ in 0..3 {
            assert_eq!(said(&mut first).await.unwrap().unwrap_err(), "no path");
        }
        assert!(!far.is_watched());
        near.says(set("n1", false));
        assert_eq!(id(&mut first).await, "f1");

        // What it said before it was left alone is still its last good answer.
        near.says(set("n1", true));
        assert_eq!(id(&mut first).await, "n1");
        far.fails();
        near.says(set("n1", false));
        assert_eq!(id(&mut first).await, "f1");
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_can_be_read_it_is_an_error_and_never_a_set() {
        let ([near, far], legs) = pair();
        let mut first = First::new(legs);
        near.fails();
        far.fails();
        for _ in 0..4 {
            assert_eq!(said(&mut first).await.unwrap().unwrap_err(), "no path");
        }
    }

    fn catalog(names: &[(&str, &str)]) -> Catalog {
        let entry = |(name, tag): &(&str, &str)| ((*name).into(), vec![(*tag).to_owned()]);
        names.iter().map(entry).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_catalog_is_what_all_of_them_list() {
        let ([near, far], legs) = pair();
        let mut union = Union::new(legs);
        near.says(catalog(&[("cart", "a")]));
        assert!(said(&mut union).await.is_none(), "half of it is none");
        far.says(catalog(&[("cart", "b"), ("shop", "c")]));
        let all = said(&mut union).await.unwrap().unwrap();
        assert_eq!(all["cart"], ["a", "b"]);
        assert_eq!(all["shop"], ["c"]);
        near.says(Catalog::new());
        let all = said(&mut union).await.unwrap().unwrap();
        assert_eq!(all["cart"], ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_catalog_that_cannot_be_read_is_told_once_and_holds_nothing_up() {
        let ([near, far], legs) = pair();
        let mut union = Union::new(legs);
        near.says(catalog(&[("cart", "a")]));
        far.fails();
        let all = said(&mut union).await.unwrap().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(said(&mut union).await.unwrap().unwrap_err(), "no path");
        assert!(said(&mut union).await.is_none());
        near.says(catalog(&[("cart", "a"), ("shop", "a")]));
        assert_eq!(said(&mut union).await.unwrap().unwrap().len(), 2);
        far.says(catalog(&[("hat", "b")]));
        assert_eq!(said(&mut union).await.unwrap().unwrap().len(), 3);
        far.fails();
        // It keeps its last good answer.
        near.says(catalog(&[]));
        let mut told = 0;
        while let Some(said) = said(&mut union).await {
            match said {
                Ok(all) => assert_eq!(all.len(), 1),
                Err(_) => told += 1,
            }
        }
        assert_eq!(told, 1);
    }

    /// Says a state, and then holds what others want for a while before it says it again.
    struct Holds {
        wanted: Arc<tokio::sync::Semaphore>,
        has_said: bool,
    }

    impl Source<Catalog> for Holds {
        fn next(&mut self) -> BoxFuture<'_, Result<Catalog, RegistryError>> {
            Box::pin(async {
                if std::mem::replace(&mut self.has_said, true) {
                    let _held = self.wanted.acquire().await.unwrap();
                    sleep(Duration::from_secs(100)).await;
                }
                Ok(Catalog::new())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_datacenter_holds_does_not_wait_for_those_who_take_the_answers() {
        let wanted = Arc::new(tokio::sync::Semaphore::new(1));
        let holder = Arc::clone(&wanted);
        let ill = Datacenter::silent();
        ill.fails();
        let leg = Leg::new("well", move || {
            Box::new(Holds {
                wanted: Arc::clone(&holder),
                has_said: false,
            })
        });
        let mut union = Union::new(vec![ill.leg("ill"), leg]);
        assert!(union.next().await.is_ok());
        assert!(union.next().await.is_err(), "whose watcher rests after it");
        assert_eq!(wanted.available_permits(), 0);
        let free = timeout(Duration::from_secs(200), wanted.acquire()).await;
        assert!(free.is_ok());
    }
}
