//! Connections that endpoints have not taken, and what a person could do about it: what those who call
//! them, who look into it and who show it have in common. Knows nothing of any of these.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Connections that a service's endpoints have not taken, and what a person could do about it.
#[derive(Debug, Default)]
pub(in crate::service) struct Refusals {
    told: Notify,
    hint: Mutex<Option<Arc<str>>>,
}

impl Refusals {
    /// An endpoint took no connection.
    pub(in crate::service) fn tell(&self) {
        self.told.notify_one();
    }

    /// Waits until an endpoint takes no connection; once for those that it did not hear of.
    pub(super) async fn next(&self) {
        self.told.notified().await;
    }

    /// Takes what a person could do now, and returns what it was before.
    pub(super) fn replace_hint(&self, hint: Option<Arc<str>>) -> Option<Arc<str>> {
        std::mem::replace(&mut *self.hint.lock(), hint)
    }

    /// What a person could do; `None` where nothing is known.
    pub(in crate::service) fn hint(&self) -> Option<Arc<str>> {
        self.hint.lock().clone()
    }
}
