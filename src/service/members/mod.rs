//! What the registries' events make of a service's endpoints.

pub(crate) mod combine;
pub(crate) mod endpoint_set;
pub(crate) mod history;
pub(crate) mod inquiry;
pub(super) mod pin;
pub(crate) mod restore;
pub(crate) mod shrink_guard;
pub(super) mod standing;
