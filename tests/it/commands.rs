//! The commands that ask a running proxy say what its admin server knows, change what it can change, and
//! fail where it refuses.

use std::process::{Command, Output};

use callboard::config::Config;
use serde_json::{Value, json};

use crate::support::{
    backend::{Backend, by},
    proxy::Proxy,
};

fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn shells_the_manual_and_editors_are_told_of_every_command_and_key_that_is_shown() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = printed(&["completions", shell]);
        assert!(
            text.contains("explain") && text.contains("dry-run"),
            "{shell}"
        );
        assert!(!text.contains("One of the demo's"), "{shell}");
    }
    let page = printed(&["man"]);
    assert!(page.contains(".TH callboard 1"), "{page}");
    assert!(page.contains("callboard\\-explain"), "{page}");
    let page = printed(&["man", "explain"]);
    assert!(page.contains(".TH callboard-explain 1"), "{page}");
    assert!(page.contains("\\-\\-live"), "{page}");
    let schema: Value = serde_json::from_str(&printed(&["config", "--schema"])).unwrap();
    let key = &schema["properties"]["service"]["additionalProperties"]["properties"]["drain"];
    assert_eq!(key["default"], "30s");
    let defaults = printed(&["config", "--defaults"]);
    let read = Config::parse(&defaults, std::path::Path::new("/etc/callboard"));
    assert!(read.is_ok(), "{read:?}");
}

/// A command for this proxy.
async fn command(proxy: &Proxy, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
    let folder = proxy.folder().to_owned();
    command.args(arguments).current_dir(folder);
    command.args(["--admin", &proxy.admin("")]);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    run.await.unwrap()
}

