//! The blocking queries that wait for a topic to change. Knows nothing of what changed.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::state::Topic;

/// The queries that wait, by topic. A topic stands here for as long as a query waits for it.
#[derive(Debug, Default)]
pub(super) struct Waiting(Arc<Mutex<Topics>>);

type Topics = HashMap<Topic, watch::Sender<()>>;

impl Waiting {
    /// From now on every change of the topic is noticed.
    pub(super) fn watch(&self, topic: &Topic) -> Watch {
        let changes = self.0.lock().entry(topic.clone()).or_default().subscribe();
        Watch {
            waiting: Self(Arc::clone(&self.0)),
            topic: topic.clone(),
            changes,
        }
    }

    /// Wakes all of them.
    pub(super) fn wake_all(&self) {
        for sender in self.0.lock().values() {
            sender.send_replace(());
        }
    }

    /// Wakes the queries that wait for one of these topics.
    pub(super) fn wake(&self, topics: &BTreeSet<Topic>) {
        let waiting = self.0.lock();
        for sender in topics.iter().filter_map(|topic| waiting.get(topic)) {
            sender.send_replace(());
        }
    }
}

/// Notices a topic's changes for as long as it lives.
pub(super) struct Watch {
    waiting: Waiting,
    topic: Topic,
    changes: watch::Receiver<()>,
}

impl Watch {
    /// Waits for a change since the last one that was noticed, or since the watch began.
    pub(super) async fn changed(&mut self) {
        self.changes
            .changed()
            .await
            .expect("a topic stays while it is watched");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.waiting.0.lock();
        let last = |sender: &watch::Sender<()>| sender.receiver_count() == 1;
        if waiting.get(&self.topic).is_some_and(last) {
            waiting.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_watch_notices_its_own_topic_only_and_from_its_beginning() {
        let (waiting, web, api) = (Waiting::default(), Topic::name("web"), Topic::name("api"));
        let (mut web_watch, mut api_watch) = (waiting.watch(&web), waiting.watch(&api));
        waiting.wake(&BTreeSet::from([web]));
        web_watch.changed().await;
        assert!(web_watch.changed().now_or_never().is_none());
        assert!(api_watch.changed().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_topic_is_forgotten_when_its_last_watch_goes() {
        let (waiting, web) = (Waiting::default(), Topic::name("web"));
        let (one, two) = (waiting.watch(&web), waiting.watch(&web));
        drop(one);
        assert_eq!(waiting.0.lock().len(), 1);
        drop(two);
        assert!(waiting.0.lock().is_empty());
    }
}
