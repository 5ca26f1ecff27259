//! `callboard check` says all that is wrong with a file at once, for people and for programs;
//! `callboard run` starts nothing with such a file.

#![allow(clippy::unwrap_used, reason = "a helper's failure fails its test")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{backend::Backend, consul::Consul, eureka::Eureka, eventually};

/// A mistake of every kind.
const WRONG: &str = r#"wrokers = 4

[[listen]]
address = ["0.0.0.0:8080", "localhost:8081"]
timeout = { header = "10", idle = 75 }

[admin]
address = "0.0.0.0:9900"

[registry.consul]
token = "b1gs0a9c"

[[route]]
path = "/cart/../admin"
servce = "cart"

[[route]]
	path = "/hat"; service = "hat"

[service."größe"]
retry = { attempts = 3, bugdet = {} }
"#;

const REPORT: &str = r#"error: unknown key `wrokers`; did you mean `workers`?
 --> proxy.toml:1:1
  |
1 | wrokers = 4
  | ^^^^^^^

error: `localhost:8081` is not an IP address with a port; did you mean "127.0.0.1:8081"?
 --> proxy.toml:4:28
  |
4 | address = ["0.0.0.0:8080", "localhost:8081"]
  |                            ^^^^^^^^^^^^^^^^

error: the duration `10` has no unit; write "10s" or "10ms"
 --> proxy.toml:5:13
  |
5 | timeout = { header = "10", idle = 75 }
  |             ^^^^^^

error: expected a duration with its unit, found the number 75; write `idle = "75s"`
 --> proxy.toml:5:28
  |
5 | timeout = { header = "10", idle = 75 }
  |                            ^^^^

error: the admin server on 0.0.0.0:9900 is open to strangers; add `token = { file = "…" }`, or listen on 127.0.0.1
 --> proxy.toml:8:1
  |
8 | address = "0.0.0.0:9900"
  | ^^^^^^^

error: a secret does not stand in this file; write `token = { file = "…" }` or `token = { env = "…" }`
  --> proxy.toml:11:1
   |
11 | token = **********
   | ^^^^^

error: `..` is not a segment of a path; requests with `/./` or `/../` are not routed
  --> proxy.toml:14:1
   |
14 | path = "/cart/../admin"
   | ^^^^

error: unknown key `servce`; did you mean `service`?
  --> proxy.toml:15:1
   |
15 | servce = "cart"
   | ^^^^^^

error: unexpected key or value, expected newline, `#`
  --> proxy.toml:18:15
   |
18 | 	path = "/hat"; service = "hat"
   | 	             ^

error: unknown key `bugdet`; did you mean `budget`?
  --> proxy.toml:21:25
   |
21 | retry = { attempts = 3, bugdet = {} }
   |                         ^^^^^^

proxy.toml: 10 errors
"#;

/// A folder with a proxy.toml of this text.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("proxy.toml"), text).unwrap();
        Self(folder)
    }

    fn callboard(&self, arguments: &[&str]) -> Output {
        callboard(self.0.path(), arguments)
    }
}

