//! Runs checks: calls HTTP and TCP targets, counts results against thresholds, watches TTLs.
//! Knows nothing of where a result goes: it is handed to the caller that started the check.

use std::{
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::model::{DEFAULT_TIMEOUT, HttpTarget, Probe, Status, Target, Thresholds};
use crate::{
    backoff::Repeated,
    control::http_client::client,
    error::with_causes,
    upstream::{connect_to, is_caused_by_want_of_descriptors},
};

/// A new check runs within this time, however long its interval: what registers is soon healthy.
const FIRST_RUN: Duration = Duration::from_secs(1);

/// The HTTP clients that probes share, made when they are first needed: verifying certificates or
/// not, following redirects or not. They keep no connection, since a probe asks whether a new one
/// is served.
#[derive(Debug, Default)]
pub(super) struct Clients([OnceLock<reqwest::Client>; 4]);

impl Clients {
    fn of(&self, target: &HttpTarget) -> reqwest::Result<&reqwest::Client> {
        let place = usize::from(target.skip_verify) * 2 + usize::from(target.follow_redirects);
        if let Some(client) = self.0[place].get() {
            return Ok(client);
        }
        let redirects = || match target.follow_redirects {
            true => reqwest::redirect::Policy::limited(10),
            false => reqwest::redirect::Policy::none(),
        };
        let client = client(|| {
            reqwest::Client::builder()
                .user_agent("Consul Health Check")
                .no_proxy()
                .pool_max_idle_per_host(0)
                .redirect(redirects())
                .tls_danger_accept_invalid_certs(target.skip_verify)
        })?;
        Ok(self.0[place].get_or_init(|| client))
    }
}

/// Runs a probe for ever and reports what its results come to. `known` says that the check's
/// status was found by an earlier run, so that there is no hurry.
pub(super) async fn probe(
    probe: &Probe,
    known: bool,
    clients: &Clients,
    report: impl Fn(Status, String),
) {
    // Spread out, so that checks that were made at once do not run at once.
    let within = if known {
        probe.interval
    } else {
        probe.interval.min(FIRST_RUN)
    };
    sleep(within.mul_f64(fastrand::f64())).await;
    let mut counter = Counter::new(probe.thresholds);
    loop {
        match run_once(probe, clients).await {
            Ok((result, output)) => {
                if let Some(status) = counter.count(result) {
                    report(status, output);
                }
            }
            Err(NotMade(error)) => {
                if let Some(times) = NOT_MADE.note() {
                    tracing::warn!(error, times, "a check cannot be made");
                }
            }
        }
        sleep(probe.interval).await;
    }
}

/// Watches a TTL for ever. `overdue` is called when it may be over, and says when to look again.
pub(super) async fn ttl(first: Instant, overdue: impl Fn() -> Instant) {
    let mut next = first;
    loop {
        sleep_until(next).await;
        next = overdue();
    }
}

/// This process could open no socket for a check, which says nothing of who is checked.
#[derive(Debug)]
struct NotMade(String);

/// Checks that could not be made, which is said of all of them at times.
static NOT_MADE: LazyLock<Repeated> = LazyLock::new(Repeated::default);

type Found = Result<(Status, String), NotMade>;

async fn run_once(probe: &Probe, clients: &Clients) -> Found {
    let limit = probe.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let (name, run) = match &probe.target {
        Target::Http(target) => {
            let run = timeout(limit, call(target, probe.output_max, clients)).await;
            (&target.url, run)
        }
        Target::Tcp(address) => (address, timeout(limit, connect(address)).await),
    };
    run.unwrap_or_else(|_| {
        let limit = super::duration::format(limit);
        Ok((
            Status::Critical,
            format!("{name}: no answer within {limit}"),
        ))
    })
}

async fn connect(address: &str) -> Found {
    let connected = match address
        .rsplit_once(':')
        .map(|(host, port)| (host, port.parse()))
    {
        Some((host, Ok(port))) => connect_to(host.trim_matches(['[', ']']), port).await,
        _ => TcpStream::connect(address).await,
    };
    match connected {
        Ok(_) => Ok((Status::Passing, format!("TCP connect {address}: Success"))),
        Err(error) => failed(&error, || format!("dial tcp {address}: {error}")),
    }
}

fn failed(error: &(dyn std::error::Error + 'static), says: impl FnOnce() -> String) -> Found {
    if is_caused_by_want_of_descriptors(error) {
        Err(NotMade(says()))
    } else {
        Ok((Status::Critical, says()))
    }
}

async fn call(target: &HttpTarget, most: usize, clients: &Clients) -> Found {
    let answered = async {
        let method = target.method.parse().unwrap_or(reqwest::Method::GET);
        let mut request = clients.of(target)?.request(method, &target.url);
        let mut accepts = false;
        for (name, value) in &target.headers {
            accepts |= name.eq_ignore_ascii_case("accept");
            request = request.header(name, value);
        }
        if !accepts {
            request = request.header("accept", "text/plain, text/*, */*");
        }
        if !target.body.is_empty() {
            request = request.body(target.body.clone());
        }
        request.send().await
    };
    let mut response = match answered.await {
        Ok(response) => response,
        Err(error) => return failed(&error, || with_causes(&error)),
    };
    let code = response.status();
    let status = match code.as_u16() {
        200..300 => Status::Passing,
        429 => Status::Warning,
        _ => Status::Critical,
    };
    let body = beginning(&mut response, most).await;
    let HttpTarget { method, url, .. } = target;
    Ok((
        status,
        format!("HTTP {method} {url}: {code} Output: {body}"),
    ))
}

/// The body's first `most` bytes. What breaks off after the head is no matter: the head decided.
async fn beginning(response: &mut reqwest::Response, most: usize) -> String {
    let mut body = Vec::new();
    while body.len() < most
        && let Ok(Some(piece)) = response.chunk().await
    {
        body.extend_from_slice(&piece[..piece.len().min(most - body.len())]);
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// Counts results in a row, as Consul's `StatusHandler` does: the first result counts at once,
/// later ones when there were enough of them.
struct Counter {
    thresholds: Thresholds,
    passed: u32,
    failed: u32,
}

impl Counter {
    fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            passed: thresholds.passing,
            failed: thresholds.critical,
        }
    }

    /// The status that a result leads to; `None` where the present one stands.
    fn count(&mut self, result: Status) -> Option<Status> {
        if result == Status::Critical {
            self.failed = self.failed.saturating_add(1);
            self.passed = 0;
            if self.failed >= self.thresholds.critical {
                return Some(Status::Critical);
            }
            (self.failed >= self.thresholds.warning).then_some(Status::Warning)
        } else {
            self.passed = self.passed.saturating_add(1);
            self.failed = 0;
            (self.passed >= self.thresholds.passing).then_some(result)
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn counted(thresholds: (u32, u32, u32), results: &str) -> String {
        let (passing, warning, critical) = thresholds;
        let mut counter = Counter::new(Thresholds {
            passing,
            warning,
            critical,
        });
        let mut status = |result| match counter.count(result) {
            Some(Status::Passing) => 'p',
            Some(Status::Warning) => 'w',
            Some(Status::Critical) => 'c',
            None => '-',
        };
        results
            .chars()
            .map(|result| match result {
                'p' => status(Status::Passing),
                'w' => status(Status::Warning),
                _ => status(Status::Critical),
            })
            .collect()
    }

    #[test]
    fn without_thresholds_each_result_counts() {
        assert_eq!(counted((0, 0, 0), "pcwcp"), "pcwcp");
    }

    #[test]
    fn thresholds_count_results_in_a_row_after_the_first() {
        assert_eq!(counted((2, 3, 3), "pccpccc"), "p-----c");
        assert_eq!(counted((3, 0, 0), "cppcppp"), "c--c--p");
    }

    #[test]
    fn a_warning_may_come_before_critical() {
        assert_eq!(counted((0, 2, 4), "pccccc"), "p-wwcc");
    }

    fn http(url: String) -> Probe {
        let target = HttpTarget {
            url,
            method: "POST".to_owned(),
            headers: vec![
                ("X-Probe".to_owned(), "yes".to_owned()),
                ("Host".to_owned(), "named.example".to_owned()),
            ],
            body: "are you well?".to_owned(),
            skip_verify: false,
            follow_redirects: true,
        };
        Probe {
            target: Target::Http(target),
            interval: Duration::from_secs(1),
            timeout: Some(Duration::from_secs(5)),
            thresholds: Thresholds::default(),
            output_max: 20,
        }
    }

    /// Answers one request with `answer` and gives back what came.
    async fn once(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"well?") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        (url, asked)
    }

    #[tokio::test]
    async fn an_http_probe_sends_what_was_registered() {
        let (url, asked) = once("HTTP/1.1 204 No Content\r\n\r\n").await;
        let (status, _) = run_once(&http(url), &Clients::default()).await.unwrap();
        assert_eq!(status, Status::Passing);
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("post /health http/1.1\r\n"), "{asked}");
        for line in [
            "x-probe: yes\r\n",
            "host: named.example\r\n",
            "user-agent: consul health check\r\n",
            "accept: text/plain, text/*, */*\r\n",
        ] {
            assert!(asked.contains(line), "{line} in {asked}");
        }
    }

    #[tokio::test]
    async fn an_answers_code_decides_and_its_body_is_cut() {
        for (answer, status) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
                Status::Passing,
            ),
            (
                "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 5\r\n\r\nhello",
                Status::Warning,
            ),
            (
                "HTTP/1.1 503 Unavailable\r\ncontent-length: 5\r\n\r\nhello",
                Status::Critical,
            ),
        ] {
            let (url, asked) = once(answer).await;
            let (found, output) = run_once(&http(url), &Clients::default()).await.unwrap();
            assert_eq!(found, status, "{answer}");
            assert!(output.ends_with(" Output: hello"), "{output}");
            asked.await.unwrap();
        }
        let long = "HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n0123456789012345678901234567";
        let (url, _asked) = once(long).await;
        let (_, output) = run_once(&http(url), &Clients::default()).await.unwrap();
        assert!(output.ends_with("Output: 01234567890123456789"), "{output}");
    }

    #[test]
    fn a_check_without_descriptors_finds_nothing() {
        use nix::errno::Errno;
        for (errno, made) in [
            (Errno::EMFILE, false),
            (Errno::ENFILE, false),
            (Errno::ECONNREFUSED, true),
        ] {
            let error = std::io::Error::from_raw_os_error(errno as i32);
            let found = failed(&error, || "dial".to_owned());
            assert_eq!(found.is_ok(), made, "{errno}");
        }
    }

    #[tokio::test]
    async fn what_refuses_or_stays_silent_is_critical() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = Probe {
            timeout: Some(Duration::from_millis(50)),
            ..http(format!("http://{address}/"))
        };
        let (status, output) = run_once(&silent, &Clients::default()).await.unwrap();
        assert_eq!(status, Status::Critical);
        assert!(output.ends_with("no answer within 50ms"), "{output}");

        let tcp = Probe {
            target: Target::Tcp(address.to_string()),
            ..silent.clone()
        };
        let (status, output) = run_once(&tcp, &Clients::default()).await.unwrap();
        assert_eq!(
            (status, output),
            (Status::Passing, format!("TCP connect {address}: Success"))
        );

        drop(listener);
        for probe in [silent, tcp] {
            let (status, output) = run_once(&probe, &Clients::default()).await.unwrap();
            assert_eq!(status, Status::Critical);
            assert!(output.to_lowercase().contains("refused"), "{output}");
        }
    }
}
