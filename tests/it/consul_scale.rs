//! Two thousand services in one Consul cost a bounded number of connections, and a change of one
//! that is called is seen at once all the same.

use std::{
    collections::HashSet,
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    consul::Consul,
    eventually,
    server::{Process, free_ports},
};

const SERVICES: usize = 2_000;

/// The default of `max_watches`.
const WATCHES: usize = 100;

fn name(service: usize) -> String {
    format!("s{service:04}")
}

/// Registers an instance of each service, on a node that no agent looks after.
async fn register_all(consul: &Consul, backend: &Backend) {
    const AT_ONCE: usize = 20;
    let some = async |first: usize| {
        for service in (first..SERVICES).step_by(AT_ONCE) {
            let entry = entry(service, "a", backend);
            consul.put("/v1/catalog/register", entry).await;
        }
    };
    futures_util::future::join_all((0..AT_ONCE).map(some)).await;
}

fn entry(service: usize, id: &str, backend: &Backend) -> Value {
    let name = name(service);
    json!({
        "Node": "elsewhere", "Address": "127.0.0.1", "SkipNodeUpdate": id != "a",
        "Service": {
            "ID": format!("{name}-{id}"), "Service": name,
            "Address": backend.address().ip(), "Port": backend.address().port(),
        },
    })
}

/// The proxy as a process of its own, with a route to each service.
struct Proxy {
    process: Process,
    listener: u16,
    admin: u16,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Proxy {
    fn start(consul: &Consul) -> Self {
        let [listener, admin] = free_ports();
        let mut config = format!(
            "listen = [{{ address = \"127.0.0.1:{listener}\" }}]\n\
             admin.address = \"127.0.0.1:{admin}\"\n\
             [registry.consul]\naddress = \"{}\"\n\
             [drain]\nnotice = \"0s\"\n",
            consul.url()
        );
        for service in (0..SERVICES).map(name) {
            config += &format!("[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("proxy.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_callboard"));
        command.arg("run");
        Self {
            process: Process::start(command, folder.path()),
            listener,
            admin,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            _folder: folder,
        }
    }

    async fn page(&self, path: &str) -> Option<reqwest::Response> {
        let url = format!("http://127.0.0.1:{}{path}", self.admin);
        self.http.get(url).send().await.ok()
    }

    async fn until_ready(&self) {
        let ready = eventually(
            "ready",
            async || {
                let status = self.page("/ready").await?.text().await.ok()?;
                Some(status == "ready\n")
            },
            |ready| *ready == Some(true),
        );
        ready.await;
    }

    async fn call(&self, service: usize) {
        let url = format!("http://127.0.0.1:{}/{}", self.listener, name(service));
        let status = self.http.get(url).send().await.unwrap().status();
        assert_eq!(status, 200);
    }

    async fn endpoints(&self, service: usize) -> usize {
        let path = format!("/api/services/{}", name(service));
        let status: Value = self.page(&path).await.unwrap().json().await.unwrap();
        status["endpoints"].as_array().unwrap().len()
    }

    async fn watches(&self) -> Value {
        let status: Value = self
            .page("/api/status")
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        status["registries"][0]["watches"].clone()
    }

    /// Seconds of a core that the process has used.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = |at: usize| -> f64 { fields.split(' ').nth(at).unwrap().parse().unwrap() };
        // Its 14th and 15th: user and system time, in hundredths.
        (ticks(11) + ticks(12)) / 100.0
    }
}

/// Counts a process's connections to a port, again and again, and keeps the highest count.
struct Connections {
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    counting: Option<JoinHandle<()>>,
}

impl Connections {
    fn of(process: u32, port: u16) -> Self {
        let (most, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let counting = {
            let (most, stop) = (most.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    most.fetch_max(established(process, port), Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        };
        Self {
            most,
            stop,
            counting: Some(counting),
        }
    }

    fn most(&self) -> usize {
        self.most.load(Relaxed)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(counting) = self.counting.take() {
            drop(counting.join());
        }
    }
}

fn established(process: u32, port: u16) -> usize {
    // The list first: a descriptor that is gone by then is no connection.
    let list = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return 0;
    };
    let sockets: HashSet<_> = descriptors
        .filter_map(|descriptor| {
            let link = fs::read_link(descriptor.ok()?.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let remote = format!(":{port:04X}");
    let connections: HashSet<_> = list
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[2].ends_with(&remote) && fields[3] == "01")
        .map(|fields| fields[9].to_owned())
        .collect();
    // By their inodes: the system's list may name one twice where it changes while it is read.
    connections.intersection(&sockets).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_services_share_a_bounded_number_of_connections() {
    // An agent's own limit, of which the test needs some itself.
    let limits = json!({"limits": {"http_max_conns_per_client": 200}});
    let Some(consul) = Consul::start_with(limits).await else {
        return;
    };
    let [one, other] = [Backend::start("one").await, Backend::start("other").await];
    let began = Instant::now();
    register_all(&consul, &one).await;
    println!("{SERVICES} services registered in {:?}", began.elapsed());

    let began = Instant::now();
    let proxy = Proxy::start(&consul);
    let connections = Connections::of(proxy.process.id(), consul.port());
    proxy.until_ready().await;
    println!("all of them read in {:?}", began.elapsed());
    let watches = json!({"limit": WATCHES, "held": WATCHES, "in_turn": SERVICES - WATCHES});
    let status = eventually(
        "all watches are given away",
        async || proxy.watches().await,
        |status| *status == watches,
    );
    status.await;

    // Those at the end of the list were too late for a watch of their own.
    let called: Vec<_> = (SERVICES - 20..SERVICES).collect();
    for service in &called {
        proxy.call(*service).await;
    }
    let mut latencies = Vec::new();
    for service in called {
        let changed = Instant::now();
        consul
            .put("/v1/catalog/register", entry(service, "b", &other))
            .await;
        let registered = changed.elapsed();
        let seen = eventually(
            "the change is seen",
            async || proxy.endpoints(service).await,
            |endpoints| *endpoints == 2,
        );
        seen.await;
        latencies.push(changed.elapsed().saturating_sub(registered));
        proxy.call(service).await;
    }
    latencies.sort();
    println!(
        "a change of a called service is seen {:?} after Consul has it, {:?} at most",
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1]
    );

    let metrics = proxy.page("/metrics").await.unwrap().text().await.unwrap();
    for (state, count) in [("held", WATCHES), ("in_turn", SERVICES - WATCHES)] {
        let labels = format!("{{registry=\"consul\",state=\"{state}\"}}");
        let line = format!("callboard_registry_watches{labels} {count}");
        assert!(metrics.contains(&line), "{line}");
    }

    let (cpu, quiet) = (proxy.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let share = (proxy.cpu() - cpu) / quiet.elapsed().as_secs_f64();
    println!("while nothing changes: {:.2} % of a core", share * 100.0);

    let most = connections.most();
    println!("connections at most: {most}");
    assert!(
        (WATCHES..=WATCHES + 2).contains(&most),
        "{most} connections"
    );
    assert_eq!(proxy.watches().await, watches);
}
