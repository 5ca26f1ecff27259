//! What a reload changes of the admin server while that runs: who is let in.

use std::{io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::live::Live;
use crate::{
    config::{self, Secret},
    control::access::Access,
};

/// Why the admin server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address cannot be had.
    #[error("the admin server cannot listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// Its token cannot be read, or is empty.
    #[error("the admin server's token: {0}")]
    Token(String),
}

/// An admin server that runs, for what changes it.
#[derive(Clone, Debug)]
pub struct Control {
    address: SocketAddr,
    gate: Arc<ArcSwap<Access>>,
    pub(super) live: Arc<Live>,
}

impl Control {
    pub(super) fn new(address: SocketAddr, gate: Arc<ArcSwap<Access>>, live: Arc<Live>) -> Self {
        Self {
            address,
            gate,
            live,
        }
    }

    /// Reads who is let in by these settings: the token's file is read anew.
    ///
    /// # Errors
    /// Where the token cannot be known.
    pub(crate) fn prepare(&self, config: &config::Admin) -> Result<Access, StartError> {
        gate(config, self.address)
    }

    /// Lets in by this from now on. Clients that watch by another token are let go of, and may come again.
    pub(crate) fn change(&self, next: Access) {
        let next = Arc::new(next);
        let before = self.gate.swap(Arc::clone(&next));
        if !next.has_token_of(&before) {
            self.live.let_go();
        }
    }
}

/// Who is let in by a server of this address.
pub(super) fn gate(config: &config::Admin, address: SocketAddr) -> Result<Access, StartError> {
    let token = config.token.as_ref().map(Secret::read).transpose();
    let token = token.map_err(StartError::Token)?;
    if token.as_ref().is_some_and(String::is_empty) {
        return Err(StartError::Token("it is empty".to_owned()));
    }
    Ok(Access::new(address, token).named(&config.hosts))
}
