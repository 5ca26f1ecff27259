//! What the registries said last, kept on disk, so that a proxy that starts while its registry is
//! away still knows whom to call. Knows nothing of services at work or of registries at work.

mod contents;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod store;

pub(crate) use contents::{Catalog, Contents, Set};
pub(crate) use store::{Found, Status, Store};
