//! Real ZooKeeper servers of the test's own, gone when the test is, and go-kit's registrar.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use callboard::{
    config::{self, RegistryKind},
    instance::{Address, InstanceSet},
    register::{Check, Entry, Layout, Provider, Registrar, entry},
    registry::{Registry, zookeeper},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use zookeeper_client::{Acls, Client, CreateMode};

use super::{
    PATIENCE,
    server::{self, Process, free_ports},
    watched::{Watched, named},
};

/// A session that ends soon. The shortest that [`ZooKeeper`] grants is 1 s, twice its tick, in which
/// a busy machine may well say nothing.
pub(crate) const SESSION: Duration = Duration::from_secs(2);

const LOGGING: &str = r#"<configuration>
<appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>"#;

/// One server.
pub(crate) struct ZooKeeper {
    jars: PathBuf,
    /// Holds the configuration, the log and the data.
    folder: TempDir,
    port: u16,
    process: Option<Process>,
}

impl ZooKeeper {
    /// A server by itself; `None` (said on a line) where `tests/run` has found that ZooKeeper
    /// cannot be had on this machine.
    pub(crate) async fn start() -> Option<Self> {
        let [port] = free_ports();
        let mut server = Self::configured(port, "")?;
        server.run().await;
        Some(server)
    }

    /// Three servers that are one ensemble.
    pub(crate) async fn ensemble() -> Option<Vec<Self>> {
        let ports: [[u16; 3]; 3] = std::array::from_fn(|_| free_ports());
        let mut peers = "initLimit=10\nsyncLimit=5\n".to_owned();
        for (id, [_, peer, election]) in ports.iter().enumerate() {
            peers += &format!("server.{id}=127.0.0.1:{peer}:{election}\n");
        }
        let mut servers = Vec::new();
        for (id, [client, ..]) in ports.iter().enumerate() {
            let mut server = Self::configured(*client, &peers)?;
            let data = server.folder.path().join("data");
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("myid"), id.to_string()).unwrap();
            server.launch();
            servers.push(server);
        }
        for server in &mut servers {
            server.until_ready().await;
        }
        Some(servers)
    }

    fn configured(port: u16, more: &str) -> Option<Self> {
        let server = Self {
            jars: server::binary("zookeeper")?,
            folder: tempfile::tempdir().unwrap(),
            port,
            process: None,
        };
        let config = format!(
            "tickTime=500\ndataDir=data\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{more}"
        );
        let folder = server.folder.path();
        std::fs::write(folder.join("zoo.cfg"), config).unwrap();
        std::fs::write(folder.join("logback.xml"), LOGGING).unwrap();
        Some(server)
    }

    /// Where clients find it.
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Starts it, with the data that it has, and waits until it serves.
    pub(crate) async fn run(&mut self) {
        self.launch();
        self.until_ready().await;
    }

    fn launch(&mut self) {
        let mut command = Command::new("java");
        command
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            // What the kernel has survives the process; the disk is not waited for.
            .args([
                "-Dzookeeper.forceSync=no",
                "-Dlogback.configurationFile=logback.xml",
            ])
            .arg("-cp")
            .arg(self.jars.join("*"))
            .args([
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                "zoo.cfg",
            ]);
        self.process = Some(Process::start(command, self.folder.path()));
    }

    async fn until_ready(&mut self) {
        let process = self.process.as_mut().expect("it was launched");
        let ready = async {
            while !says(self.port, "srvr")
                .await
                .is_ok_and(|answer| answer.contains("Mode:"))
            {
                assert!(
                    !process.has_ended(),
                    "it ended:\n{}",
                    server::log(self.folder.path())
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ready = tokio::time::timeout(PATIENCE * 3, ready).await;
        assert!(ready.is_ok(), "ZooKeeper does not serve:\n{}", self.log());
    }

    /// kill -9; its data stays.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Takes its data away, where it does not run.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none(), "it runs");
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    /// Stops the process where it stands: its sockets stay open and say nothing.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    /// What it has logged since it was last started.
    fn log(&self) -> String {
        server::log(self.folder.path())
    }

    /// What it answers to one of its four-letter words.
    pub(crate) async fn says(&self, word: &str) -> std::io::Result<String> {
        says(self.port, word).await
    }

    /// One of its own figures, such as `zk_packets_received`.
    pub(crate) async fn figure(&self, name: &str) -> u64 {
        let all = self.says("mntr").await.unwrap();
        let line = all.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {all}"))
            .trim()
            .parse()
            .unwrap()
    }

    /// A client with a session of its own.
    pub(crate) async fn client(&self) -> Client {
        let connector = Client::connector().with_session_timeout(Duration::from_secs(10));
        connector
            .connect(&self.address().to_string())
            .await
            .unwrap()
    }
}

async fn says(port: u16, word: &str) -> std::io::Result<String> {
    let says = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    // A server that is asked while it starts may never close the connection.
    tokio::time::timeout(Duration::from_secs(1), says).await?
}

/// Makes a node that stays, and those above it.
pub(crate) async fn make(client: &Client, path: &str, data: &[u8]) {
    let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
    if let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
        client.mkdir(above, &persistent).await.unwrap();
    }
    client.create(path, data, &persistent).await.unwrap();
}

/// `[registry.main]` with nothing but addresses, and sessions that a busy machine does not lose.
pub(crate) fn settings(addresses: &[SocketAddr]) -> config::ZooKeeper {
    let address = |address: &SocketAddr| {
        Address::new(&address.ip().to_string(), address.port().into()).unwrap()
    };
    config::ZooKeeper {
        addresses: addresses.iter().map(address).collect(),
        chroot: String::new(),
        path: "/services".to_owned(),
        digest: None,
        session_timeout: SESSION * 2,
    }
}

/// That registry.
pub(crate) fn registry(settings: &config::ZooKeeper) -> zookeeper::ZooKeeper {
    zookeeper::ZooKeeper::new("main", settings)
}

/// A watcher of one of its services.
pub(crate) fn watch(settings: &config::ZooKeeper, service: &str) -> Watched<InstanceSet> {
    Watched::start(registry(settings).service(named(service)))
}

/// The addresses of a set, in its order.
pub(crate) fn addresses(set: &InstanceSet) -> Vec<String> {
    let addresses = set.instances.iter().map(|each| each.address.to_string());
    addresses.collect()
}

/// A provider of `cart` at this address.
pub(crate) fn provider(id: &str, address: SocketAddr, layout: Layout) -> Provider {
    Provider {
        service: "cart".to_owned(),
        id: id.to_owned(),
        address: Address::new(&address.ip().to_string(), address.port().into()).unwrap(),
        tls: false,
        tags: Vec::new(),
        meta: [("zone".to_owned(), "west".to_owned())].into(),
        weight: 1,
        check: Check::Ttl(SESSION),
        layout,
    }
}

/// That provider's entry.
pub(crate) fn entry_of(settings: &config::ZooKeeper, provider: Provider) -> Box<dyn Entry> {
    entry("main", &RegistryKind::ZooKeeper(settings.clone()), provider).unwrap()
}

/// That provider, signed in.
pub(crate) async fn sign_in(settings: &config::ZooKeeper, provider: Provider) -> Registrar {
    let registrar = Registrar::start(entry_of(settings, provider));
    registrar.registered().await;
    registrar
}
