//! A pin ends with the proxy: the next one knows who was in the pinned set, and what the registries
//! said meanwhile, and is pinned to nothing.

use serde_json::{Value, json};

use super::{Stage, all_are, is_of_the_snapshot, let_pass, routes, sign_in, sign_out};
use crate::support::{backend::Backend, consul::Consul, eventually};

const PIN: &str = "/api/services/cart/pin";

impl Stage {
    async fn pin(&self, body: Value) {
        let request = self.http.post(format!("{}{PIN}", self.admin)).json(&body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(self.pinned().await, json!(["cart"]));
    }

    async fn unpin(&self) {
        let request = self.http.delete(format!("{}{PIN}", self.admin));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }

    async fn pinned(&self) -> Value {
        self.page("/api/status").await["pinned"].take()
    }

    async fn until_all(&self, backends: &[&Backend], state: &str) {
        let what = format!("all are {state}");
        let are = |service: &Value| all_are(service, backends, state);
        self.until_service("cart", &what, are).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_of_those_who_are_held_is_off_after_kill_9_and_all_are_called() {
    let Some(mut consul) = Consul::start().await else {
        return;
    };
    let stage = Stage::new(&routes(&consul));
    let mut backends = Vec::new();
    for id in ["a", "b", "c"] {
        let backend = stage.ledger.backend(id).start().await;
        sign_in(&consul, "cart", &backend).await;
        backends.push(backend);
    }
    let callboard = stage.run().await;
    stage.until_status("/cart/x", 200).await;
    let three: Vec<_> = backends.iter().collect();
    stage.until_all(&three, "serving").await;
    consul.restart_empty().await;
    stage.until_all(&three, "held").await;
    stage.pin(json!({})).await;
    // It is the set of this moment, and nobody's word for it is doubted any more.
    stage.until_all(&three, "serving").await;
    let new = stage.ledger.backend("new").start().await;
    sign_in(&consul, "cart", &new).await;
    let four = [&three[..], &[&new]].concat();
    stage.until_kept("cart", &four).await;
    stage.until_all(&three, "serving").await;
    assert_eq!(new.requests(), 0, "it is heard of, and not called");

    callboard.kill().await;
    consul.kill();
    let callboard = stage.run().await;
    stage.until_ready().await;
    assert_eq!(stage.pinned().await, json!([]));
    let load = stage.load("/cart").await;
    let asked = async || new.requests();
    eventually("the new one is called", asked, |asked| *asked > 20).await;
    let service = stage.page("/api/services/cart").await;
    assert!(is_of_the_snapshot(&service), "{service:#}");
    assert!(all_are(&service, &four, "serving"), "{service:#}");
    assert_eq!(service["pin"], Value::Null);

    // And what the registry says from now on is followed.
    consul.restart_empty().await;
    stage.until_all(&four, "held").await;
    for backend in &four[1..] {
        sign_in(&consul, "cart", backend).await;
    }
    sign_in(&consul, "cart", four[0]).await;
    stage.until_all(&four, "serving").await;
    let leaves = backends.remove(0);
    sign_out(&consul, "cart", &leaves).await;
    leaves.close().await;
    let left: Vec<_> = backends.iter().chain([&new]).collect();
    stage.until_all(&left, "serving").await;
    let_pass(300).await;
    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes("pinned while held, kill -9, Consul away, back empty");
    callboard.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_called_for_a_pin_is_known_after_kill_9_and_no_longer_once_it_is_off() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let tables = format!("{}[service.cart]\nguard = false\n", routes(&consul));
    let stage = Stage::new(&tables);
    let [a, b] = [
        stage.ledger.backend("a").start().await,
        stage.ledger.backend("b").start().await,
    ];
    for backend in [&a, &b] {
        sign_in(&consul, "cart", backend).await;
    }
    let callboard = stage.run().await;
    stage.until_kept("cart", &[&a, &b]).await;
    let path = "/api/services/cart/journal";
    let both = stage.page(path).await[0]["number"].clone();
    sign_out(&consul, "cart", &a).await;
    stage.until_kept("cart", &[&b]).await;

    stage.pin(json!({"set": both})).await;
    stage.until_kept("cart", &[&a, &b]).await;
    stage.unpin().await;
    stage.until_kept("cart", &[&b]).await;
    stage.pin(json!({"set": both})).await;
    stage.until_kept("cart", &[&a, &b]).await;

    callboard.kill().await;
    consul.pause();
    let callboard = stage.run().await;
    stage.until_ready().await;
    let load = stage.load("/cart").await;
    stage.until_all(&[&a, &b], "serving").await;
    assert_eq!(stage.pinned().await, json!([]));
    let before = a.requests();
    let asked = async || a.requests();
    eventually("it is called", asked, |asked| *asked > before + 20).await;
    // Its registry has had no such set for a while, and says so again.
    consul.resume();
    stage.until_all(&[&b], "serving").await;
    a.close().await;
    let_pass(300).await;
    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes("pinned to an earlier set, kill -9, Consul paused");
    callboard.kill().await;
}
