//! An instance with which no handshake comes to an end any more. It is never asked anything, so
//! that no request fails, a POST no more than a GET; and it is ejected like one that is gone.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use axum::response::IntoResponse as _;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, copy_bidirectional},
    net::TcpStream,
};

use super::{SERVICE, Stage, ejection::endpoint, let_pass};
use crate::support::{
    authority::Authority,
    backend::Backend,
    eventually,
    load::{Ledger, Load, process},
    raw::{RawBackend, Wire},
    tls::{End, TlsBackend, VERSIONS, server},
};

/// Each doubt is twice as long as the one before: five failures would take a quarter of a minute.
/// What is kept from before is gone when the first of them is over. A handshake of a debug build
/// takes its time.
const TABLES: &str = "[defaults]\ntimeout = { connect = \"10s\" }\ntls = { ca = \"ca.pem\" }\n\
                      eject = { failures = 2, time = \"2s\" }\npool = { idle = \"800ms\" }\n";

/// Requests a second: after a moment without a processor each of them may be a handshake.
const RATE: u32 = 100;

/// How handshakes fail.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Its certificate is of an authority that nobody knows.
    Unknown,
    /// It closes when it was greeted.
    Closes,
}

/// A backend over TLS whose handshakes fail while it is told to. What is connected then ends with
/// its next answer.
struct Breaks {
    front: RawBackend,
    is_broken: Arc<AtomicBool>,
    backend: Backend,
    _sound: TlsBackend,
    _unknown: TlsBackend,
}

impl Breaks {
    async fn start(ledger: &Ledger, authority: &Authority, fault: Fault) -> Self {
        let is_broken = Arc::new(AtomicBool::new(false));
        let backend = Backend::named("breaks").answering({
            let (ledger, is_broken) = (ledger.clone(), Arc::clone(&is_broken));
            move |request| {
                let (ledger, is_broken) = (ledger.clone(), Arc::clone(&is_broken));
                async move {
                    let answer = process(request, |id| ledger.note(id)).await;
                    match is_broken.load(SeqCst) {
                        true => ([("connection", "close")], answer).into_response(),
                        false => answer.into_response(),
                    }
                }
            }
        });
        let backend = backend.start().await;
        let sound = behind(&backend, authority).await;
        let others = tempfile::tempdir().unwrap();
        let unknown = behind(&backend, &Authority::new(others.path())).await;
        let [to_sound, to_unknown] = [sound.address(), unknown.address()];
        let asked = Arc::clone(&is_broken);
        let front = RawBackend::serving(move |wire| {
            let fault = asked.load(SeqCst).then_some(fault);
            async move {
                match fault {
                    None => pass_on(wire, to_sound).await,
                    Some(Fault::Unknown) => pass_on(wire, to_unknown).await,
                    Some(Fault::Closes) => greeted(wire).await,
                }
            }
        });
        Self {
            front: front.await,
            is_broken,
            backend,
            _sound: sound,
            _unknown: unknown,
        }
    }
}

async fn behind(backend: &Backend, authority: &Authority) -> TlsBackend {
    let config = server(&authority.issue("cart"), &VERSIONS, None);
    TlsBackend::before(backend.address(), config, End::Said).await
}

async fn pass_on(mut wire: Wire, to: SocketAddr) {
    let mut to = TcpStream::connect(to).await.unwrap();
    to.set_nodelay(true).unwrap();
    // Whoever ends it is heard by the other.
    drop(copy_bidirectional(&mut wire.stream, &mut to).await);
}

/// Waits for the first bytes of a handshake.
async fn greeted(mut wire: Wire) {
    drop(wire.stream.read(&mut [0; 1024]).await);
}

async fn one_breaks(fault: Fault) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let stage = Stage::embedded_in(folder, TABLES).await;
    let https = async |address| {
        let scheme = json!({"Meta": {"scheme": "https"}});
        stage.sign_in_with(address, scheme).await;
    };
    let mut well = Vec::new();
    for id in ["a", "b", "c"] {
        let backend = stage.ledger.backend(id).start().await;
        let tls = behind(&backend, &authority).await;
        https(tls.address()).await;
        well.push((backend, tls));
    }
    let bad = Breaks::start(&stage.ledger, &authority, fault).await;
    https(bad.front.address()).await;
    stage.proxy.until_served("/cart/x").await;
    stage.until_state(bad.front.address(), "serving").await;
    let load = Load::start(stage.proxy.address(), "/cart", RATE).await;
    let asked = async || bad.backend.requests();
    eventually("it has its share", asked, |asked| *asked > 20).await;

    bad.is_broken.store(true, SeqCst);
    stage.until_left_alone(bad.front.address()).await;
    let connections = bad.front.connections();
    let requests = bad.backend.requests();
    stage
        .proxy
        .until_service(SERVICE, "it was tried in vain", |service| {
            endpoint(service, bad.front.address())["ejection"]["times"] == 2
        })
        .await;
    let_pass(300).await;
    let trials = async || {
        let tried = bad.front.connections() - connections;
        (tried as u64, stage.ejections().await)
    };
    let and_no_more = |(tried, ejections): &(u64, u64)| *tried == ejections - 1;
    let (tried, ejections) = eventually("it had trials and no more", trials, and_no_more).await;
    assert_eq!(bad.backend.requests(), requests, "it was asked nothing");

    // Its certificate is right again: so is the next trial.
    bad.is_broken.store(false, SeqCst);
    stage.until_state(bad.front.address(), "serving").await;
    let share = |asked: &usize| *asked > requests + 20;
    eventually("it has its share again", asked, share).await;
    let report = stage.ended(load).await;
    println!("{fault:?}: {tried} trials, {ejections} ejections");
    report.assert_flawless(&format!("one fails its handshakes: {fault:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_a_certificate_of_nobody_known_fails_no_request_and_is_left_alone() {
    one_breaks(Fault::Unknown).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_closes_in_the_handshake_fails_no_request_and_is_left_alone() {
    one_breaks(Fault::Closes).await;
}
