//! The integration tests, one binary. Each module says in its first line what must hold.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

mod demo;
mod provider;
mod consul;
mod consul_faults;
mod structure;
mod support;
