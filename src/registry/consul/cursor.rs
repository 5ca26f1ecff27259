//! One question, asked again each time its answer may have changed: the rules of the index, and
//! what is done without a slot. Knows nothing of what the answers mean.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::{
    breaker::DENIED,
    client::{Answer, Client, Failure, Index, Question},
    slots::{Member, Slot, Turned},
    token::Bearer,
};
use crate::registry::{RegistryError, Source};

/// One question, asked again and again.
pub(super) struct Cursor<P> {
    client: Arc<Client>,
    question: Question,
    member: Member,
    slot: Option<Slot>,
    /// What is known; `None` asks for the present state at once.
    known: Option<Known>,
    /// The token that was refused, and until when there is no use in trying again.
    denied: Option<(Bearer, Instant)>,
    parse: P,
}

/// What is known of the state.
#[derive(Clone, Copy)]
struct Known {
    /// How far; `None` where the last question failed.
    index: Option<Index>,
    /// When it was asked for last.
    asked: Instant,
}

impl<P> Cursor<P> {
    pub(super) fn new(client: Arc<Client>, question: Question, member: Member, parse: P) -> Self {
        Self {
            client,
            question,
            member,
            slot: None,
            known: None,
            denied: None,
            parse,
        }
    }

    /// Waits while what was refused would be refused again.
    async fn wait_for_rights(&mut self) {
        if let Some((bearer, until)) = &self.denied {
            tokio::select! {
                () = sleep_until(*until) => {}
                () = self.client.token_changes(bearer) => {}
            }
        }
        self.denied = None;
    }

    /// The next answer, where something is known: from a slot when it changes, without one when
    /// it is read again.
    async fn next_answer(&mut self, known: Known) -> Result<Answer, Failure> {
        loop {
            if self.slot.is_none() {
                self.slot = self.member.claim();
            }
            let Some(slot) = &self.slot else {
                match self.member.turn(known.asked).await {
                    Turned::Called => continue,
                    Turned::Read => return self.client.ask(&self.question, None).await,
                }
            };
            tokio::select! {
                answer = self.client.ask(&self.question, known.index) => return answer,
                () = slot.is_taken() => self.slot = None,
            }
        }
    }
}

impl<T, P> Source<T> for Cursor<P>
where
    P: Fn(&Answer) -> serde_json::Result<T> + Send + Sync + 'static,
{
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        Box::pin(async move {
            self.wait_for_rights().await;
            // It stays until there is an answer: where this future is dropped, nothing is lost.
            let known = self.known;
            let answer = match known {
                None => self.client.ask(&self.question, None).await,
                Some(known) => self.next_answer(known).await,
            };
            let asked = Instant::now();
            let answer = answer.map_err(|Failure { error, denied }| {
                self.denied = denied.map(|bearer| (bearer, asked + DENIED));
                // What is read in turn is not read faster where an agent is in trouble.
                let in_turn = known.is_some() && self.slot.is_none();
                self.known = in_turn.then_some(Known { index: None, asked });
                error
            })?;
            // What cannot be understood is asked for from the beginning.
            self.known = None;
            let state = (self.parse)(&answer)
                .map_err(|error| self.client.misunderstood(&self.question, &answer, &error))?;
            let before = known.and_then(|known| known.index);
            self.known = answer.index.follows(before).then_some(Known {
                index: Some(answer.index),
                asked,
            });
            Ok(state)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::super::slots::Slots;
    use crate::config;

    fn unreachable_agent() -> config::Consul {
        let text =
            "[registry.consul]\naddress = \"http://127.0.0.1:1\"\n[[route]]\nservice = \"a\"";
        let config = config::Config::parse(text, std::path::Path::new(".")).unwrap();
        match &config.registries["consul"].kind {
            config::RegistryKind::Consul(settings) => settings.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_question_that_is_dropped_loses_nothing_of_what_is_known() {
        let mut cursor = Cursor::new(
            Arc::new(Client::new("main", &unreachable_agent()).unwrap()),
            Question::new("service `a`".to_owned(), &["a"], []),
            Slots::new(1).join(None),
            |_: &Answer| Ok(()),
        );
        let asked = Instant::now();
        cursor.known = Some(Known { index: None, asked });
        assert!(cursor.next().now_or_never().is_none());
        assert!(cursor.known.is_some_and(|known| known.asked == asked));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_in_turn_is_not_read_faster_where_an_agent_is_in_trouble() {
        let slots = Slots::new(1);
        let other = slots.join(None);
        let slot = other.claim();
        let mut cursor = Cursor::new(
            Arc::new(Client::new("main", &unreachable_agent()).unwrap()),
            Question::new("service `a`".to_owned(), &["a"], []),
            slots.join(Some(Arc::default())),
            |_: &Answer| Ok(()),
        );
        assert!(
            cursor.next().await.is_err(),
            "the first read waits for none"
        );
        cursor.known = Some(Known {
            index: None,
            asked: Instant::now(),
        });
        for _ in 0..3 {
            let asked = Instant::now();
            assert!(cursor.next().await.is_err());
            assert!(asked.elapsed() >= Duration::from_secs(10));
        }
        drop(slot);
        let asked = Instant::now();
        assert!(cursor.next().await.is_err());
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "with a slot it goes by the watcher's pace"
        );
    }
}
