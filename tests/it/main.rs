//! The integration tests, one binary. Each module says in its first line what must hold.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

mod admin;
mod check;
mod consul;
mod consul_agents;
mod consul_datacenters;
mod consul_faults;
mod consul_scale;
mod demo;
mod embedded;
mod exit;
mod faults;
mod health;
mod http;
mod provider;
mod serving;
mod structure;
mod support;
