//! What became of the PROXY headers that connections were to begin with.

use crate::{metrics::Counter, proxy_protocol::HeaderError};

/// What became of the headers that a worker waited for.
#[derive(Debug, Default)]
pub struct HeaderCounts {
    /// They named a client.
    pub proxied: Counter,
    /// They were of a connection of the proxy's own, or named no client.
    pub local: Counter,
    /// They were not waited for, since they came from a stranger.
    pub untrusted: Counter,
    missing: Counter,
    malformed: Counter,
    too_large: Counter,
    /// The connection ended before they were whole.
    pub closed: Counter,
    /// They were not whole in time.
    pub late: Counter,
}

impl HeaderCounts {
    /// Counts a header that cannot be read.
    pub(crate) fn refuse(&self, error: HeaderError) {
        match error {
            HeaderError::Missing => self.missing.add_one(),
            HeaderError::Malformed => self.malformed.add_one(),
            HeaderError::TooLarge => self.too_large.add_one(),
        }
    }

    /// Each with its name.
    pub(crate) fn each(&self) -> [(&'static str, &Counter); 8] {
        [
            ("proxied", &self.proxied),
            ("local", &self.local),
            ("untrusted", &self.untrusted),
            ("missing", &self.missing),
            ("malformed", &self.malformed),
            ("too_large", &self.too_large),
            ("closed", &self.closed),
            ("late", &self.late),
        ]
    }
}
