//! `cargo bench --bench pick`: what a pick costs with each way of balancing, with 1,000 endpoints and
//! two threads that pick at the same time. It ends with 1 where one is over its bound.

use std::{
    error::Error,
    fmt::Write as _,
    hint::black_box,
    net::IpAddr,
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::{Arc, Barrier},
    task::{self, Poll, Waker},
    time::Duration,
};

use callboard::{
    client::Client,
    config::Config,
    service::{Chooser, Detector, RequestInfo, Service},
};
use http::{HeaderMap, HeaderValue, Request, Uri, header::COOKIE};
use nix::time::{ClockId, clock_gettime};

const ENDPOINTS: usize = 1000;
const THREADS: usize = 2;
const ROUNDS: usize = 9;

/// Nanoseconds of a pick; `least_request` looks at every endpoint, and has none.
const BOUND: f64 = 50.0;

/// Requests of a thread, each with a key of its own.
const REQUESTS: usize = 4096;

/// Of them, those whose keys are read again and again.
const HOT: usize = 16;

/// What is measured: its name, the `balance` of it, and whether weights differ.
const CASES: [(&str, &str, bool); 11] = [
    ("round_robin", "\"round_robin\"", false),
    ("weighted", "\"weighted\"", true),
    ("random", "\"random\"", false),
    ("p2c", "\"p2c\"", false),
    ("p2c, with weights", "\"p2c\"", true),
    ("peak_ewma", "\"peak_ewma\"", false),
    (
        "hash",
        "{ kind = \"hash\", by = { header = \"x-user\" } }",
        false,
    ),
    (
        "hash, bounded",
        "{ kind = \"hash\", by = { header = \"x-user\" }, load = 1.25 }",
        false,
    ),
    ("zone first", "\"round_robin\"\nprefer = \"zone\"", false),
    ("sticky", "{ kind = \"sticky\", cookie = \"shop\" }", false),
    (LEAST_REQUEST, "\"least_request\"", false),
];
const LEAST_REQUEST: &str = "least_request";

/// Ways of balancing with which a request is turned away, since every endpoint is full.
const FULL: [(&str, &str); 4] = [
    ("full, round_robin", "\"round_robin\""),
    ("full, p2c", "\"p2c\""),
    ("full, zone first", "\"round_robin\"\nprefer = \"zone\""),
    ("full, least_request", "\"least_request\""),
];

/// Nanoseconds of a request that is turned away so: it is no dearer than one that is served.
const FULL_BOUND: f64 = 1000.0;

/// A request's head.
struct Head(Request<()>);

impl RequestInfo for Head {
    fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    fn uri(&self) -> &Uri {
        self.0.uri()
    }

    fn client(&self) -> Option<IpAddr> {
        None
    }
}

/// Requests with a key each, and the cookie of an endpoint.
fn requests(service: &Service, worker: usize) -> Vec<Head> {
    let now = tokio::time::Instant::now();
    let (view, tally) = (service.main(), &service.stats(worker).tally);
    (0..REQUESTS)
        .map(|n| {
            let mut request = Request::new(());
            let user = HeaderValue::try_from(format!("user-{worker}-{n}"));
            let user = user.expect("it is ASCII");
            request.headers_mut().insert("x-user", user);
            let turn = view.turn(None, tally, now);
            let line = view.pick(worker, turn, tally, now).expect("there are some");
            if let Some(cookie) = view.cookie(worker, turn, &line, tally) {
                let text = cookie.to_str().expect("it is ASCII");
                let pair = text.split(';').next().unwrap_or_default();
                let pair = HeaderValue::from_str(pair).expect("it was one");
                request.headers_mut().insert(COOKIE, pair);
            }
            Head(request)
        })
        .collect()
}

/// Nanoseconds of a thread's own time, of one call of each.
struct Cost {
    /// Taking a turn: reading the request's key, where there is one.
    turn: f64,
    /// The pick, and the way to it that it gives.
    pick: f64,
}

/// Both threads at the same time, and the mean of them. Time that a thread was kept waiting by other
/// programs is not counted.
fn measure(service: &Service, picks: usize) -> Cost {
    let (now, start) = (tokio::time::Instant::now(), &Barrier::new(THREADS));
    let costs: Vec<Cost> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|worker| {
                scope.spawn(move || {
                    let (view, tally) = (service.main(), &service.stats(worker).tally);
                    let requests = requests(service, worker);
                    let turns: Vec<_> = requests
                        .iter()
                        .map(|request| view.turn(Some(request), tally, now))
                        .collect();
                    // A request that is picked for was read just before.
                    let hot = &requests[..HOT];
                    start.wait();
                    let turn = nanos(picks, hot, |request| {
                        black_box(view.turn(Some(black_box(request)), tally, now));
                    });
                    start.wait();
                    let pick = nanos(picks, &turns, |turn| {
                        black_box(view.pick(worker, *turn, tally, now));
                    });
                    Cost { turn, pick }
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|cost| cost.expect("no pick panics")).collect()
    });
    let mean = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / THREADS as f64;
    Cost {
        turn: mean(|cost| cost.turn),
        pick: mean(|cost| cost.pick),
    }
}

fn nanos<T>(times: usize, of: &[T], mut act: impl FnMut(&T)) -> f64 {
    let began = own_time();
    for one in of.iter().cycle().take(times) {
        act(one);
    }
    (own_time() - began).as_nanos() as f64 / times as f64
}

