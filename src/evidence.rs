//! What a registry's answer shows of its own history, beside what it lists: by it an answer that
//! goes on from the one before is told from that of a registry which has lost its data, and both
//! from the answer of another part of the registry. Knows nothing of any registry.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// What an answer shows of the history that it belongs to. It says when a state was seen, and
/// nothing of what is in it: any two are equal.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Mark>", into = "Vec<Mark>")]
pub struct Evidence {
    marks: Vec<Mark>,
    /// How it follows the answer before, where there was one.
    order: Option<Order>,
}

/// Where an answer stands in the history of one part of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which part was asked: a datacenter, a zone, one of several questions; empty where there is
    /// one part only.
    pub part: Arc<str>,
    /// Which history it is, where the registry says so.
    pub history: Option<History>,
    /// Consul's index, etcd's revision, ZooKeeper's zxid: it grows within a history.
    pub revision: Option<u64>,
}

/// Which history counts the revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// That which one of several agents tells, by its place in the list. Two agents may be of one
    /// cluster or not: their revisions cannot be compared.
    Agent(u64),
    /// That of the cluster with this id: another one cannot have seen what this one saw.
    Cluster(u64),
}

/// How an answer follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is of the same history, and not older.
    Forward,
    /// Nothing says so, and nothing against it.
    Unknown,
    /// The registry has lost what it said before.
    Lost(Loss),
    /// It is the answer of another part of the registry.
    Replaced,
}

/// What shows that a registry has lost data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its revision is lower than it was.
    WentBack {
        /// What it was.
        from: u64,
        /// What it is.
        to: u64,
    },
    /// Another cluster answers in its place.
    OtherCluster,
    /// It lists no service at all any more.
    Empty,
    /// Asked again, it lists the instance after all.
    Contradicted,
}

impl From<Vec<Mark>> for Evidence {
    fn from(marks: Vec<Mark>) -> Self {
        Self { marks, order: None }
    }
}

impl From<Evidence> for Vec<Mark> {
    fn from(evidence: Evidence) -> Self {
        evidence.marks
    }
}

impl PartialEq for Evidence {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Evidence {}

impl Evidence {
    /// Of an answer that has one mark.
    pub fn of(mark: Mark) -> Self {
        vec![mark].into()
    }

    /// Of several answers that make one, each with the name of its part.
    pub fn of_all<'e>(parts: impl IntoIterator<Item = (&'e str, &'e Self)>) -> Self {
        let marks = parts.into_iter().flat_map(|(name, evidence)| {
            evidence.marks.iter().map(move |mark| Mark {
                part: match &*mark.part {
                    "" => name.into(),
                    part => format!("{name} {part}").into(),
                },
                ..mark.clone()
            })
        });
        marks.collect::<Vec<_>>().into()
    }

    /// The latest revision in it.
    pub fn revision(&self) -> Option<u64> {
        self.marks.iter().filter_map(|mark| mark.revision).max()
    }

    /// Notes which answer came before this one.
    pub fn follow(&mut self, before: &Self) {
        self.order = Some(self.after(before));
    }

    /// How it follows the answer before it, where that was noted.
    pub fn order(&self) -> Option<Order> {
        self.order
    }

    /// How this answer follows that one.
    pub fn after(&self, before: &Self) -> Order {
        if self.marks.is_empty() || before.marks.is_empty() {
            return Order::Unknown;
        }
        let followed = |then: &Mark| {
            let now = self.marks.iter().find(|now| now.part == then.part)?;
            Some(now.after(then))
        };
        let orders: Vec<_> = before.marks.iter().map(followed).collect();
        if orders.iter().all(Option::is_none) {
            return Order::Replaced;
        }
        let lost = |order: &&Option<Order>| matches!(order, Some(Order::Lost(_)));
        if let Some(Some(lost)) = orders.iter().find(lost) {
            return *lost;
        }
        if orders.iter().all(|order| *order == Some(Order::Forward)) {
            Order::Forward
        } else {
            // A part that is not asked any more says nothing of its instances.
            Order::Unknown
        }
    }
}

