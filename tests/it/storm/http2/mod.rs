//! HTTP/2 in the storm: clients and endpoints that speak it, and what they do with a connection beside its
//! requests.

mod breach;
pub(super) mod client;
pub(super) mod endpoint;
mod malformed;
mod wire;

use fastrand::Rng;

pub(super) use self::{
    breach::Breach,
    malformed::Malformed,
    wire::{Cut, Manners},
};

/// What a client does with one connection.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// So many of its requests at once.
    pub(super) at_once: usize,
    /// How much of an answer it takes at first.
    pub(super) window: u32,
    /// When it takes as much as usual.
    pub(super) opens_after_ms: Option<u64>,
    /// Fields may be compressed by a table.
    pub(super) has_table: bool,
    /// It says this instead of all requests, where it speaks in the clear.
    pub(super) breach: Option<Breach>,
    pub(super) manners: Manners,
}

/// What an endpoint does with one connection.
#[derive(Clone, Debug)]
pub(super) struct Hosting {
    /// So many requests at once.
    pub(super) streams: u32,
    /// How much of a request it takes at first.
    pub(super) window: u32,
    /// When it takes as much as usual.
    pub(super) opens_after_ms: Option<u64>,
    /// Fields may be compressed by a table.
    pub(super) has_table: bool,
    pub(super) manners: Manners,
}

fn one_in(dice: &mut Rng, many: u32) -> bool {
    dice.u32(..many) == 0
}
