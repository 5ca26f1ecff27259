//! The HTTP server of the control plane, which the admin server and the embedded registry share, and
//! whom it answers; and a client for what is asked of such servers.

pub(crate) mod access;
pub(crate) mod http_client;
pub(crate) mod server;
mod silent;
mod stream;
