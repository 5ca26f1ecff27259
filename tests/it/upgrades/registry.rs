//! Behind a real Consul, a rolling deployment costs no tunnel anything before its endpoint's deadline.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::consul::Consul;

#[tokio::test]
async fn tunnels_go_on_through_a_rolling_deployment_and_new_ones_go_to_the_new() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(echoing().await);
    }
    let register = async |backend: &RawBackend| {
        let (port, id) = (backend.address().port(), backend.address().to_string());
        let service = json!({"ID": id, "Name": "cart", "Address": "127.0.0.1", "Port": port});
        consul.register(service).await;
    };
    for backend in &running {
        register(backend).await;
    }
    let config = format!(
        "workers = 2\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [registry.consul]\naddress = \"{}\"\n[service.cart]\ndrain = \"3s\"\n",
        consul.url()
    );
    let proxy = Proxy::start(&config).await;
    let serving = |backends: &[RawBackend]| -> Vec<_> {
        backends
            .iter()
            .map(|backend| (backend.address(), "serving"))
            .collect()
    };
    let three = |service: &Value| {
        service["endpoints"]
            .as_array()
            .is_some_and(|all| all.len() == 3)
    };
    proxy.until_service("cart", "three are known", three).await;
    let mut tunnels = Vec::new();
    for _ in 0..12 {
        tunnels.push(opened(&proxy).await);
    }
    let mut retired = Vec::new();
    for backend in &mut running {
        let new = echoing().await;
        register(&new).await;
        let old = std::mem::replace(backend, new);
        let address = backend.address().to_string();
        let is_there = |service: &Value| {
            let mut all = service["endpoints"].as_array().unwrap().iter();
            all.any(|endpoint| endpoint["address"] == address)
        };
        proxy
            .until_service("cart", "the new one is there", is_there)
            .await;
        consul.deregister(&old.address().to_string()).await;
        let address = old.address().to_string();
        let is_leaving = |service: &Value| {
            let mut all = service["endpoints"].as_array().unwrap().iter();
            all.all(|endpoint| endpoint["address"] != address || endpoint["state"] == "draining")
        };
        proxy
            .until_service("cart", "the old one leaves", is_leaving)
            .await;
        // It serves what it has until its deadline, and is not ended before.
        retired.push(old);
        tunnels.push(opened(&proxy).await);
    }
    let new: usize = running.iter().map(RawBackend::connections).sum();
    assert!(new >= 1, "new tunnels go to the new endpoints: {new}");
    // Each old one is told at its deadline; those that lead to new ones go on.
    until_ended(&proxy, "removed", 15 - new as u64).await;
    proxy.until_states("cart", &serving(&running)).await;
    let mut told = 0;
    for mut tunnel in tunnels {
        tunnel.send("hello").await;
        match tokio::time::timeout(Duration::from_secs(5), tunnel.some())
            .await
            .unwrap()
        {
            Ok(bytes) if bytes == b"hello" => {}
            Ok(bytes) => {
                assert_eq!(bytes, GOING_AWAY);
                told += 1;
            }
            Err(error) => panic!("without a word: {error}"),
        }
    }
    assert_eq!(told, 15 - new);
    assert_eq!(ended(&proxy, "endpoint_reset").await, 0);
    drop(retired);
}
