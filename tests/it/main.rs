//! The integration tests, one binary. Each module says in its first line what must hold.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

mod check;
mod consul;
mod consul_faults;
mod embedded;
mod structure;
mod support;
mod demo;
mod provider;
