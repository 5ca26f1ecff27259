//! How many bytes of a registry's answers are held at once. An answer of usual size is read as it
//! comes; of those that are larger there is one at a time, over all that is asked of the registry,
//! until it has been understood. So a registry that sends as much as it may to every watcher costs
//! the memory of one such answer, and not of a hundred. And an answer that stands still gives its
//! room up: it has a time for each step, however long its question may have waited for its head.
//! Knows nothing of what they say.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

/// What any answer may hold at any time: some 1,000 instances of Consul's.
const USUAL: usize = 1 << 20;

/// How long a body may stand still. Time in which it waits for its room is not the registry's, and does
/// not count.
const STALL: Duration = Duration::from_secs(10);

/// What must come in each [`STALL`] of a body that has the room: less than any link brings that a registry
/// could be read over. A trickle would keep the room from all others.
const STEP: usize = 64 << 10;

/// How long a body of usual size, which keeps no other from being read, may take in all.
const LONGEST: Duration = Duration::from_mins(5);

/// The rest of a body does not come.
#[derive(Debug, thiserror::Error)]
#[error("its body does not come on: nothing in {} s, or less than {} KiB of a large one", STALL.as_secs(), STEP >> 10)]
pub(crate) struct Stalled;

/// The room that one registry's answers have.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Room {
    /// For a body of which no more than so many bytes are read.
    pub(super) fn body(&self, limit: usize) -> Body {
        Body {
            room: Arc::clone(&self.0),
            limit,
            bytes: Vec::new(),
            large: None,
            begun: Instant::now(),
            left: STALL,
            next_step: 0,
        }
    }
}

/// An answer's body, which keeps its room for as long as it lives.
#[derive(Debug)]
pub(crate) struct Body {
    room: Arc<Semaphore>,
    limit: usize,
    bytes: Vec<u8>,
    large: Option<OwnedSemaphorePermit>,
    begun: Instant,
    /// What is left of the time for this step.
    left: Duration,
    /// With so many bytes it is done; with any, where the body has no room.
    next_step: usize,
}

impl Body {
    /// What comes next on the way from the registry, if it comes in time.
    pub(super) async fn next<P>(&mut self, coming: impl Future<Output = P>) -> Result<P, Stalled> {
        let asked = Instant::now();
        let limit = match self.large {
            Some(_) => self.left,
            None => LONGEST.saturating_sub(self.begun.elapsed()).min(self.left),
        };
        let piece = timeout(limit, coming).await.map_err(|_| Stalled)?;
        self.left = self.left.saturating_sub(asked.elapsed());
        Ok(piece)
    }

    /// Takes the next piece, when there is room for it. Returns whether it was within the limit.
    pub(super) async fn push(&mut self, piece: &[u8]) -> bool {
        let room = self.limit - self.bytes.len();
        let fits = piece.len() <= room;
        let piece = &piece[..piece.len().min(room)];
        if self.bytes.len() + piece.len() > USUAL && self.large.is_none() {
            let permit = Arc::clone(&self.room).acquire_owned().await;
            self.large = Some(permit.expect("it is never closed"));
        }
        self.bytes.extend_from_slice(piece);
        if self.bytes.len() >= self.next_step {
            let step = if self.large.is_some() { STEP } else { 1 };
            self.next_step = self.bytes.len() + step;
            self.left = STALL;
        }
        fits
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::FutureExt as _;
    use tokio::time::sleep;

    const LIMIT: usize = 3 * USUAL;

    #[test]
    fn of_answers_beyond_the_usual_there_is_one_at_a_time() {
        let room = Room::default();
        let [mut a, mut b, mut c] = [(); 3].map(|()| room.body(LIMIT));
        let piece = vec![0; USUAL];
        for body in [&mut a, &mut b, &mut c] {
            assert_eq!(body.push(&piece).now_or_never(), Some(true));
        }
        assert_eq!(a.push(&piece).now_or_never(), Some(true));
        for body in [&mut b, &mut c] {
            assert_eq!(body.push(b"x").now_or_never(), None, "it waits");
            assert_eq!(body.len(), USUAL, "and holds no more");
        }
        assert_eq!(a.push(&piece).now_or_never(), Some(true));
        assert_eq!(a.push(b"x").now_or_never(), Some(false), "the limit");
        assert_eq!(a.len(), LIMIT);
        drop(a);
        assert_eq!(b.push(b"x").now_or_never(), Some(true));
        assert_eq!(c.push(b"x").now_or_never(), None);
        drop(b);
        assert_eq!(c.push(b"x").now_or_never(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_step_by_step_has_all_the_time_that_it_needs() {
        let mut body = Room::default().body(LIMIT);
        let begun = Instant::now();
        for _ in 0..10 {
            for piece in [STEP / 2, STEP / 2] {
                body.next(sleep(STALL * 2 / 5)).await.unwrap();
                assert!(body.push(&vec![0; piece]).await);
            }
        }
        assert_eq!(begun.elapsed(), STALL * 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_that_trickles_stands_still_and_a_small_one_may_take_its_time() {
        let mut body = Room::default().body(LIMIT);
        let begun = Instant::now();
        while body.next(sleep(STALL / 10)).await.is_ok() {
            body.push(b"x").await;
        }
        assert!(begun.elapsed() <= LONGEST && begun.elapsed() > LONGEST - STALL);
        assert!(body.next(sleep(STALL / 10)).await.is_err(), "it is over");

        let mut body = Room::default().body(LIMIT);
        body.push(&vec![0; USUAL + 1]).await;
        let mut bytes = 0;
        while body.next(sleep(STALL / 10)).await.is_ok() {
            body.push(b"x").await;
            bytes += 1;
        }
        assert!((9..=10).contains(&bytes), "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_room_is_not_the_registrys() {
        let room = Room::default();
        let piece = vec![0; USUAL + 1];
        let mut first = room.body(LIMIT);
        assert!(first.push(&piece).await);
        let mut second = room.body(LIMIT);
        let later = async {
            sleep(STALL * 3).await;
            drop(first);
        };
        let waits = async {
            assert!(second.push(&piece).await);
            second.next(sleep(STALL / 2)).await
        };
        assert!(tokio::join!(later, waits).1.is_ok());
    }
}
