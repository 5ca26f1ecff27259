//! The cases of gRPC's own interoperability tests, by its own client and server.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use futures_util::future::join_all;
use serde_json::Value;

use super::{before, register};
use crate::support::{
    grpc::{GrpcServer, client},
    proxy::{Proxy, endpoints},
};

/// All that need no more than a client and a server.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

/// Where a client calls, and by which authority it does so over TLS.
type Front = (SocketAddr, Option<PathBuf>);

/// A client's way in the clear, and that over TLS.
fn fronts(proxy: &Proxy) -> [Front; 2] {
    let ca = proxy.folder().join("ca.pem");
    [(proxy.address_of(0), None), (proxy.address_of(1), Some(ca))]
}

/// Runs one case; says what the client said where it failed.
async fn run(case: &str, (address, ca): &Front) -> Result<(), String> {
    let output = client(*address, ca.as_deref(), case).output();
    let output = output.await.unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{case}, over TLS: {}: {}",
            ca.is_some(),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Runs all cases at once.
async fn all(front: &Front) -> Vec<String> {
    let ran = join_all(CASES.map(|case| run(case, front))).await;
    ran.into_iter().filter_map(Result::err).collect()
}

#[tokio::test]
async fn all_cases_of_the_interoperability_tests_pass_in_the_clear_and_over_tls() {
    let Some(server) = GrpcServer::start() else {
        return;
    };
    let proxy = before(server.address(), "").await;
    for front in fronts(&proxy) {
        assert_eq!(all(&front).await, [""; 0]);
    }
    let unknown = run("no_such_case", &fronts(&proxy)[0]).await;
    assert!(unknown.is_err(), "a client that runs nothing says so");
}

/// Clients that call on and on, until the endpoints were replaced: with calls that may be sent again where they
/// were not processed, and with those that are too large to be kept for it.
async fn calling(front: &Front, replaced: &AtomicBool) {
    loop {
        let is_last = replaced.load(SeqCst);
        let soaks = (run("rpc_soak", front), run("small_rpc_soak", front));
        let (failed, large, small) = tokio::join!(all(front), soaks.0, soaks.1);
        assert_eq!(failed, [""; 0]);
        assert_eq!((large, small), (Ok(()), Ok(())));
        if is_last {
            return;
        }
    }
}

#[tokio::test]
async fn no_call_is_lost_while_its_endpoint_is_replaced() {
    let Some(mut server) = GrpcServer::start() else {
        return;
    };
    let proxy = before(server.address(), "").await;
    let replaced = AtomicBool::new(false);
    let replace = async {
        for leaves_first in [true, false, true, false] {
            until_busy(&proxy, server.address()).await;
            let next = GrpcServer::start().unwrap();
            register(&proxy, next.address()).await;
            until_busy(&proxy, next.address()).await;
            let states = [(next.address(), "serving")];
            let old = std::mem::replace(&mut server, next);
            let address = old.address();
            if leaves_first {
                proxy.deregister("calls", address).await;
                proxy.until_states("calls", &states).await;
                old.stop().await;
            } else {
                old.stop().await;
                proxy.deregister("calls", address).await;
                proxy.until_states("calls", &states).await;
            }
        }
        replaced.store(true, SeqCst);
    };
    let [clear, tls] = fronts(&proxy);
    tokio::join!(
        calling(&clear, &replaced),
        calling(&tls, &replaced),
        replace
    );
}

/// Waits until calls run at an endpoint.
async fn until_busy(proxy: &Proxy, endpoint: SocketAddr) {
    let address = endpoint.to_string();
    let is_busy = |calls: &Value| {
        let mut all = endpoints(calls);
        all.any(|one| one["address"] == *address && one["in_flight"].as_u64() > Some(0))
    };
    proxy
        .until_service("calls", "calls run there", is_busy)
        .await;
}
