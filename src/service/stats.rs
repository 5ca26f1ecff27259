//! What one worker counts of one service.

use std::sync::OnceLock;

use http::StatusCode;
use tokio::time::Instant;

use super::{BalanceStats, Budget, Shed};
use crate::{
    config,
    grpc::Code,
    metrics::{Counter, Histogram, counted_apart},
};

/// One worker's part of a service: its counters and its share of the retry budget.
#[derive(Debug)]
pub struct ServiceStats {
    /// Requests that were routed to the service.
    pub requests: Counter,
    /// Answers, by the class of their status.
    pub answers: [Counter; StatusClass::COUNT],
    /// Attempts beyond a request's first.
    pub retries: Counter,
    /// Retries that the budget refused.
    pub budget_refused: Counter,
    /// Endpoints that were ejected.
    pub ejections: Counter,
    /// Endpoints that were doubted for their silence.
    pub silences: Counter,
    /// Requests that there was no room for, by the reason.
    pub shed: [Counter; Shed::ALL.len()],
    /// Requests answered by the proxy itself because no attempt brought an answer.
    pub failed: Counter,
    /// Requests that its fallback took over, since there was no endpoint to pick.
    pub fallbacks: Counter,
    /// Requests whose client was gone before its answer.
    pub abandoned: Counter,
    /// From a request's arrival to the head of its answer.
    pub duration: Histogram,
    /// Connections that went over to another protocol.
    pub tunnels: TunnelStats,
    /// Answers to calls of gRPC, by their status; where there was ever one.
    grpc: OnceLock<Box<[Counter; Code::COUNT]>>,
    /// What its picks count.
    pub tally: BalanceStats,
    /// Its share of the retries.
    pub budget: Budget,
}

impl ServiceStats {
    pub(super) fn new(retry: &config::Retry, workers: usize) -> Self {
        Self {
            requests: Counter::default(),
            answers: Default::default(),
            retries: Counter::default(),
            budget_refused: Counter::default(),
            ejections: Counter::default(),
            silences: Counter::default(),
            shed: Default::default(),
            failed: Counter::default(),
            fallbacks: Counter::default(),
            abandoned: Counter::default(),
            duration: Histogram::default(),
            tunnels: TunnelStats::default(),
            grpc: OnceLock::new(),
            tally: BalanceStats::default(),
            budget: Budget::new(retry, workers),
        }
    }

    /// A call of gRPC was answered so.
    pub fn add_call(&self, code: Code) {
        self.grpc.get_or_init(Box::default)[code.index()].add_one();
    }

    /// How many were answered so.
    pub fn calls(&self, code: Code) -> u64 {
        let calls = self.grpc.get();
        calls.map_or(0, |calls| calls[code.index()].value())
    }

    /// Takes a retry out of the budget, if one is left.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        let granted = self.budget.withdraw(self.requests.value(), now);
        if !granted {
            self.budget_refused.add_one();
        }
        granted
    }

    /// How many retries the budget would grant now.
    pub fn retries_left(&self, now: Instant) -> u64 {
        self.budget.left(self.requests.value(), now)
    }
}

/// What is counted of connections that have gone over to another protocol.
#[derive(Debug, Default)]
pub struct TunnelStats {
    /// Those that were opened.
    pub opened: Counter,
    /// Those that are open.
    pub open: Counter,
    /// Bytes that went from clients to endpoints.
    pub from_clients: Counter,
    /// Bytes that went from endpoints to clients.
    pub to_clients: Counter,
    /// Those that have ended, by what has ended them.
    pub ends: [Counter; TunnelEnd::ALL.len()],
}

counted_apart! {
    /// What has ended a tunnel.
    pub enum TunnelEnd {
        /// Its client has closed it first.
        Client = "client",
        /// Its endpoint has closed it first.
        Endpoint = "endpoint",
        /// Its client was gone without a word.
        ClientReset = "client_reset",
        /// Its endpoint was gone without a word.
        EndpointReset = "endpoint_reset",
        /// It was silent for too long.
        Idle = "idle",
        /// Its endpoint was removed, and the drain deadline has passed.
        Removed = "removed",
        /// The proxy ended.
        Drained = "drained",
    }
}

impl TunnelEnd {
    /// Its place among counters.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// The class of a status: its first digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusClass(usize);

impl StatusClass {
    /// How many classes there are.
    pub const COUNT: usize = 5;
    /// Their names, in the order of their indices.
    pub const NAMES: [&'static str; Self::COUNT] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

    /// The class of a status; what is above 599 counts as 5xx.
    pub fn of(status: StatusCode) -> Self {
        Self((usize::from(status.as_u16()) / 100).clamp(1, Self::COUNT) - 1)
    }

    /// Its place in [`ServiceStats::answers`].
    pub fn index(self) -> usize {
        self.0
    }
}
