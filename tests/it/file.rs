//! What somebody writes into a file is what a watcher publishes, at once, however it is written; what
//! cannot be read is an error that says why.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use callboard::{
    config::{self, FileFormat, RegistryKind},
    instance::{Address, InstanceSet},
    register::{self, Check, Layout, Provider},
    registry::{BuildError, Registry, ServiceQuery, file::File},
};
use tempfile::TempDir;

use crate::support::{
    backend::Backend,
    proxy::Proxy,
    watched::{Watched, named},
};

struct Kept {
    folder: TempDir,
    registry: File,
}

impl Kept {
    fn new(text: Option<&str>) -> Self {
        let folder = TempDir::new().unwrap();
        let settings = config::File {
            path: folder.path().join("services.toml"),
            format: FileFormat::Toml,
        };
        let kept = Self {
            registry: File::new("main", &settings),
            folder,
        };
        if let Some(text) = text {
            kept.write(text);
        }
        kept
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("services.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn replace(&self, text: &str) {
        let beside = self.folder.path().join("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path()).unwrap();
    }

    fn watch(&self, name: &str) -> Watched<InstanceSet> {
        Watched::start(self.registry.service(named(name)))
    }
}

fn one(address: &str) -> String {
    format!("[cart]\nendpoints = [\"{address}\"]\n")
}

fn addresses(set: &InstanceSet) -> Vec<String> {
    let addresses = set.instances.iter().map(|one| one.address.to_string());
    addresses.collect()
}

#[tokio::test]
async fn a_set_follows_the_file_however_it_is_written() {
    let kept = Kept::new(Some(&one("a:1")));
    let cart = kept.watch("cart");
    cart.until("read", |set| addresses(set) == ["a:1"]).await;
    // The same length each time: only its times, or its inode, tell.
    for (i, replaced) in [false, true].into_iter().cycle().take(12).enumerate() {
        let text = one(&format!("b:{}", 10 + i));
        if replaced {
            kept.replace(&text)
        } else {
            kept.write(&text)
        };
        let wanted = [format!("b:{}", 10 + i)];
        cart.until("followed", |set| addresses(set) == wanted).await;
    }
    kept.write("[hat]\nendpoints = [\"c:1\"]\n");
    cart.until("no longer there", |set| set.instances.is_empty())
        .await;
    assert_eq!(cart.status().failures, 0);
}

#[tokio::test]
async fn a_link_that_is_turned_is_followed() {
    // As Kubernetes mounts its ConfigMaps.
    let kept = Kept::new(None);
    for (version, text) in [("v1", one("a:1")), ("v2", one("a:2"))] {
        fs::create_dir(kept.folder.path().join(version)).unwrap();
        fs::write(kept.folder.path().join(version).join("services.toml"), text).unwrap();
    }
    let turn = |to: &str| {
        let link = kept.folder.path().join("link");
        std::os::unix::fs::symlink(to, &link).unwrap();
        fs::rename(link, kept.folder.path().join("data")).unwrap();
    };
    turn("v1");
    std::os::unix::fs::symlink("data/services.toml", kept.path()).unwrap();
    let cart = kept.watch("cart");
    cart.until("v1", |set| addresses(set) == ["a:1"]).await;
    turn("v2");
    cart.until("v2", |set| addresses(set) == ["a:2"]).await;
}

#[tokio::test]
async fn what_cannot_be_read_says_why_and_the_last_set_stays() {
    let kept = Kept::new(Some(&one("a:1")));
    let cart = kept.watch("cart");
    cart.until("read", |set| addresses(set) == ["a:1"]).await;
    let file = kept.path().display().to_string();
    let spoil: [(&dyn Fn(), &str); 5] = [
        (&|| kept.write("[cart\n"), "at line 1 column 6"),
        (
            &|| kept.write(""),
            "it holds no service; one that has no endpoints is `[NAME]` with `endpoints = []`",
        ),
        (
            &|| fs::remove_file(kept.path()).unwrap(),
            "there is no such file",
        ),
        (&|| fs::create_dir(kept.path()).unwrap(), "it is no file"),
        (
            &|| {
                fs::remove_dir(kept.path()).unwrap();
                kept.write("[cart]\nendpionts = []\n");
            },
            "unknown field `endpionts`",
        ),
    ];
    for (spoil, says) in spoil {
        spoil();
        let holds = |error: &str| {
            error.starts_with(&format!(
                "main in {file} cannot be read for service `cart`: "
            )) && error.contains(says)
                && error.ends_with("; check registry.main.path")
        };
        cart.until_status(says, |status| status.error.as_deref().is_some_and(holds))
            .await;
    }
    assert_eq!(cart.published().len(), 1, "none of it was a set");
    kept.write(&one("a:2"));
    cart.until("mended", |set| addresses(set) == ["a:2"]).await;
    assert!(cart.status().healthy);
}

#[tokio::test]
async fn one_malformed_entry_or_service_costs_itself_only() {
    let kept = Kept::new(Some(
        "[cart]\nendpoints = [\"a:1\", \"nonsense\"]\n[hat]\nendpoints = 7\n[shop]\nendpoints = [\"b:1\"]\n",
    ));
    let cart = kept.watch("cart");
    let set = cart.until("read", |_| true).await;
    assert_eq!(addresses(&set), ["a:1"]);
    assert_eq!(set.skipped[0].id, "nonsense");
    assert_eq!(set.skipped[0].reason, "`nonsense` has no port");
    let shop = kept.watch("shop");
    shop.until("read", |set| addresses(set) == ["b:1"]).await;
    let error = kept.watch("hat").error().await;
    assert!(
        error.contains("for service `hat`: invalid type: integer `7`"),
        "{error}"
    );
}

#[tokio::test]
async fn the_catalog_and_tags_follow_too() {
    let kept = Kept::new(Some(&one("a:1")));
    let catalog = Watched::start(kept.registry.catalog().unwrap());
    catalog.until("cart", |names| names.len() == 1).await;
    let v2 = Watched::start(kept.registry.service(ServiceQuery {
        tags: vec!["v2".to_owned()],
        ..named("cart")
    }));
    v2.until("nobody", |set| set.instances.is_empty()).await;
    kept.write("[hat]\nendpoints = []\n[cart]\nendpoints = [\"a:1\", { address = \"a:2\", tags = [\"v2\"] }]\n");
    let names = catalog.until("hat too", |names| names.len() == 2).await;
    assert_eq!(names["cart"], ["v2"]);
    v2.until("one", |set| addresses(set) == ["a:2"]).await;
}

#[tokio::test]
async fn many_services_of_one_file_are_read_at_once() {
    let text: String = (0..500)
        .map(|i| format!("[s{i}]\nendpoints = [\"h:{}\"]\n", 1000 + i))
        .collect();
    let kept = Kept::new(Some(&text));
    let start = Instant::now();
    let all: Vec<_> = (0..500).map(|i| kept.watch(&format!("s{i}"))).collect();
    for (i, watched) in all.iter().enumerate() {
        let wanted = [format!("h:{}", 1000 + i)];
        watched.until("read", |set| addresses(set) == wanted).await;
    }
    let first = start.elapsed();
    assert!(
        first < Duration::from_secs(20),
        "in one look, not in 500: {first:?}"
    );
    kept.replace(&text.replace("h:", "i:"));
    for (i, watched) in all.iter().enumerate() {
        let wanted = [format!("i:{}", 1000 + i)];
        watched
            .until("changed", |set| addresses(set) == wanted)
            .await;
    }
    // Whoever looked for the others goes, and one of them looks on.
    let mut all = all;
    let last = all.pop().unwrap();
    drop(all);
    kept.replace(&text);
    last.until("changed", |set| addresses(set) == ["h:1499"])
        .await;
}

#[tokio::test]
async fn dropping_a_question_loses_nothing() {
    let kept = Kept::new(Some(&one("a:1")));
    let mut source = kept.registry.service(named("cart"));
    source.next().await.unwrap();
    kept.replace(&one("a:2"));
    for _ in 0..40 {
        let asked = tokio::time::timeout(Duration::from_millis(15), source.next()).await;
        if let Ok(set) = asked {
            assert_eq!(addresses(&set.unwrap()), ["a:2"]);
            return;
        }
    }
    assert_eq!(addresses(&source.next().await.unwrap()), ["a:2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_serves_what_a_json_file_lists_and_what_is_added_to_it() {
    let (hat, shoe) = (Backend::start("hat").await, Backend::start("shoe").await);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("services.json");
    let write = |path: &Path, names: &[(&str, &Backend)]| {
        let services: serde_json::Map<_, _> = names
            .iter()
            .map(|(name, backend)| {
                let address = backend.address().to_string();
                (
                    (*name).to_owned(),
                    serde_json::json!({"endpoints": [address]}),
                )
            })
            .collect();
        fs::write(path, serde_json::to_vec(&services).unwrap()).unwrap();
    };
    write(&path, &[("hat", &hat)]);
    let proxy = Proxy::start_in(folder, "[registry.file]\npath = \"services.json\"\n").await;
    assert_eq!(proxy.until_served("/hat/").await, "hat");
    assert_eq!(proxy.get("/shoe/").await.status(), 404);
    write(&path, &[("hat", &hat), ("shoe", &shoe)]);
    assert_eq!(proxy.until_served("/shoe/").await, "shoe");
}

#[test]
fn nobody_signs_in_at_a_file_or_at_the_dns() {
    let provider = Provider {
        service: "cart".to_owned(),
        id: "cart-1".to_owned(),
        address: Address::new("127.0.0.1", 80).unwrap(),
        tls: false,
        tags: Vec::new(),
        meta: [].into(),
        weight: 1,
        check: Check::Ttl(Duration::from_secs(10)),
        layout: Layout::default(),
    };
    let file = RegistryKind::File(config::File {
        path: "/etc/callboard/services.toml".into(),
        format: FileFormat::Toml,
    });
    let dns = RegistryKind::Dns(crate::support::dns::settings(&[]));
    for (kind, says) in [
        (
            file,
            "registry.main: nobody can sign in at a file; write the endpoint into /etc/callboard/services.toml, or sign in at another registry",
        ),
        (
            dns,
            "registry.main: nobody can sign in at the DNS; put the record into its zone, or sign in at another registry",
        ),
    ] {
        let refused = register::entry("main", &kind, provider.clone())
            .map(drop)
            .unwrap_err();
        assert!(matches!(refused, BuildError::Unsuited { .. }));
        assert_eq!(refused.to_string(), says);
    }
}
