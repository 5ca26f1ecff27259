//! What must hold of what a service reads of a request, whatever stands there.

/// The cookies that balancers go by.
pub(crate) fn cookies(bytes: &[u8]) {
    super::balance::fuzzing::cookies(bytes);
}