async fn said(proxy: &Proxy, arguments: &[&str]) -> String {
    let output = command(proxy, arguments).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

async fn refused(proxy: &Proxy, arguments: &[&str]) -> String {
    let output = command(proxy, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn services_their_endpoints_and_their_changes_are_shown() {
    let backend = Backend::start("a").await;
    let proxy = Proxy::start("").await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/cart").await;
    let serving = [(backend.address(), "serving")];
    proxy.until_states("cart", &serving).await;

    proxy.until_ready().await;
    let screen = said(&proxy, &["status"]).await;
    assert!(screen.contains(": ready; "), "{screen}");
    assert!(screen.contains("\ncart     1 serving  "), "{screen}");
    let json = said(&proxy, &["status", "--format", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["services"][0]["name"], "cart");

    let all = said(&proxy, &["services"]).await;
    assert!(all.starts_with("service  endpoints  requests"), "{all}");
    assert!(all.contains("\ncart     1 serving  "), "{all}");
    let one = said(&proxy, &["services", "cart"]).await;
    let (address, id) = (backend.address().to_string(), "serving");
    assert!(one.contains(&address) && one.contains(id), "{one}");
    let json = said(&proxy, &["services", "cart", "--format", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["endpoints"][0]["address"], address);

    let journal = said(&proxy, &["journal", "cart"]).await;
    assert!(journal.contains(&format!("added {address}")), "{journal}");
    let json = said(&proxy, &["journal", "cart", "--format", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    let first = json.as_array().unwrap().last().unwrap();
    assert_eq!(first["changes"][0]["what"], "added");
    let of_all = said(&proxy, &["journal"]).await;
    assert!(
        of_all.contains(&format!("cart: added {address}")),
        "{of_all}"
    );
    let recent = said(&proxy, &["journal", "cart", "--since", "1h"]).await;
    assert_eq!(recent.lines().count(), journal.lines().count());
}

#[tokio::test]
async fn a_service_is_pinned_and_let_go() {
    let backend = Backend::start("a").await;
    let proxy = Proxy::start("").await;
    proxy.register("cart", backend.address()).await;
    proxy.until_served("/cart").await;
    let pinned = said(&proxy, &["pin", "cart", "--for", "2h"]).await;
    assert!(pinned.starts_with("pinned to set "), "{pinned}");
    assert!(pinned.ends_with(" for 2 h\n"), "{pinned}");
    let all = said(&proxy, &["services"]).await;
    assert!(all.contains("pinned to set"), "{all}");
    assert_eq!(said(&proxy, &["unpin", "cart"]).await, "no longer pinned\n");
    assert_eq!(proxy.service("cart").await["pin"], json!(null));
}

#[tokio::test]
async fn an_endpoint_is_drained_and_gets_requests_again() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::start("").await;
    for backend in [&a, &b] {
        proxy.register("cart", backend.address()).await;
    }
    let states = |of_a| [(a.address(), of_a), (b.address(), "serving")];
    proxy.until_served("/cart").await;
    proxy.until_states("cart", &states("serving")).await;
    let (first, last) = (a.address().to_string(), b.address().to_string());
    let drained = said(&proxy, &["drain", "cart", &first, "--for", "2h"]).await;
    assert_eq!(drained, format!("{first} is drained for 2 h\n"));
    proxy.until_states("cart", &states("maintenance")).await;
    let all = said(&proxy, &["services"]).await;
    assert!(
        all.contains("1 maintenance, 1 serving") && all.contains("1 drained"),
        "{all}"
    );
    let journal = said(&proxy, &["journal", "cart"]).await;
    assert!(
        journal.contains(&format!("{first} is drained")),
        "{journal}"
    );
    let reload = said(&proxy, &["reload", "--dry-run"]).await;
    assert!(
        reload.contains(&format!("= cart: {first} is drained for another 1h59m")),
        "{reload}"
    );
    let refused = refused(&proxy, &["drain", "cart", &last]).await;
    assert!(
        refused.contains("is the last endpoint that can be picked"),
        "{refused}"
    );
    let undrained = said(&proxy, &["undrain", "cart", &first]).await;
    assert_eq!(undrained, "no longer drained\n");
    proxy.until_states("cart", &states("serving")).await;
}

#[tokio::test]
async fn an_endpoint_has_another_weight_for_a_while() {
    let proxy = Proxy::start("workers = 1\n[defaults]\nbalance = \"weighted\"\n").await;
    let backends = [Backend::start("a").await, Backend::start("b").await];
    for backend in &backends {
        proxy.register("cart", backend.address()).await;
    }
    proxy.until_served("/cart").await;
    let serving = [&backends[0], &backends[1]].map(|one| (one.address(), "serving"));
    proxy.until_states("cart", &serving).await;
    let first = backends[0].address().to_string();
    let weighed = said(&proxy, &["weight", "cart", &first, "9", "--for", "2h"]).await;
    assert_eq!(weighed, format!("{first} has the weight 9 for 2 h\n"));
    let mut counts = [0, 0];
    for _ in 0..20 {
        let who = by(&proxy.get("/cart").await);
        counts[usize::from(who == "b")] += 1;
    }
    assert_eq!(counts, [18, 2]);
    let screen = said(&proxy, &["status"]).await;
    let says = format!("cart: {first} has the weight 9 for another ");
    assert!(screen.contains(&says), "{screen}");
    let journal = said(&proxy, &["journal", "cart"]).await;
    assert!(
        journal.contains(&format!("{first} has the weight 9 for a while")),
        "{journal}"
    );
    let reload = said(&proxy, &["reload", "--dry-run"]).await;
    assert!(
        reload.contains(&format!(
            "= cart: {first} has the weight 9 for another 1h59m"
        )),
        "{reload}"
    );
    let ended = said(&proxy, &["weight", "cart", &first, "--reset"]).await;
    assert_eq!(ended, "picked by its own weight again\n");
    let error = refused(&proxy, &["weight", "cart", &first, "0"]).await;
    assert!(error.contains("a weight is 1 to 65535"), "{error}");
}

#[tokio::test]
async fn the_shares_of_a_route_are_others_for_a_while() {
    let split = "split = [{ service = \"cart\", weight = 95 }, { service = \"hat\", weight = 5 }]";
    let proxy = Proxy::start(&format!("[[route]]\npath = \"/x\"\n{split}\n")).await;
    let said_now = said(&proxy, &["share", "/x", "hat=50", "--for", "2h"]).await;
    assert_eq!(said_now, "/x: cart=95 hat=50 for 2 h\n");
    let screen = said(&proxy, &["status"]).await;
    let says = "route /x: the shares are cart=95, hat=50 for another ";
    assert!(screen.contains(says), "{screen}");
    let again = said(&proxy, &["share", "hat", "--reset"]).await;
    assert_eq!(again, "/x: cart=95 hat=5 as the file has them\n");
    let error = refused(&proxy, &["share", "/x", "--reset"]).await;
    assert!(
        error.contains("its shares are those of the file"),
        "{error}"
    );
    let error = refused(&proxy, &["share", "/y", "hat=1"]).await;
    assert!(error.contains("no route `/y` has shares"), "{error}");
}

#[tokio::test]
async fn the_level_of_the_log_is_shown_and_left_where_others_write_it() {
    let proxy = Proxy::start("").await;
    assert_eq!(said(&proxy, &["log-level"]).await, "info\n");
    let reason = "this process does not write its log itself";
    let error = refused(&proxy, &["log-level", "debug", "--for", "1m"]).await;
    assert!(error.contains(reason), "{error}");
    let error = refused(&proxy, &["log-level", "--reset"]).await;
    assert!(error.contains("the log goes by `log.level`"), "{error}");
}

#[tokio::test]
async fn what_the_admin_server_refuses_is_said_and_is_a_failure() {
    let proxy = Proxy::start("").await;
    for (arguments, reason) in [
        (
            &["services", "hat"][..],
            "no route and no request has named a service `hat`",
        ),
        (&["journal", "a/b"], "has named a service `a/b`"),
        (&["unpin", "hat"], "has named a service `hat`"),
        (&["pin", "hat"], "has named a service `hat`"),
    ] {
        let error = refused(&proxy, arguments).await;
        assert!(error.contains(reason), "{error}");
    }
}