fn callboard(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_callboard"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn all_errors_are_reported_at_once_below_the_text_they_are_about() {
    let output = Folder::with(WRONG).callboard(&["check"]);
    assert_eq!(stderr(&output), REPORT);
    assert_eq!(stdout(&output), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_program_gets_one_json_object() {
    let output = Folder::with(WRONG).callboard(&["check", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
    let verdict: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(verdict["ok"], false);
    assert_eq!(
        verdict["errors"][2],
        json!({
            "file": "proxy.toml",
            "line": 5,
            "column": 13,
            "length": 6,
            "key": "listen.timeout.header",
            "message": "the duration `10` has no unit",
            "suggestion": "write \"10s\" or \"10ms\"",
        })
    );
    let lines: Vec<_> = verdict["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [1, 4, 5, 5, 8, 11, 14, 15, 18, 21]);
}

#[test]
fn a_right_file_is_summed_up_in_one_line() {
    let folder = Folder::with(
        "[registry.consul]\n[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n\
         [[route]]\npath = \"/cart\"\nservice = \"cart\"\n",
    );
    let output = folder.callboard(&["check"]);
    assert_eq!(
        stdout(&output),
        "proxy.toml: no errors; 2 routes, 1 service, 1 registry (consul)\n"
    );
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(0));

    let output = folder.callboard(&["check", "--format", "json"]);
    assert_eq!(stdout(&output), "{\"ok\":true,\"errors\":[]}\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn files_that_are_included_are_checked_and_explained_with_their_names() {
    let folder = Folder::with("include = \"conf.d/*.toml\"\n");
    let conf = folder.0.path().join("conf.d");
    std::fs::create_dir(&conf).unwrap();
    let cart = "[service.cart]\nendpoints = [\"127.0.0.1:1\"]\n[[route]]\nservice = \"cart\"\n";
    std::fs::write(conf.join("cart.toml"), cart).unwrap();
    let output = folder.callboard(&["check"]);
    assert_eq!(
        stdout(&output),
        "proxy.toml: no errors; 1 route, 1 service, no registry; with conf.d/cart.toml\n"
    );
    let output = folder.callboard(&["explain", "http://shop/"]);
    let said = stdout(&output);
    assert!(said.contains("(line 3 of conf.d/cart.toml)"), "{said}");

    std::fs::write(
        conf.join("hat.toml"),
        "[service.cart]\ndrain = \"${NONE_OF_IT}\"\n",
    )
    .unwrap();
    let output = folder.callboard(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: `service.cart` stands in conf.d/cart.toml:1, too; keep one of them\n \
         --> conf.d/hat.toml:1:10\n  |\n1 | [service.cart]\n  |          ^^^^\n\n\
         error: the environment variable NONE_OF_IT is not set; set it, or write \
         `${NONE_OF_IT:-default}`\n --> conf.d/hat.toml:2:9\n  |\n\
         2 | drain = \"${NONE_OF_IT}\"\n  |         ^^^^^^^^^^^^^^^\n\nproxy.toml: 2 errors\n"
    );
}

#[test]
fn the_file_that_comes_with_callboard_is_right() {
    let output = callboard(Path::new(env!("CARGO_MANIFEST_DIR")), &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn another_file_is_named_with_config() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("other.toml");
    std::fs::write(&path, "workers = 0\n").unwrap();
    let name = path.to_str().unwrap();
    let output = callboard(Path::new("/"), &["check", "--config", name]);
    assert!(
        stderr(&output).contains(&format!("--> {name}:1:1")),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_of_the_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let output = callboard(folder.path(), &["check", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_str(stdout(&output)).unwrap();
    let error = verdict["errors"][0].as_object().unwrap();
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("the file cannot be read: ")
    );
    assert!(!error.contains_key("line"));

    let output = Folder::with(b"workers = 1\n\xff\n").callboard(&["check"]);
    assert!(
        stderr(&output).contains("line 2 is not UTF-8"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn run_refuses_a_wrong_file_with_the_same_report() {
    let folder = Folder::with(WRONG);
    for arguments in [
        &[][..],
        &["run"],
        &["--config", "proxy.toml"],
        &["run", "--config", "proxy.toml"],
    ] {
        let output = folder.callboard(arguments);
        assert_eq!(stderr(&output), REPORT, "{arguments:?}");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let folder = Folder::with("");
    for arguments in [
        &["chekc"][..],
        &["check", "--format", "xml"],
        &["--config", "a", "check"],
    ] {
        assert_eq!(
            folder.callboard(arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    let output = folder.callboard(&["--version"]);
    assert_eq!(
        stdout(&output),
        concat!("callboard ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn it_is_stricter_than_run_unless_it_is_told_not_to_be() {
    let text = "[service.cart]\n[[route]]\nservice = \"catr\"\n\
        [registry.consul]\ntoken = { env = \"CALLBOARD_NOT_SET\" }\n";
    let folder = Folder::with(text);
    let output = folder.callboard(&["check", "proxy.toml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for part in [
        "nothing leads to `cart`",
        "did you mean \"cart\"?",
        "the environment variable CALLBOARD_NOT_SET is not set",
        "proxy.toml: 3 errors",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = folder.callboard(&["check", "--file-only"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn a_live_check_connects_to_an_endpoint_at_a_path() {
    let folder = Folder::with(
        "[registry.file]\npath = \"services.toml\"\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n",
    );
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("cart.sock");
    let list = format!("[cart]\nendpoints = [\"unix:{}\"]\n", path.display());
    std::fs::write(folder.0.path().join("services.toml"), list).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let well = live(folder, &[]).await;
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    assert!(listener.accept().is_ok());
}

async fn live(folder: Folder, arguments: &'static [&'static str]) -> Output {
    let asking = tokio::task::spawn_blocking(move || {
        folder.callboard(&[&["check", "--live"], arguments].concat())
    });
    asking.await.unwrap()
}

#[tokio::test]
async fn a_live_check_says_what_a_consul_lacks_and_nothing_where_all_is_there() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let backend = Backend::start("cart").await;
    let gone = Backend::start("gone").await;
    let address = gone.address();
    for (name, port) in [("cart", backend.address().port()), ("gone", address.port())] {
        let service = json!({"Name": name, "Address": "127.0.0.1", "Port": port});
        consul.register(service).await;
    }
    // Another entry for the same address.
    let twice =
        json!({"ID": "gone-2", "Name": "gone", "Address": "127.0.0.1", "Port": address.port()});
    consul.register(twice).await;
    gone.close().await;
    let file = |names: &[&str]| {
        let routes = names
            .iter()
            .map(|name| format!("[[route]]\npath = \"/{name}\"\nservice = \"{name}\"\n"));
        let registry = format!(
            "[registry.main]\nkind = \"consul\"\naddress = \"{}\"\n",
            consul.url()
        );
        Folder::with(registry + &routes.collect::<String>())
    };
    let well = live(file(&["cart"]), &[]).await;
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    let said = stdout(&well);
    assert!(said.contains("main      2         ok\n"), "{said}");
    assert!(
        said.contains("cart     1          1        1        ok\n"),
        "{said}"
    );

    let ill = live(file(&["cart", "gone", "hat"]), &[]).await;
    assert_eq!(ill.status.code(), Some(1), "{ill:?}");
    let said = stdout(&ill);
    assert!(
        said.contains("hat      0          0        0        it is not registered\n"),
        "{said}"
    );
    let refused = format!("gone     2          2        0        {address}: ");
    assert!(said.contains(&refused), "{said}");

    let ill = live(file(&["gone"]), &["--format", "json"]).await;
    assert_eq!(ill.status.code(), Some(1));
    let said: Value = serde_json::from_str(stdout(&ill)).unwrap();
    assert_eq!((&said["ok"], &said["errors"]), (&json!(false), &json!([])));
    assert_eq!(said["live"]["registries"][0]["services"], 2);
    let unreachable = &said["live"]["services"][0]["unreachable"];
    assert!(unreachable[address.to_string()].is_string(), "{said}");

    // Nobody is there any more.
    let folder = file(&["cart"]);
    drop(consul);
    let ill = live(folder, &[]).await;
    assert_eq!(ill.status.code(), Some(1));
    let said = stdout(&ill);
    assert!(said.contains("check registry.main.address"), "{said}");
}

#[tokio::test]
async fn a_live_check_says_that_an_instance_is_at_its_other_host_in_eureka() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    // It listens at the address of its name, and signs in with another.
    let backend = Backend::start("live").await;
    let port = backend.address().port();
    let there = json!({"ipAddr": "127.0.0.2"});
    eureka.register("LIVE", "live-1", port, there).await;
    let file = |more: &str| {
        Folder::with(format!(
            "[registry.main]\nkind = \"eureka\"\naddress = \"{}\"\n{more}\n\
             [[route]]\npath = \"/\"\nservice = \"live\"\n",
            eureka.url()
        ))
    };
    let by_name = "host = \"name\"";
    let found = async || {
        let well = live(file(by_name), &[]).await;
        well.status.code() == Some(0)
    };
    // Its answers come from a cache.
    eventually("it is listed, and reached by its name", found, |found| {
        *found
    })
    .await;
    let ill = live(file(""), &[]).await;
    assert_eq!(ill.status.code(), Some(1));
    let said = stdout(&ill);
    let hint = format!(
        "localhost:{port} takes a connection; if that is the same instance, write {by_name}"
    );
    assert!(said.contains(&hint), "{said}");
}

#[test]
fn it_says_what_a_reload_would_change() {
    let one = "[registry.consul]\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let folder = Folder::with(one);
    let check = |format: &str| {
        let arguments = ["check", "--diff", "old.toml", "--format", format];
        folder.callboard(&arguments)
    };
    std::fs::write(folder.0.path().join("old.toml"), one).unwrap();
    let same = check("text");
    assert!(stdout(&same).ends_with("\na reload would change nothing\n"));
    let old = one.replace("/cart", "/old") + "[service.cart]\ndrain = \"1s\"\n";
    std::fs::write(
        folder.0.path().join("old.toml"),
        format!("workers = 1000\n{old}"),
    )
    .unwrap();
    let text = check("text");
    let changes =
        "+ route /cart\n- route /old\n~ service cart\n! workers takes effect at the next start\n";
    assert!(stdout(&text).ends_with(changes), "{}", stdout(&text));
    let said: Value = serde_json::from_slice(&check("json").stdout).unwrap();
    assert_eq!(said["changes"]["removed"], json!(["route /old"]));
    std::fs::write(folder.0.path().join("old.toml"), "[[route]\n").unwrap();
    let failed = check("text");
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        stderr(&failed).contains("old.toml:1:"),
        "{}",
        stderr(&failed)
    );
}
