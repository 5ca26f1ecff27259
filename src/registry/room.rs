//! How many bytes of a registry's answers are held at once. An answer of usual size is read as it
//! comes; of those that are larger there is one at a time, over all that is asked of the registry,
//! until it has been understood. So a registry that sends as much as it may to every watcher costs
//! the memory of one such answer, and not of a hundred. Knows nothing of what they say.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What any answer may hold at any time: some 1,000 instances of Consul's.
const USUAL: usize = 1 << 20;

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
        }
    }
}

/// An answer's body, which keeps its room for as long as it lives.
#[derive(Debug)]
pub(super) struct Body {
    room: Arc<Semaphore>,
    limit: usize,
    bytes: Vec<u8>,
    large: Option<OwnedSemaphorePermit>,
}

impl Body {
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
}
