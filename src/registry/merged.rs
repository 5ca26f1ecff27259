//! Several questions to one registry as one [`Source`]: their instances are one set. Which questions
//! they are may change while it runs. Knows nothing of why they belong together.

use std::{future, panic::resume_unwind, sync::Arc};

use futures_util::future::{BoxFuture, select_all};
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{Registry, RegistryError, ServiceQuery, Source};
use crate::{
    evidence::Evidence,
    instance::{Instance, InstanceSet, MAX_WEIGHT},
};

/// One question, and what is made of its instances.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The name in the registry of the service that is asked for.
    pub service: String,
    /// Tags that its instances must have.
    pub tags: Vec<String>,
    /// Whether its instances speak TLS, whatever the registry says.
    pub tls: bool,
    /// The part of all requests that each of its instances gets; `None` for a share of the rest.
    pub weight: Option<f64>,
}

impl Part {
    /// What it asks, in a word: two that ask alike are one.
    fn name(&self) -> String {
        let Self { service, tags, .. } = self;
        format!("{service}#{}", tags.join(","))
    }
}

/// The instances of all parts.
pub struct Merged {
    registry: Arc<dyn Registry>,
    /// What each question has beside its part.
    query: ServiceQuery,
    wanted: watch::Receiver<Vec<Part>>,
    parts: Vec<Asked>,
}

struct Asked {
    part: Part,
    source: Arc<Mutex<Box<dyn Source<InstanceSet>>>>,
    /// Its question, while that is under way: in a task of its own, so that another part's answer
    /// does not cut it short, and what it holds does not wait for those who take the answers.
    asking: Option<AbortOnDropHandle<Result<InstanceSet, RegistryError>>>,
    last: Option<InstanceSet>,
    /// It failed before it answered: the others do not wait for it.
    failed: bool,
}

impl Asked {
    /// The next answer. Where this future is dropped the question goes on.
    async fn answer(&mut self) -> Result<InstanceSet, RegistryError> {
        let asking = self.asking.get_or_insert_with(|| {
            let source = Arc::clone(&self.source);
            let asking = async move { source.lock().await.next().await };
            AbortOnDropHandle::new(tokio::spawn(asking))
        });
        let answer = asking.await;
        self.asking = None;
        match answer.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(answer) => answer,
            Err(Ok(panic)) => resume_unwind(panic),
            // The runtime ends, and this future with it.
            Err(Err(_)) => future::pending().await,
        }
    }
}

impl Merged {
    /// Asks what is `wanted`, and follows its changes. What is not in a part is asked as in `query`.
    pub fn new(
        registry: Arc<dyn Registry>,
        wanted: watch::Receiver<Vec<Part>>,
        query: ServiceQuery,
    ) -> Self {
        Self {
            registry,
            query,
            wanted,
            parts: Vec::new(),
        }
    }

    /// Makes the parts those that are wanted; those that stay keep what they know. Returns whether
    /// that changed anything.
    fn follow(&mut self) -> bool {
        let wanted = self.wanted.borrow_and_update().clone();
        if wanted.iter().eq(self.parts.iter().map(|asked| &asked.part)) {
            return false;
        }
        let mut before = std::mem::take(&mut self.parts);
        for part in wanted {
            let known = before.iter().position(|asked| asked.part == part);
            self.parts.push(match known {
                Some(known) => before.swap_remove(known),
                None => Asked {
                    source: Arc::new(Mutex::new(self.registry.service(ServiceQuery {
                        name: part.service.clone(),
                        tags: part.tags.clone(),
                        ..self.query.clone()
                    }))),
                    asking: None,
                    part,
                    last: None,
                    failed: false,
                },
            });
        }
        true
    }

    /// The set, once every part has answered or failed.
    fn set(&self) -> Option<InstanceSet> {
        let settled = |asked: &Asked| asked.last.is_some() || asked.failed;
        if !self.parts.iter().all(settled) || self.parts.iter().all(|asked| asked.last.is_none()) {
            return None;
        }
        let weights = Weights::of(&self.parts);
        let entries = self.parts.iter().flat_map(|asked| {
            let set = asked.last.iter();
            set.flat_map(|set| {
                let skipped = set.skipped.iter().cloned().map(Err);
                let instances = set.instances.iter().map(|instance| {
                    let tls = instance.tls || asked.part.tls;
                    let weight = weights.weigh(asked.part.weight, instance.weight);
                    Ok(match (tls, weight) == (instance.tls, instance.weight) {
                        true => Arc::clone(instance),
                        false => Arc::new(Instance {
                            tls,
                            weight,
                            ..Instance::clone(instance)
                        }),
                    })
                });
                instances.chain(skipped)
            })
        });
        let set = InstanceSet::of(entries);
        let sets = || {
            let sets = self.parts.iter();
            sets.filter_map(|asked| Some((&asked.part, asked.last.as_ref()?)))
        };
        let names: Vec<_> = sets().map(|(part, _)| part.name()).collect();
        let evidence = sets().map(|(_, set)| &set.evidence);
        Some(InstanceSet {
            elsewhere: sets().flat_map(|(_, set)| set.elsewhere.clone()).collect(),
            evidence: Evidence::of_all(std::iter::zip(names.iter().map(|name| &**name), evidence)),
            ..set
        })
    }
}

