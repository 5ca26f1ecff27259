//! A file of endpoints that is replaced, half written, spoilt or gone: the backends are still there,
//! and so nobody notices.

use std::{fs, path::PathBuf, time::Instant};

use tempfile::TempDir;

use super::{FOUR, let_pass};
use crate::support::{
    backend::Backend,
    eventually,
    load::{Ledger, Load},
    proxy::Proxy,
};

/// Requests a second: enough to notice, and no more than a busy machine bears.
const RATE: u32 = 200;

/// A proxy that reads a file, and the backends that stand there.
struct Written {
    path: PathBuf,
    proxy: Proxy,
    ledger: Ledger,
    backends: Vec<Backend>,
}

impl Written {
    async fn start() -> Self {
        let ledger = Ledger::default();
        let mut backends = Vec::new();
        for id in FOUR {
            backends.push(ledger.backend(id).start().await);
        }
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("services.toml");
        fs::write(&path, text(&backends)).unwrap();
        let config = "[registry.file]\npath = \"services.toml\"\n";
        let proxy = Proxy::start_in(folder, config).await;
        proxy.until_served("/cart/x").await;
        Self {
            path,
            proxy,
            ledger,
            backends,
        }
    }

    async fn load(&self) -> Load {
        Load::start(self.proxy.address(), "/cart", RATE).await
    }

    /// One backend is replaced by another, by a new file in the old one's place.
    async fn replace_one(&mut self, id: &str) {
        let old = self.backends.remove(0);
        self.backends.push(self.ledger.backend(id).start().await);
        let beside = self.path.with_extension("new");
        fs::write(&beside, text(&self.backends)).unwrap();
        fs::rename(&beside, &self.path).unwrap();
        let since = Instant::now();
        let new = self.backends.last().unwrap();
        eventually("the new one serves", async || new.requests(), |n| *n > 0).await;
        let took = since.elapsed();
        println!("{id}: right after {took:.0?}");
        old.close().await;
    }

    async fn error(&self) -> String {
        let in_trouble = |service: &serde_json::Value| service["watches"][0]["error"].is_string();
        let service = self
            .proxy
            .until_service("cart", "an error", in_trouble)
            .await;
        service["watches"][0]["error"].as_str().unwrap().to_owned()
    }
}

fn text(backends: &[Backend]) -> String {
    let addresses: Vec<_> = backends
        .iter()
        .map(|backend| format!("  \"{}\",\n", backend.address()))
        .collect();
    format!("[cart]\nendpoints = [\n{}]\n", addresses.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_replaced_spoilt_removed_and_restored() {
    let mut written = Written::start().await;
    let load = written.load().await;
    written.replace_one("replaced").await;
    let whole = text(&written.backends);
    for (what, spoilt, says) in [
        ("truncated", &whole[..whole.len() / 2], "at line"),
        ("emptied", "", "it holds no service"),
        ("garbage", "\u{0}\u{1}{{{", "at line 1 column 3"),
    ] {
        fs::write(&written.path, spoilt).unwrap();
        let error = written.error().await;
        assert!(error.contains(says), "{what}: {error}");
        let_pass(600).await;
        written.replace_one(what).await;
    }
    fs::remove_file(&written.path).unwrap();
    let error = written.error().await;
    assert!(error.contains("there is no such file"), "{error}");
    let_pass(2_000).await;
    written.replace_one("removed").await;
    let report = load.stop(&written.ledger).await;
    report.assert_flawless_but_for_closes("a file replaced, spoilt, removed and restored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_written_piece_by_piece_takes_nobody_away() {
    let mut written = Written::start().await;
    let load = written.load().await;
    for round in 0..5 {
        let whole = text(&written.backends);
        fs::write(&written.path, "").unwrap();
        for end in (0..whole.len()).step_by(16) {
            fs::write(&written.path, &whole[..end]).unwrap();
            let_pass(25).await;
        }
        fs::write(&written.path, &whole).unwrap();
        written.replace_one(&format!("round {round}")).await;
    }
    let report = load.stop(&written.ledger).await;
    report.assert_flawless_but_for_closes("a file written piece by piece, five times");
}