/// What this thread has used of a processor.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.expect("every Linux has it").into()
}

/// As many endpoints, in a file beside the configuration.
fn endpoints(with_weights: bool) -> String {
    let mut text = "[cart]\nendpoints = [\n".to_owned();
    for n in 0..ENDPOINTS {
        let weight = if with_weights { 1 + n % 4 } else { 1 };
        let (a, b) = (n / 250, 1 + n % 250);
        let zone = if n % 2 == 0 { "a" } else { "b" };
        let _ = writeln!(
            text,
            "{{ address = \"10.0.{a}.{b}:80\", weight = {weight}, meta = {{ zone = \"{zone}\" }} }},"
        );
    }
    text + "]\n"
}

/// A client of a service that balances so.
fn start(folder: &Path, balance: &str, with_weights: bool) -> Result<Client, Box<dyn Error>> {
    std::fs::write(folder.join("services.toml"), endpoints(with_weights))?;
    let text = format!(
        "workers = {THREADS}\nzone = \"a\"\n[registry.file]\npath = \"services.toml\"\n\
         [defaults]\nbalance = {balance}\n"
    );
    Ok(Client::start(Config::parse_for_client(&text, folder)?)?)
}

async fn run(
    folder: &Path,
    balance: &str,
    with_weights: bool,
    picks: usize,
) -> Result<Cost, Box<dyn Error>> {
    let client = start(folder, balance, with_weights)?;
    let cart = client.service("cart")?;
    let service = cart.service();
    service.wait_until_read(Duration::from_secs(10)).await;
    // They are busy, and have answered at different speeds.
    let mut in_flight = Vec::new();
    for n in 0..2 * ENDPOINTS {
        let worker = n % THREADS;
        let now = tokio::time::Instant::now();
        let (view, tally) = (service.main(), &service.stats(worker).tally);
        let turn = view.turn(None, tally, now);
        let line = view.pick(worker, turn, tally, now);
        let pool = Arc::clone(line.ok_or("there is nobody")?.pool());
        pool.took(now - Duration::from_micros(100 * (n as u64 % 50)));
        in_flight.push(pool.enter());
    }
    let costs: Vec<_> = (0..ROUNDS).map(|_| measure(service, picks)).collect();
    let median = |of: fn(&Cost) -> f64| {
        let mut samples: Vec<_> = costs.iter().map(of).collect();
        samples.sort_by(f64::total_cmp);
        samples[ROUNDS / 2]
    };
    drop(in_flight);
    client.close().await;
    Ok(Cost {
        turn: median(|cost| cost.turn),
        pick: median(|cost| cost.pick),
    })
}

/// Nanoseconds of a request that is turned away, since every endpoint is full.
async fn run_full(folder: &Path, balance: &str) -> Result<f64, Box<dyn Error>> {
    let limits = "limits = { per_endpoint = 1, pending = 0 }";
    let text = format!("{balance}\n{limits}");
    let client = start(folder, &text, false)?;
    let cart = client.service("cart")?;
    let service = cart.service();
    service.wait_until_read(Duration::from_secs(10)).await;
    let now = tokio::time::Instant::now();
    let (view, tally) = (service.main(), &service.stats(0).tally);
    let detector = Detector::new(service, view, 0);
    let mut seats = Vec::new();
    for _ in 0..ENDPOINTS {
        let mut chooser = Chooser::new(detector, view.turn(None, tally, now), None);
        let seat = chooser.first(now).await;
        seat.map_err(|shed| format!("no room: {shed:?}"))?;
        seats.push(chooser);
    }
    let turns: Vec<_> = (0..REQUESTS).map(|_| view.turn(None, tally, now)).collect();
    let context = &mut task::Context::from_waker(Waker::noop());
    let cost = nanos(1_000_000, &turns, |turn| {
        let mut chooser = Chooser::new(detector, *turn, None);
        let seat = pin!(chooser.first(now));
        assert!(matches!(seat.poll(context), Poll::Ready(Err(_))));
    });
    drop(seats);
    client.close().await;
    Ok(cost)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut status = ExitCode::SUCCESS;
    println!("{:<20}{:>8}{:>8}{:>8}", "ns", "turn", "pick", "bound");
    for (name, balance, with_weights) in CASES {
        let scans = name == LEAST_REQUEST;
        let picks = if scans { 20_000 } else { 1_000_000 };
        let Cost { turn, pick } = run(folder.path(), balance, with_weights, picks).await?;
        let (bound, held) = match scans {
            true => ("-", true),
            false => ("50", pick < BOUND),
        };
        let missed = if held { "" } else { "  missed" };
        println!("{name:<20}{turn:>8.1}{pick:>8.1}{bound:>8}{missed}");
        if !held {
            status = ExitCode::FAILURE;
        }
    }
    for (name, balance) in FULL {
        let cost = run_full(folder.path(), balance).await?;
        let missed = if cost < FULL_BOUND { "" } else { "  missed" };
        println!("{name:<20}{:>8}{cost:>8.1}{FULL_BOUND:>8}{missed}", "-");
        if cost >= FULL_BOUND {
            status = ExitCode::FAILURE;
        }
    }
    Ok(status)
}
