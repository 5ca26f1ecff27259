//! Keeps changes for a while and the last step of an upgrade apart: what is changed after an upgrade has looked for
//! such changes would end at once, and no client would hear of it. Knows nothing of either.

use parking_lot::{RwLock, RwLockReadGuard};

/// See the module.
#[derive(Debug, Default)]
pub struct ChangeLock(RwLock<bool>);

/// A change that is being made.
pub(super) struct Changing<'a>(#[expect(dead_code, reason = "held")] RwLockReadGuard<'a, bool>);

impl ChangeLock {
    /// Lets a change be made while what is returned lives; `None` where it would end at once. It must not wait
    /// for anything meanwhile.
    pub(super) fn begin(&self) -> Option<Changing<'_>> {
        let is_closed = self.0.read();
        (!*is_closed).then_some(Changing(is_closed))
    }

    /// Lets none be made any more. Those that are being made are made when this returns.
    pub(crate) fn close(&self) {
        *self.0.write() = true;
    }

    /// Lets changes be made again.
    pub(crate) fn open(&self) {
        *self.0.write() = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_has_begun_is_made_before_no_other_can_be() {
        let lock = ChangeLock::default();
        let change = lock.begin().unwrap();
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| lock.close());
            assert!(!closing.is_finished());
            drop(change);
            closing.join().unwrap();
        });
        assert!(lock.begin().is_none());
        lock.open();
        assert!(lock.begin().is_some());
    }
}
