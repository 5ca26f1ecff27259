//! What a process hands over to the one that is to take its place: what it listens on, by descriptors, and what
//! it knows. Knows nothing of when.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::task::spawn_blocking;

use super::{
    channel::Channel,
    packet::{Offer, VERSION},
};
use crate::{
    admin::UpgradeError,
    app::{listeners::Listeners, reload::identities},
    door::Sharing,
    embedded::Lender,
    listen::Duplicate,
    proxy::Shared,
};

/// Everything that this process listens on, by descriptors for a successor.
pub(in crate::app) struct Sockets {
    /// Those of the file, which a reload changes.
    pub(in crate::app) listeners: Arc<Listeners>,
    /// The others.
    pub(in crate::app) servers: ServerSockets,
}

/// What this process listens on beside its listeners, by descriptors for a successor.
#[derive(Debug, Default)]
pub(in crate::app) struct ServerSockets {
    /// The admin server's, its address in the file, and whether it is shared.
    pub(in crate::app) admin: Option<(String, OwnedFd, Sharing)>,
    /// The embedded registry's, its address in the file, and who lends its state.
    pub(in crate::app) registry: Option<(String, OwnedFd, Lender)>,
}

/// What one upgrade hands over of descriptors.
pub(super) struct Offered {
    pub(super) before: Vec<Arc<OwnedFd>>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) listeners: Vec<Arc<Duplicate>>,
}

impl Offered {
    /// Hands over all that the new process may need, which has so long to get ready.
    pub(super) async fn hand_over(
        &self,
        channel: &Channel,
        shared: &Arc<Shared>,
        within: Duration,
    ) -> Result<(), Option<UpgradeError>> {
        for process in &self.before {
            let sent = channel.send(&Offer::Before, Some(process.as_fd()));
            sent.await.map_err(left)?;
        }
        self.hand_over_sockets(channel).await.map_err(left)?;
        let shared = Arc::clone(shared);
        if let Ok(Ok(sets)) = spawn_blocking(move || sets(&shared)).await {
            let sent = channel.send(&Offer::Sets, Some(sets.as_fd()));
            sent.await.map_err(left)?;
        }
        let input = io::stdin();
        let sent = channel.send(&Offer::Input, Some(input.as_fd())).await;
        sent.map_err(left)?;
        let offer = Offer::ReadyTimeout(ready_timeout(within).as_millis() as u64);
        channel.send(&offer, None).await.map_err(left)?;
        channel.send(&Offer::All(VERSION), None).await.map_err(left)
    }

    /// Hands over all that is listened on.
    async fn hand_over_sockets(&self, channel: &Channel) -> io::Result<()> {
        for (place, listener) in self.listeners.iter().enumerate() {
            // A supervisor's has one queue, however many descriptors it has here.
            let queues = match listener.is_kept() {
                true => 1,
                false => listener.sockets.len(),
            };
            for socket in listener.sockets.iter().take(queues) {
                let offer = Offer::Listener {
                    place,
                    wanted: listener.wanted.to_string(),
                    address: listener.address.to_string(),
                    file: listener.file(),
                    is_kept: listener.is_kept(),
                };
                channel.send(&offer, Some(socket.as_fd())).await?;
            }
        }
        let ServerSockets { admin, registry } = &self.sockets.servers;
        if let Some((wanted, socket, _)) = admin {
            let offer = Offer::Admin(wanted.clone());
            channel.send(&offer, Some(socket.as_fd())).await?;
        }
        if let Some((wanted, socket, _)) = registry {
            let offer = Offer::Registry(wanted.clone());
            channel.send(&offer, Some(socket.as_fd())).await?;
        }
        Ok(())
    }
}

/// The last good sets, as they stand in a snapshot.
fn sets(shared: &Shared) -> io::Result<File> {
    let generation = shared.generation.load_full();
    let contents = generation.directory.to_save();
    let bytes = contents.write(&identities(&generation.config));
    let mut file = File::from(memfd_create("sets", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    Ok(file)
}

/// How long the new process may wait for its registries: what it could not read is to be known before its time
/// is over.
fn ready_timeout(within: Duration) -> Duration {
    const SPARE: Duration = Duration::from_secs(6);
    within - SPARE.min(within / 2)
}

/// A channel breaks where the other process is gone; what else keeps a packet from it is said.
pub(super) fn left(error: io::Error) -> Option<UpgradeError> {
    let is_gone = matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    );
    (!is_gone).then_some(UpgradeError::Untold(error))
}
