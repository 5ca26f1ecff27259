//! The integration tests, one binary. Each module says in its first line what must hold.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

mod access_log;
mod admin;
mod architecture;
mod balance;
mod binary_upgrade;
mod check;
mod checks;
mod client;
mod cold_start;
mod combine;
mod commands;
mod consul;
mod consul_agents;
mod consul_datacenters;
mod consul_faults;
mod consul_routes;
mod consul_scale;
mod demo;
mod dns;
mod dns_faults;
mod docker;
mod docs;
mod drains;
mod embedded;
mod etcd;
mod etcd_faults;
mod eureka;
mod eureka_faults;
mod exit;
mod explain;
mod faults;
mod field;
mod file;
mod good_order;
mod grpc;
mod health;
mod http;
mod http2;
mod http2_upstream;
mod https;
mod limits;
mod log;
mod memory;
mod page;
mod pages;
mod pairs;
mod pin;
mod production;
mod provider;
mod proxy_protocol;
mod rates;
mod recipes;
mod register;
mod register_everywhere;
mod reload;
mod reload_listeners;
mod routes;
mod run;
mod serving;
mod soak;
mod storm;
mod structure;
mod supervised;
mod support;
mod troubleshooting;
mod unix_sockets;
mod upgrades;
mod upstream_tls;
mod urlprefix;
mod zone;
mod zookeeper;