impl Mark {
    fn after(&self, before: &Self) -> Order {
        match (before.history, self.history) {
            (Some(History::Cluster(then)), Some(History::Cluster(now))) if then != now => {
                return Order::Lost(Loss::OtherCluster);
            }
            (then, now) if then != now => return Order::Unknown,
            _ => {}
        }
        match (before.revision, self.revision) {
            (Some(from), Some(to)) if to < from => Order::Lost(Loss::WentBack { from, to }),
            (Some(_), Some(_)) => Order::Forward,
            _ => Order::Unknown,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WentBack { from, to } => {
                write!(f, "the registry's index went back from {from} to {to}")
            }
            Self::OtherCluster => write!(f, "another cluster answers in the registry's place"),
            Self::Empty => write!(f, "the registry lists no service at all any more"),
            Self::Contradicted => write!(f, "asked again, the registry lists it after all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(part: &str, history: Option<History>, revision: Option<u64>) -> Mark {
        Mark {
            part: part.into(),
            history,
            revision,
        }
    }

    fn plain(revision: u64) -> Evidence {
        Evidence::of(mark("", None, Some(revision)))
    }

    #[test]
    fn an_answer_follows_another_of_its_history_and_part_alone() {
        let agent = |number| Some(History::Agent(number));
        let cluster = |id| Some(History::Cluster(id));
        let back = Order::Lost(Loss::WentBack { from: 7, to: 6 });
        let other = Order::Lost(Loss::OtherCluster);
        for (before, now, order) in [
            (("", None, Some(7)), ("", None, Some(7)), Order::Forward),
            (("", None, Some(7)), ("", None, Some(8)), Order::Forward),
            (("", None, Some(7)), ("", None, Some(6)), back),
            (("", None, Some(7)), ("", None, None), Order::Unknown),
            (("", None, None), ("", None, Some(7)), Order::Unknown),
            (("", agent(0), Some(7)), ("", agent(0), Some(6)), back),
            (
                ("", agent(0), Some(7)),
                ("", agent(1), Some(6)),
                Order::Unknown,
            ),
            (
                ("", agent(0), Some(7)),
                ("", agent(1), Some(9)),
                Order::Unknown,
            ),
            (
                ("", cluster(1), Some(7)),
                ("", cluster(1), Some(9)),
                Order::Forward,
            ),
            (("", cluster(1), Some(7)), ("", cluster(2), Some(9)), other),
            (("a", None, Some(7)), ("b", None, Some(6)), Order::Replaced),
            (
                ("a", cluster(1), None),
                ("b", cluster(2), None),
                Order::Replaced,
            ),
        ] {
            let [before, now] = [before, now]
                .map(|(part, history, revision)| Evidence::of(mark(part, history, revision)));
            assert_eq!(now.after(&before), order, "{now:?} after {before:?}");
        }
        let none = Evidence::default();
        assert_eq!(plain(7).after(&none), Order::Unknown);
        assert_eq!(none.after(&plain(7)), Order::Unknown);
    }

    #[test]
    fn an_answer_of_several_parts_is_as_sound_as_the_worst_of_them() {
        let of = |parts: &[(&str, u64)]| {
            let parts: Vec<_> = parts.iter().map(|(name, at)| (*name, plain(*at))).collect();
            Evidence::of_all(parts.iter().map(|(name, evidence)| (*name, evidence)))
        };
        let before = of(&[("a", 7), ("b", 3)]);
        let back = Order::Lost(Loss::WentBack { from: 3, to: 2 });
        for (now, order) in [
            (of(&[("a", 7), ("b", 3)]), Order::Forward),
            (of(&[("a", 9), ("b", 4), ("c", 1)]), Order::Forward),
            (of(&[("a", 9), ("b", 2)]), back),
            (of(&[("a", 9)]), Order::Unknown),
            (of(&[("b", 9)]), Order::Unknown),
            (of(&[("c", 9)]), Order::Replaced),
        ] {
            assert_eq!(now.after(&before), order, "{now:?}");
        }
        assert_eq!(before.revision(), Some(7));
    }
}
