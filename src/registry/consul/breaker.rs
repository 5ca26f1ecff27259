//! What one question has learnt, and all others of the registry heed: that the agents ask to be left
//! alone, that none of them answers, that the token is unknown. Without it each of a thousand
//! watchers would find out by itself, again and again. Knows nothing of what is asked.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::{fault::Failed, token::Bearer};

/// An unknown token is tried again, whether it is known now, by one question in this time.
pub(super) const DENIED: Duration = Duration::from_secs(15);

/// Agents that are away are tried by one question in this time.
const AWAY: Duration = Duration::from_millis(100);

/// What all questions heed.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rest: Option<Instant>,
    verdict: Option<Verdict>,
}

/// Why nothing need be asked for a while.
#[derive(Debug)]
struct Verdict {
    on: Subject,
    until: Instant,
    failed: Arc<[Failed]>,
}

/// What a verdict is on.
#[derive(Debug, PartialEq)]
pub(super) enum Subject {
    /// All agents.
    Agents,
    /// This token.
    Token(Bearer),
}

impl Breaker {
    /// Waits for as long as the registry is to be left alone.
    pub(super) async fn rested(&self) {
        loop {
            let rest = self.0.lock().rest;
            match rest.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }

    /// From now on no question is asked for so long.
    pub(super) fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.0.lock();
        state.rest = state.rest.max(Some(until));
    }

    /// Why there is no need to ask with this token. Where that was long enough ago there is one,
    /// and for the others it goes on being true until the answer is there.
    pub(super) fn verdict(&self, bearer: &Bearer) -> Option<Arc<[Failed]>> {
        let mut state = self.0.lock();
        let verdict = state.verdict.as_mut()?;
        let pause = match &verdict.on {
            Subject::Agents => AWAY,
            Subject::Token(token) if token == bearer => DENIED,
            Subject::Token(_) => return None,
        };
        let now = Instant::now();
        if verdict.until <= now {
            verdict.until = now + pause;
            return None;
        }
        Some(Arc::clone(&verdict.failed))
    }

    /// Lets the others know.
    pub(super) fn close(&self, on: Subject, failed: Arc<[Failed]>) {
        let pause = match on {
            Subject::Agents => AWAY,
            Subject::Token(_) => DENIED,
        };
        self.0.lock().verdict = Some(Verdict {
            until: Instant::now() + pause,
            on,
            failed,
        });
    }

    /// An agent has answered.
    pub(super) fn open(&self) {
        self.0.lock().verdict = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderValue;

    fn bearer(text: &'static str) -> Bearer {
        Some(HeaderValue::from_static(text))
    }

    fn nothing() -> Arc<[Failed]> {
        Arc::new([])
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_tries_again_when_the_time_is_over() {
        let gate = Breaker::default();
        assert!(gate.verdict(&None).is_none());
        gate.close(Subject::Token(bearer("a")), nothing());
        assert!(gate.verdict(&bearer("a")).is_some());
        assert!(
            gate.verdict(&bearer("b")).is_none(),
            "another token is another matter"
        );
        tokio::time::advance(DENIED).await;
        assert!(gate.verdict(&bearer("a")).is_none(), "one tries");
        assert!(gate.verdict(&bearer("a")).is_some(), "the others wait");
        gate.open();
        assert!(gate.verdict(&bearer("a")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_never_shortened() {
        let gate = Breaker::default();
        let start = Instant::now();
        gate.rested().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        gate.rest(Duration::from_secs(9));
        gate.rest(Duration::from_secs(2));
        gate.rested().await;
        assert!(start.elapsed() >= Duration::from_secs(9));
    }
}
