//! The integration tests, one binary. Each module says in its first line what must hold.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

mod admin;
mod check;
mod combine;
mod consul;
mod consul_faults;
mod consul_routes;
mod demo;
mod docker;
mod embedded;
mod exit;
mod faults;
mod health;
mod http;
mod log;
mod provider;
mod run;
mod serving;
mod structure;
mod support;
