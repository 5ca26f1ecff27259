//! A proxy as `callboard run` makes it, in this process, with ports and a folder of its own; and
//! what a test asks of it. Gone when it is dropped.

use std::{net::SocketAddr, path::Path, thread::JoinHandle};

use callboard::{
    app::{App, Source, StartError},
    config::{Config, ListenAddress, Report},
};
use http::{Method, StatusCode, header::SET_COOKIE};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{backend::Backend, eventually};

/// Tables that are added to a configuration which does not have them. Relative paths are taken
/// from a folder of the proxy's own.
const TABLES: [(&str, &str); 5] = [
    ("[[route]]", TEMPLATE),
    ("[[listen]]", "[[listen]]\naddress = \"127.0.0.1:0\""),
    ("[admin]", "[admin]\naddress = \"127.0.0.1:0\""),
    (
        "[registry.",
        "[registry.embedded]\naddress = \"127.0.0.1:0\"",
    ),
    ("[drain]", "[drain]\nnotice = \"0s\"\ndeadline = \"1s\""),
];

/// Any service, by the path's first segment, which it does not see.
const TEMPLATE: &str = r#"
[[route]]
path = "/{service}"
service = "{service}"
strip_prefix = true
"#;

/// A proxy that runs on threads of its own. Dropped, it drains.
pub(crate) struct Proxy {
    addresses: Addresses,
    /// A client that follows nothing and knows no other proxy.
    pub(crate) http: reqwest::Client,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    /// Lives as long as the proxy does.
    folder: TempDir,
}

struct Addresses {
    listeners: Vec<ListenAddress>,
    admin: SocketAddr,
    registry: Option<SocketAddr>,
}

impl Proxy {
    /// One with this configuration; [`TABLES`] that it lacks are added.
    pub(crate) async fn start(text: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), text).await
    }

    /// The same, in a folder that may hold files already.
    pub(crate) async fn start_in(folder: TempDir, text: &str) -> Self {
        Self::start_after(folder, text, |_| ()).await
    }

    /// The same, where this is done once its file was read and before it serves.
    pub(crate) async fn start_after(folder: TempDir, text: &str, then: impl FnOnce(&Path)) -> Self {
        let file = folder.path().join(FILE);
        std::fs::write(&file, text).unwrap();
        let source = Source::new(file.clone(), |path| {
            read(&std::fs::read_to_string(path).unwrap(), path)
        });
        let config = source.read().unwrap_or_else(|report| panic!("{report}"));
        then(&file);
        let stop = CancellationToken::new();
        let (started, starts) = oneshot::channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || run(config, source, started, &stopped));
        let addresses = starts.await.unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        Self {
            addresses: addresses.unwrap_or_else(|error| panic!("the proxy: {error}")),
            http: http.build().unwrap(),
            stop,
            thread: Some(thread),
            folder,
        }
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes its configuration anew, which a reload then reads.
    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.folder().join(FILE), text).unwrap();
    }

    /// What a reload with this configuration answers.
    pub(crate) async fn reload(&self, text: &str) -> (StatusCode, Value) {
        self.write(text);
        self.ask_to_reload(json!({})).await
    }

    /// What a reload answers of which this is asked.
    pub(crate) async fn ask_to_reload(&self, body: Value) -> (StatusCode, Value) {
        let request = self.http.post(self.admin("/api/reload")).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Where its first listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// Where a listener is, by its place among the addresses of the file.
    pub(crate) fn address_of(&self, place: usize) -> SocketAddr {
        self.addresses.listeners[place].tcp().unwrap()
    }

    /// A URL of its first listener.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// A URL of its admin server.
    pub(crate) fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.admin)
    }

    /// A URL of its embedded registry.
    pub(crate) fn registry(&self, path: &str) -> String {
        let registry = self.addresses.registry.expect("a registry of its own");
        format!("http://{registry}{path}")
    }

    /// Gets a path of its first listener.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    /// Signs an instance in at the embedded registry, as `name@address`.
    pub(crate) async fn register(&self, name: &str, address: SocketAddr) {
        self.register_with(name, address, json!({})).await;
    }

    /// The same, with more fields in Consul's spelling.
    pub(crate) async fn register_with(&self, name: &str, address: SocketAddr, more: Value) {
        let mut service = json!({
            "ID": instance(name, address),
            "Name": name,
            "Address": address.ip(),
            "Port": address.port(),
        });
        if let (Value::Object(service), Value::Object(more)) = (&mut service, more) {
            service.extend(more);
        }
        self.tell("/v1/agent/service/register", service).await;
    }

    /// Signs it out.
    pub(crate) async fn deregister(&self, name: &str, address: SocketAddr) {
        let id = instance(name, address);
        let path = format!("/v1/agent/service/deregister/{id}");
        self.tell(&path, Value::Null).await;
    }

    /// Any other change of the embedded registry.
    pub(crate) async fn tell(&self, path: &str, body: Value) {
        let change = self.http.request(Method::PUT, self.registry(path));
        let answer = change.json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "PUT {path} {body}: {status} {text}");
    }

    /// Gets a page of its admin server.
    pub(crate) async fn page(&self, path: &str) -> reqwest::Response {
        self.http.get(self.admin(path)).send().await.unwrap()
    }

    /// What its admin server says of everything.
    pub(crate) async fn status(&self) -> Value {
        self.page("/api/status").await.json().await.unwrap()
    }

    /// What its admin server says of one service; null where it knows none.
    pub(crate) async fn service(&self, name: &str) -> Value {
        let answer = self.page(&format!("/api/services/{name}")).await;
        match answer.status() {
            StatusCode::OK => answer.json().await.unwrap(),
            _ => Value::Null,
        }
    }

    /// Waits until this is what it says of a service.
    pub(crate) async fn until_service(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        eventually(what, async || self.service(name).await, holds).await
    }

    /// Waits until it knows these endpoints of a service, with their states; in any order.
    pub(crate) async fn until_states(&self, name: &str, states: &[(SocketAddr, &str)]) {
        let what = format!("{name} is {states:?}");
        let are = |service: &Value| are(endpoints(service), states);
        self.until_service(name, &what, are).await;
    }

    /// Waits until it says that it may be sent traffic.
    pub(crate) async fn until_ready(&self) {
        let status = async || self.page("/ready").await.status().as_u16();
        eventually("the proxy is ready", status, |status| *status == 200).await;
    }

    /// Waits until a path of its first listener is answered with 200, and returns the body.
    pub(crate) async fn until_served(&self, path: &str) -> String {
        let what = format!("{path} is served");
        let answer = async || {
            let answer = self.get(path).await;
            (answer.status(), answer.text().await.unwrap())
        };
        eventually(&what, answer, |(status, _)| *status == 200)
            .await
            .1
    }

    /// Ends it as SIGTERM does, and returns when it is gone.
    pub(crate) async fn drain(mut self) {
        self.stop.cancel();
        let thread = self.thread.take().expect("nobody else takes it");
        tokio::task::spawn_blocking(|| thread.join().unwrap())
            .await
            .unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        // A test that fails already says why.
        if !std::thread::panicking() {
            ended.map_or(Ok(()), |ended| ended).unwrap();
        }
    }
}