impl Source<InstanceSet> for Merged {
    fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
        Box::pin(async move {
            let mut changed = self.follow();
            loop {
                if changed && let Some(set) = self.set() {
                    return Ok(set);
                }
                let answers = async {
                    if self.parts.is_empty() {
                        return future::pending().await;
                    }
                    let answers = self.parts.iter_mut().map(|asked| Box::pin(asked.answer()));
                    let (answer, of, _) = select_all(answers).await;
                    (answer, of)
                };
                tokio::select! {
                    Ok(()) = self.wanted.changed() => changed = self.follow(),
                    (answer, of) = answers => {
                        let asked = &mut self.parts[of];
                        asked.failed = answer.is_err();
                        asked.last = Some(answer?);
                        changed = true;
                    }
                }
            }
        })
    }
}

/// How parts of all requests become weights: by fabio's rule those that ask for more than there is
/// are scaled down together, and what they leave is shared by the others.
struct Weights {
    asked: bool,
    /// By what a wanted part is divided.
    scale: f64,
    /// What each of the others gets.
    rest: f64,
}

impl Weights {
    /// A part of one in ten thousand is the smallest.
    const WHOLE: f64 = 10_000.0;

    fn of(parts: &[Asked]) -> Self {
        let healthy = |asked: &Asked| {
            let instances = asked.last.iter().flat_map(|set| &set.instances);
            instances.filter(|instance| instance.healthy).count() as f64
        };
        let wanted: f64 = parts
            .iter()
            .filter_map(|asked| Some(asked.part.weight? * healthy(asked)))
            .sum();
        let others: f64 = parts
            .iter()
            .filter(|asked| asked.part.weight.is_none())
            .map(healthy)
            .sum();
        let whole = if others > 0.0 {
            wanted.max(1.0)
        } else {
            wanted
        };
        Self {
            asked: parts.iter().any(|asked| asked.part.weight.is_some()),
            scale: whole.max(f64::MIN_POSITIVE),
            rest: (1.0 - wanted).max(0.0) / others.max(1.0),
        }
    }

