//! What h2spec asks of a server (RFC 7540 and RFC 7541, case by case) holds, in the clear and over TLS.

use std::process::Stdio;

use http_body_util::BodyExt as _;
use tokio::process::Command;

use super::before;
use crate::support::{backend::Backend, server};

/// Over TLS.
const ALL: &str = "146 tests, 146 passed, 0 skipped, 0 failed";

/// In the clear one case cannot be: a client that begins with anything but the preface speaks HTTP/1.1, and is
/// answered so before its connection ends.
const BUT_ONE: &str = "146 tests, 145 passed, 0 skipped, 1 failed";
const ONE: &str = "\u{d7} 2: Sends invalid connection preface";

#[tokio::test]
async fn all_cases_of_h2spec_pass() {
    let Some(h2spec) = server::binary("h2spec") else {
        return;
    };
    // Long enough for the cases of flow control; and no request is answered that is not whole.
    let backend = Backend::named("a").answering(|request| async {
        let _ = request.into_body().collect().await;
        "a".repeat(1000)
    });
    let backend = backend.start().await;
    let proxy = before(backend.address(), "").await;
    for (place, more, expected) in [(0, &[][..], BUT_ONE), (1, &["-t", "-k"], ALL)] {
        let mut command = Command::new(&h2spec);
        let port = proxy.address_of(place).port().to_string();
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-P",
            "/cart",
            "-o",
            "20",
            "-S",
        ]);
        let output = command.args(more).stdin(Stdio::null()).output();
        let output = output.await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let summary = said.lines().rev().find(|line| line.contains(" tests, "));
        assert_eq!(summary, Some(expected), "{said}");
        assert!(place == 1 || said.contains(ONE), "{said}");
    }
}