/// The registry's id of an instance.
pub(crate) fn instance(name: &str, address: SocketAddr) -> String {
    format!("{name}@{address}")
}

/// The cookie that an answer sets, as a client sends it back.
pub(crate) fn set_cookie(answer: &reqwest::Response) -> Option<String> {
    let set = answer.headers().get(SET_COOKIE)?.to_str().unwrap();
    Some(set.split(';').next().unwrap().to_owned())
}

/// The endpoints of what `/api/services/…` says.
pub(crate) fn endpoints(service: &Value) -> impl Iterator<Item = &Value> {
    service["endpoints"].as_array().into_iter().flatten()
}

/// Whether endpoints are these, with these states, and no others; in any order.
pub(crate) fn are<'a>(
    endpoints: impl Iterator<Item = &'a Value>,
    states: &[(SocketAddr, &str)],
) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = endpoints.map(|one| (text(&one["address"]), text(&one["state"])));
    let wanted = states
        .iter()
        .map(|(address, state)| (address.to_string(), (*state).to_owned()));
    let [mut shown, mut wanted] = [shown.collect::<Vec<_>>(), wanted.collect()];
    shown.sort();
    wanted.sort();
    shown == wanted
}

/// Several with one state, as [`are`] takes them.
pub(crate) fn with_state<'a, 'b>(
    backends: impl IntoIterator<Item = &'a Backend>,
    state: &'b str,
) -> Vec<(SocketAddr, &'b str)> {
    let addresses = backends.into_iter().map(Backend::address);
    addresses.map(|address| (address, state)).collect()
}

/// Its configuration, as a test writes it.
const FILE: &str = "callboard.toml";

fn read(text: &str, file: &Path) -> Result<Config, Report> {
    let mut whole = text.to_owned();
    for (table, lines) in TABLES {
        if !text.contains(table) {
            whole += &format!("\n{lines}\n");
        }
    }
    Config::parse(&whole, file.parent().unwrap())
}

fn run(
    config: Config,
    source: Source,
    started: oneshot::Sender<Result<Addresses, StartError>>,
    stop: &CancellationToken,
) {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    control.block_on(async {
        let app = match App::start_of(config, Some(source)).await {
            Ok(app) => app,
            Err(error) => return drop(started.send(Err(error))),
        };
        let addresses = Addresses {
            listeners: app.listeners().to_vec(),
            admin: app.admin(),
            registry: app.registry(),
        };
        // A test that is gone already has cancelled `stop` too.
        drop(started.send(Ok(addresses)));
        stop.cancelled().await;
        app.drain().await;
    });
}
