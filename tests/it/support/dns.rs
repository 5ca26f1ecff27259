//! DNS servers of the test's own: a real one (Knot DNS) that serves the zone `example.test`, and
//! one that says what it is told to.

use std::{
    fs::File,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as Socket},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use callboard::{
    config::{self, DnsRecord, Resolvers},
    registry::dns::Dns,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    eventually,
    server::{self, Process, free_ports},
};

/// Starts are tried again where somebody takes a port in between.
const STARTS: usize = 5;

/// SRV of `_http._tcp.{service}.example.test`, from these resolvers.
pub(crate) fn settings(resolvers: &[SocketAddr]) -> config::Dns {
    config::Dns {
        resolvers: Resolvers::Listed(resolvers.to_vec()),
        query: "_http._tcp.{service}.example.test".to_owned(),
        record: DnsRecord::Srv,
        ttl: Duration::from_millis(100)..=Duration::from_secs(60),
        timeout: Duration::from_secs(2),
    }
}

/// The registry `main` with these settings.
pub(crate) fn registry(settings: &config::Dns) -> Dns {
    Dns::new("main", settings)
}

/// A Knot DNS that runs. `broken.test` is a zone that it cannot load.
pub(crate) struct Knot {
    binary: PathBuf,
    /// Holds the configuration, the zone and the log.
    folder: TempDir,
    port: u16,
    serial: u32,
    process: Option<Process>,
}

