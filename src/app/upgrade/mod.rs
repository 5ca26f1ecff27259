//! A new binary in place of the one that runs, without a refused connection. This process starts what stands
//! at its own path, as it was started itself, and hands it all listening sockets: the very same, so that no
//! client is lost in the queue of one that closes. The new process reads its file and its registries; it
//! serves when it is ready, and this one drains then. Until it serves all may fail, and this one goes on.

mod channel;
mod follower;
mod offered;
mod origin;
mod packet;
mod parent;
mod program;
mod temporary;
mod upgrader;

pub(super) use offered::{ServerSockets, Sockets};
pub use origin::{Complaint, Origin};
pub(super) use parent::Parent;
pub(super) use upgrader::Upgrader;
