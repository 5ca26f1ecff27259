//! A service's endpoints at one moment: what requests read, and events replace.

use std::sync::Arc;

use super::Endpoint;

/// A service's endpoints at one moment, in the order of their identities.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Those that may be picked.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Those that may not, and have not gone: their idle connections want looking after too.
    pub resting: Box<[Arc<Endpoint>]>,
}
