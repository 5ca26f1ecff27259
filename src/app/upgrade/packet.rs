//! What the two processes of an upgrade say. Another version may have more to say: a packet that is not
//! understood is an error, and ends the upgrade.

use serde::{Deserialize, Serialize};

/// What the process before says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Offer {
    /// A socket of a listener, with its descriptor. A listener has one for each worker.
    Listener {
        /// The listener's place in that process.
        place: usize,
        /// Its address in the file.
        wanted: String,
        /// Where it listens.
        address: String,
        /// Which file a unix socket has.
        file: Option<(u64, u64)>,
        /// Whether a supervisor holds it, too.
        is_kept: bool,
    },
    /// The channel of a process before, which is open at its other end until that process is gone.
    Before,
    /// The admin server's socket, and its address in the file.
    Admin(String),
    /// The embedded registry's socket, and its address in the file.
    Registry(String),
    /// A file with the last good sets.
    Sets,
    /// Standard input, in whose place the channel is.
    Input,
    /// How long the new process may wait for its registries, in milliseconds.
    ReadyTimeout(u64),
    /// That is all, in this version of what is said.
    All(u32),
    /// The state of the embedded registry is the new process's to open.
    State,
    /// Begin to serve.
    Go,
    /// The new process is to end. A channel that ends without this is the end of the process before: the new
    /// one serves.
    GivenUp,
    /// The clients are the new process's alone.
    Farewell,
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// Some of what it could not read.
    Missing(Vec<String>),
    /// It has read what it could.
    Ready {
        /// The places of the listeners whose sockets it has taken.
        listeners: Vec<usize>,
        /// Whether it goes on with the admin server's socket.
        admin: bool,
        /// Whether it has an embedded registry, which lacks its state.
        wants_state: bool,
    },
    /// It has opened that state.
    HasState,
    /// It serves.
    Serves,
    /// It cannot start.
    Fails(String),
}

/// The version of what is said.
pub(super) const VERSION: u32 = 4;
