//! The HTTP server of the control plane, which the admin server and the embedded registry share, and
//! whom it answers.

pub(crate) mod access;
pub(crate) mod server;
mod silent;
mod stream;
