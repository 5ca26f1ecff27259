//! A registry whose state is another process's until that lends it. Knows nothing of how it is asked.

use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use tokio::sync::oneshot;

use super::{
    Server, StartError, api::Context, journal::Journal, journal::OpenError, listen, open, unusable,
};
use crate::config;

/// What opens the state of a registry that is another process's until then.
#[derive(Debug)]
pub(crate) struct Awaited {
    folder: PathBuf,
    context: Arc<Context>,
    opened: oneshot::Sender<()>,
}

/// A registry that has its state, and does not serve yet. Dropped, it never does.
#[derive(Debug)]
pub(crate) struct Opened(oneshot::Sender<()>);

impl Awaited {
    /// Opens it, once that process has let go of it.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub(crate) async fn open(self) -> Result<Opened, StartError> {
        let (journal, state) = open(&self.folder, Some(self.context.node.id())).await?;
        self.context.store.reopen(journal, state);
        Ok(Opened(self.opened))
    }
}

impl Opened {
    /// Has it serve.
    pub(crate) fn begin(self) {
        // A server that is gone needs no word.
        let _ = self.0.send(());
    }
}

impl Server {
    /// The same beside a process that may have the state until [`Awaited::open`], at its socket where there is
    /// one. Clients are not served before, also where the folder holds nothing: the socket is that process's
    /// still. Its readers have what there was in the folder at this moment.
    ///
    /// # Errors
    /// As for [`Self::bind`].
    pub(crate) async fn beside(
        socket: Option<OwnedFd>,
        config: &config::Embedded,
    ) -> Result<(Self, Awaited), StartError> {
        let listener = match socket {
            Some(socket) => socket.into(),
            None => listen(config.address).await?,
        };
        let folder = config.data.clone();
        let looked = tokio::task::spawn_blocking(move || Journal::look(&folder)).await;
        let looked = looked.unwrap_or_else(|error| Err(OpenError::Io(io::Error::other(error))));
        let found = looked.map_err(|error| unusable(&config.data, error))?;
        let mut server = Self::at(listener, config, found)?;
        let (opened, until) = oneshot::channel();
        server.opened = Some(until);
        let awaited = Awaited {
            folder: config.data.clone(),
            context: Arc::clone(&server.context),
            opened,
        };
        Ok((server, awaited))
    }
}