impl Knot {
    /// One with these records; `None` (said on a line) where `tests/run` has found that it cannot
    /// be had on this machine.
    pub(crate) async fn start(records: &str) -> Option<Self> {
        let mut knot = Self {
            binary: server::binary("dns")?.join("knotd"),
            folder: tempfile::tempdir().unwrap(),
            port: 0,
            serial: 0,
            process: None,
        };
        knot.write_zone(records);
        for _ in 0..STARTS {
            let [port] = free_ports();
            knot.port = port;
            knot.configure();
            if knot.run().await {
                return Some(knot);
            }
        }
        panic!("Knot does not start:\n{}", server::log(knot.folder.path()));
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it answers too, if this machine has IPv6.
    pub(crate) fn address_v6(&self) -> Option<SocketAddr> {
        has_ipv6().then(|| (Ipv6Addr::LOCALHOST, self.port).into())
    }

    /// From now on it has these records.
    pub(crate) fn holds(&mut self, records: &str) {
        self.write_zone(records);
        if let Some(process) = &self.process {
            process.reload();
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Kills it if it runs, and starts it again on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let runs = self.run().await;
        let folder = self.folder.path();
        assert!(runs, "Knot does not restart:\n{}", server::log(folder));
    }

    /// Stops the process where it stands: its sockets stay open and say nothing.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    fn write_zone(&mut self, records: &str) {
        self.serial += 1;
        let zone = format!(
            "$ORIGIN example.test.\n$TTL 1\n@ SOA ns hostmaster {} 3600 600 86400 1\n@ NS ns\n\
             ns A 127.0.0.1\n{records}\n",
            self.serial
        );
        let path = self.folder.path().join("zone");
        std::fs::write(&path, zone).unwrap();
        // Knot tells files apart by the second in which they changed.
        let changed = SystemTime::now() + Duration::from_secs(self.serial.into());
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(changed).unwrap();
    }

    fn configure(&self) {
        let (folder, port) = (self.folder.path().display(), self.port);
        let v6 = if has_ipv6() {
            format!(", ::1@{port}")
        } else {
            String::new()
        };
        let config = format!(
            "server:\n  rundir: \"{folder}\"\n  listen: [127.0.0.1@{port}{v6}]\n  \
             udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
             database:\n  storage: \"{folder}\"\n\
             log:\n- target: stderr\n  any: info\n\
             template:\n- id: default\n  storage: \"{folder}\"\n  journal-content: none\n  \
             zonefile-sync: -1\n  semantic-checks: off\n\
             zone:\n- domain: example.test\n  file: zone\n- domain: broken.test\n  file: none\n"
        );
        std::fs::write(self.folder.path().join("knot.conf"), config).unwrap();
    }

    /// Whether it came up; it has not where its port was taken.
    async fn run(&mut self) -> bool {
        let mut command = Command::new(&self.binary);
        command.args(["-c", "knot.conf"]);
        self.process = Some(Process::start(command, self.folder.path()));
        let address = self.address();
        let started = eventually(
            "Knot answers",
            async || {
                if self.process.as_mut().unwrap().has_ended() {
                    return Some(false);
                }
                has_loaded(address).await.then_some(true)
            },
            Option::is_some,
        );
        started.await == Some(true)
    }
}

fn has_ipv6() -> bool {
    Socket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Whether the zone's SOA is answered there.
async fn has_loaded(server: SocketAddr) -> bool {
    let mut question = Message::query();
    question.add_query(Query::query(name("example.test."), RecordType::SOA));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let exchange = async {
        socket.send_to(&question.to_vec().unwrap(), server).await?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await?;
        std::io::Result::Ok(Message::from_vec(&buffer[..length]).unwrap())
    };
    let answer = tokio::time::timeout(Duration::from_millis(200), exchange).await;
    matches!(answer, Ok(Ok(answer)) if !answer.answers.is_empty())
}

/// A server that says what it is told to, over UDP and TCP on one port.
pub(crate) struct FakeDns {
    address: SocketAddr,
    told: Arc<Told>,
    stop: CancellationToken,
}

struct Told {
    says: Mutex<Arc<Says>>,
    asked: Mutex<Vec<Asked>>,
}

type Says = dyn Fn(&Asked, Message) -> Say + Send + Sync;

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    pub(crate) tcp: bool,
    /// How long an answer it says it takes over UDP; `None` without EDNS.
    pub(crate) payload: Option<u16>,
    pub(crate) at: tokio::time::Instant,
}

/// What becomes of a question.
pub(crate) enum Say {
    Answer(Message),
    Bytes(Vec<u8>),
    Nothing,
}

impl FakeDns {
    /// One that answers as `says` does, which is given a message with the question already in it.
    pub(crate) async fn start(
        says: impl Fn(&Asked, Message) -> Say + Send + Sync + 'static,
    ) -> Self {
        let told = Arc::new(Told {
            says: Mutex::new(Arc::new(says)),
            asked: Mutex::default(),
        });
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = serve(Arc::clone(&told), udp, tcp);
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self {
            address,
            told,
            stop,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it answers like this.
    pub(crate) fn says(&self, says: impl Fn(&Asked, Message) -> Say + Send + Sync + 'static) {
        *self.told.says.lock().unwrap() = Arc::new(says);
    }

    /// All that it was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.told.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeDns {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(told: Arc<Told>, udp: UdpSocket, tcp: TcpListener) {
    let over_udp = async {
        let mut buffer = [0; 4096];
        loop {
            let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
            if let Some(answer) = told.answer(&buffer[..length], false) {
                udp.send_to(&answer, peer).await.unwrap();
            }
        }
    };
    let over_tcp = async {
        let seated = TaskTracker::new();
        loop {
            let (stream, _) = tcp.accept().await.unwrap();
            let told = Arc::clone(&told);
            seated.spawn(async move { told.over_tcp(stream).await });
        }
    };
    tokio::join!(over_udp, over_tcp);
}

impl Told {
    fn answer(&self, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(bytes).unwrap();
        let query = question.queries[0].clone();
        let asked = Asked {
            name: query.name.to_ascii(),
            kind: query.query_type,
            tcp,
            payload: question.edns.as_ref().map(|edns| edns.max_payload()),
            at: tokio::time::Instant::now(),
        };
        self.asked.lock().unwrap().push(asked.clone());
        let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_query(query);
        let says = Arc::clone(&self.says.lock().unwrap());
        match says(&asked, answer) {
            Say::Answer(answer) => Some(answer.to_vec().unwrap()),
            Say::Bytes(bytes) => Some(bytes),
            Say::Nothing => None,
        }
    }

    async fn over_tcp(&self, mut stream: TcpStream) {
        let Ok(length) = stream.read_u16().await else {
            return;
        };
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        if let Some(answer) = self.answer(&question, true) {
            let length = u16::try_from(answer.len()).unwrap();
            stream.write_u16(length).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A record.
pub(crate) fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

/// The data of an SRV record of the first priority.
pub(crate) fn srv(port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(1, 1, port, name(target)))
}

/// The data of an A record.
pub(crate) fn a(ip: &str) -> RData {
    RData::A(ip.parse::<Ipv4Addr>().unwrap().into())
}