    fn weigh(&self, wanted: Option<f64>, own: u32) -> u32 {
        if !self.asked {
            return own;
        }
        let part = wanted.map_or(self.rest, |wanted| wanted / self.scale);
        // Between 0 and 10,000, which a u32 holds; a float that is not is cut to it.
        ((part * Self::WHOLE).round() as u32).clamp(1, MAX_WEIGHT)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, VecDeque},
        panic::AssertUnwindSafe,
    };

    use futures_util::FutureExt as _;

    use super::super::Catalog;
    use super::*;
    use crate::instance::Address;

    type Answers = VecDeque<Result<Vec<u16>, ()>>;

    /// Answers each name's questions from its list, then waits for ever.
    #[derive(Clone, Default)]
    struct Told {
        answers: Arc<std::sync::Mutex<BTreeMap<String, Answers>>>,
        /// How often each name was asked for.
        asked: Arc<std::sync::Mutex<BTreeMap<String, usize>>>,
    }

    impl Told {
        fn tell(&self, name: &str, answers: &[Result<&[u16], ()>]) {
            let answers = answers.iter().map(|answer| answer.map(<[u16]>::to_vec));
            self.answers
                .lock()
                .unwrap()
                .insert(name.to_owned(), answers.collect());
        }

        fn asked(&self, name: &str) -> usize {
            self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
        }
    }

    struct Cursor(Told, String);

    impl Registry for Told {
        fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
            Box::new(Cursor(self.clone(), query.name))
        }
        fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
            None
        }
    }

    impl Source<InstanceSet> for Cursor {
        fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
            Box::pin(async move {
                let Self(told, name) = self;
                *told.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
                let answer = {
                    let mut all = told.answers.lock().unwrap();
                    all.entry(name.clone()).or_default().pop_front()
                };
                match answer {
                    None => future::pending().await,
                    Some(Err(())) => Err(RegistryError::new("no")),
                    Some(Ok(ports)) => Ok(InstanceSet::of(ports.into_iter().map(|port| {
                        Ok(Instance::new(
                            format!("{name}-{port}"),
                            Address::new("10.0.0.1", i64::from(port)).unwrap(),
                        ))
                    }))),
                }
            })
        }
    }

    fn part(name: &str, weight: Option<f64>) -> Part {
        Part {
            service: name.to_owned(),
            tags: Vec::new(),
            tls: false,
            weight,
        }
    }

    fn shown(set: &InstanceSet) -> Vec<(&str, u32)> {
        let instances = set.instances.iter();
        instances.map(|one| (&*one.id, one.weight)).collect()
    }

    fn merged(told: &Told, parts: &[Part]) -> (Merged, watch::Sender<Vec<Part>>) {
        let (sender, wanted) = watch::channel(parts.to_vec());
        (
            Merged::new(Arc::new(told.clone()), wanted, ServiceQuery::default()),
            sender,
        )
    }

    #[tokio::test]
    async fn all_parts_are_one_set_and_follow_what_is_wanted() {
        let told = Told::default();
        told.tell("a", &[Ok(&[1])]);
        told.tell("b", &[Ok(&[2])]);
        told.tell("c", &[Ok(&[3])]);
        let (mut merged, wanted) = merged(&told, &[part("a", None), part("b", None)]);
        let set = merged.next().await.unwrap();
        assert_eq!(shown(&set), [("a-1", 1), ("b-2", 1)]);
        wanted.send_replace(vec![part("b", None), part("c", None)]);
        let set = merged.next().await.unwrap();
        assert_eq!(shown(&set), [("b-2", 1), ("c-3", 1)]);
        wanted.send_replace(vec![part("b", None)]);
        let set = merged.next().await.unwrap();
        assert_eq!(shown(&set), [("b-2", 1)]);
    }

    #[tokio::test]
    async fn a_part_that_fails_takes_nothing_from_the_others() {
        let told = Told::default();
        told.tell("a", &[Ok(&[1]), Ok(&[1, 5])]);
        told.tell("b", &[Err(()), Err(()), Ok(&[2])]);
        let (mut merged, _wanted) = merged(&told, &[part("b", None), part("a", None)]);
        assert!(merged.next().await.is_err());
        let mut seen = Vec::new();
        while seen.last() != Some(&3) {
            if let Ok(set) = merged.next().await {
                seen.push(set.instances.len());
            }
        }
        assert!(seen[0] < 3, "the first served without the second: {seen:?}");
    }

    #[tokio::test]
    async fn an_answer_of_one_part_cuts_short_no_question_of_another() {
        let told = Told::default();
        told.tell("a", &[Ok(&[1]), Ok(&[1, 2]), Err(()), Ok(&[3])]);
        told.tell("b", &[Ok(&[7])]);
        let (mut merged, wanted) = merged(&told, &[part("a", None), part("b", None)]);
        let shows_last = |set: &InstanceSet| shown(set) == [("a-3", 1), ("b-7", 1)];
        while !merged.next().await.is_ok_and(|set| shows_last(&set)) {}
        // Nor does a part that comes.
        wanted.send_replace(vec![part("b", None), part("a", None), part("c", None)]);
        assert!(merged.next().now_or_never().is_none());
        tokio::task::yield_now().await;
        let asked = ["a", "b", "c"].map(|name| told.asked(name));
        assert_eq!(asked, [5, 2, 1], "once for each answer, and one that waits");
    }

    /// Asked twice, it panics the first time.
    struct Broken;

    impl Registry for Broken {
        fn service(&self, _: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
            Box::new(Breaks(true))
        }
        fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
            None
        }
    }

    struct Breaks(bool);

    impl Source<InstanceSet> for Breaks {
        fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
            Box::pin(async {
                assert!(!std::mem::take(&mut self.0), "a defect");
                Ok(InstanceSet::default())
            })
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_part_is_the_watchers_to_see() {
        let (_sender, wanted) = watch::channel(vec![part("a", None)]);
        let mut merged = Merged::new(Arc::new(Broken), wanted, ServiceQuery::default());
        let panicked = AssertUnwindSafe(merged.next()).catch_unwind().await;
        assert!(panicked.is_err());
        assert!(merged.next().await.is_ok(), "and it is asked again");
    }

    #[tokio::test]
    async fn parts_of_all_requests_become_weights() {
        for (weights, expected) in [
            ([Some(0.25), None], [2500, 7500]),
            ([Some(0.5), Some(0.5)], [5000, 5000]),
            ([Some(0.2), Some(0.2)], [5000, 5000]),
            ([Some(1.0), None], [10_000, 1]),
            ([None, None], [1, 1]),
        ] {
            let told = Told::default();
            told.tell("a", &[Ok(&[1])]);
            told.tell("b", &[Ok(&[2])]);
            let parts = [part("a", weights[0]), part("b", weights[1])];
            let (mut merged, _wanted) = merged(&told, &parts);
            let set = merged.next().await.unwrap();
            let weights: Vec<_> = set.instances.iter().map(|one| one.weight).collect();
            assert_eq!(weights, expected);
        }
    }
}
