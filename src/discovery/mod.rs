//! What makes services and keeps them: the directory of all that there are, the factory that follows
//! a registry for each, catalogs and the routes that tags make, and the sets on disk. Requests only
//! look up what it has made.

mod directory;
mod factory;
mod persist;
mod reload;
mod tag_routes;
mod watched;

pub(crate) use directory::{Directory, Lookup};
pub(crate) use factory::StartError;
pub(crate) use persist::keep;
pub(crate) use tag_routes::{Quarantined, Tagged, TaggedRoute};
