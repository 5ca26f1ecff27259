//! A tunnel's place among the connections in its listener's limits. The first of a connection has that one's own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::super::room::Extra;

/// The place that a connection has itself, which one of its tunnels may have as well.
#[derive(Default)]
pub(super) struct OwnPlace {
    is_taken: AtomicBool,
}

/// A tunnel's place, given back when it is dropped.
pub(super) enum TunnelPlace {
    /// The connection's own.
    Own(Arc<OwnPlace>),
    /// One more.
    More {
        /// Kept for as long.
        _extra: Extra,
    },
}

impl TunnelPlace {
    /// The connection's own, where no tunnel has it, or one more, if there is one.
    pub(super) fn take(own: &Arc<OwnPlace>, more: impl FnOnce() -> Option<Extra>) -> Option<Self> {
        if own.is_taken.swap(true, Relaxed) {
            return more().map(|extra| Self::More { _extra: extra });
        }
        Some(Self::Own(Arc::clone(own)))
    }
}

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        if let Self::Own(own) = self {
            own.is_taken.store(false, Relaxed);
        }
    }
}
