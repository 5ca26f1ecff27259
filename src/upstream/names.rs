//! Names of endpoints → where they lead, for the whole process. The system's resolver blocks a
//! thread for as long as it likes, and a request that gives up does not end it: so a name is looked
//! up once for all who want it, few are at a time, and what was found counts for a moment. Knows
//! nothing of pools.

use std::{
    collections::HashMap,
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};

/// So many look-ups are under way at once.
const UNDER_WAY: usize = 16;
/// What was found counts for so long: a name that moves is followed within this time.
const FRESH: Duration = Duration::from_secs(5);
/// After that it is looked up again; where that takes longer than this, or fails, what was found
/// before is used for as long as it is not too old.
const PATIENCE: Duration = Duration::from_millis(200);
const TOO_OLD: Duration = Duration::from_secs(300);
/// A look-up that failed is not tried again for so long.
const FAILED: Duration = Duration::from_secs(1);
/// Names that are remembered. Beyond them the old ones are forgotten.
const MOST: usize = 10_000;

static NAMES: LazyLock<Arc<Names>> = LazyLock::new(|| {
    Names::new(|host| {
        let found = (host, 0).to_socket_addrs()?;
        Ok(found.map(|address| address.ip()).collect())
    })
});

/// Opens a connection to a host, by its name or its address.
///
/// # Errors
/// Where the name leads nowhere, or no address of it takes a connection.
pub(crate) async fn connect_to(host: &str, port: u16) -> io::Result<TcpStream> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return connect_to_any(&[SocketAddr::new(ip, port)]).await;
    }
    let found = NAMES.find(host).await?;
    let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    connect_to_any(&addresses).await
}

/// Opens a connection to the first of these addresses that takes one; the error is the last one's.
pub(super) async fn connect_to_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let connected = TcpStream::connect(addresses).await;
    connected.map_err(|error| match addresses.last() {
        Some(last) if error.kind() == ErrorKind::AddrNotAvailable => without_way(error, *last),
        _ => error,
    })
}

/// The kernel says the same where all ports are in use and where no address of this machine leads there,
/// as to `::1` without IPv6. The second is no want of this process's: it becomes an error of ours.
fn without_way(error: io::Error, to: SocketAddr) -> io::Error {
    let from: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Sends nothing, and takes a port of UDP.
    let leads_there = UdpSocket::bind((from, 0)).and_then(|socket| socket.connect(to));
    match leads_there {
        Ok(()) => error,
        Err(_) => io::Error::new(error.kind(), error.to_string()),
    }
}

type LookUp = Box<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Names, and where they led last.
struct Names {
    look_up: LookUp,
    known: Mutex<HashMap<Arc<str>, Known>>,
    under_way: Arc<Semaphore>,
}

/// What is known of one name.
#[derive(Default)]
struct Known {
    found: Option<(Arc<[IpAddr]>, Instant)>,
    failed: Option<(io::ErrorKind, String, Instant)>,
    /// While it is looked up; the other end is gone when that is over.
    looking: Option<watch::Receiver<()>>,
}

impl Known {
    fn found_within(&self, time: Duration) -> Option<Arc<[IpAddr]>> {
        let (found, at) = self.found.as_ref()?;
        (at.elapsed() < time).then(|| Arc::clone(found))
    }

    /// Why it could not be looked up, a moment ago.
    fn failure(&self) -> Option<io::Error> {
        let (kind, text, at) = self.failed.as_ref()?;
        (at.elapsed() < FAILED).then(|| io::Error::new(*kind, text.clone()))
    }

    fn is_over(&self) -> bool {
        let looking = self.looking.as_ref();
        looking.is_none_or(|looking| looking.has_changed().is_err())
    }
}

impl Names {
    fn new(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            look_up: Box::new(look_up),
            known: Mutex::default(),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
        })
    }

    /// Where the name leads: at least one address.
    async fn find(self: &Arc<Self>, host: &str) -> io::Result<Arc<[IpAddr]>> {
        let (old, mut looking) = {
            let mut known = self.lock();
            if known.len() >= MOST && !known.contains_key(host) {
                known.retain(|_, name| name.found_within(TOO_OLD).is_some() || !name.is_over());
            }
            let name = known.entry(host.into()).or_default();
            if let Some(found) = name.found_within(FRESH) {
                return Ok(found);
            }
            let old = name.found_within(TOO_OLD);
            if let Some(failure) = name.failure() {
                return old.ok_or(failure);
            }
            if name.is_over() {
                name.looking = Some(self.begin(host.into()));
            }
            (old, name.looking.clone())
        };
        if let Some(looking) = &mut looking {
            // An error is its end.
            let ended = async { drop(looking.changed().await) };
            match old {
                None => ended.await,
                Some(old) => {
                    if timeout(PATIENCE, ended).await.is_err() {
                        return Ok(old);
                    }
                }
            }
        }
        let known = self.lock();
        let name = known.get(host);
        let found = name.and_then(|name| name.found_within(TOO_OLD));
        let failure = || name.and_then(Known::failure);
        found.ok_or_else(|| {
            failure().unwrap_or_else(|| io::Error::other("its look-up was given up"))
        })
    }

    /// Looks a name up in a task of its own, once few enough look-ups are under way. The task goes
    /// on when the request that began it is gone.
    fn begin(self: &Arc<Self>, host: Arc<str>) -> watch::Receiver<()> {
        let (ends, looking) = watch::channel(());
        let (names, turn) = (
            Arc::clone(self),
            Arc::clone(&self.under_way).acquire_owned(),
        );
        tokio::spawn(async move {
            let Ok(turn) = turn.await else { return };
            spawn_blocking(move || {
                let found = (names.look_up)(&host);
                names.note(&host, found);
                drop((turn, ends));
            });
        });
        looking
    }

    fn note(&self, host: &str, found: io::Result<Vec<IpAddr>>) {
        let now = Instant::now();
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
            false => Ok(found.into()),
        });
        if let Some(name) = self.lock().get_mut(host) {
            match found {
                Ok(found) => (name.found, name.failed) = (Some((found, now)), None),
                Err(error) => name.failed = Some((error.kind(), error.to_string(), now)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
        mpsc,
    };

    use super::*;

    /// A resolver that says nothing until its other end is dropped, and how often it was asked.
    fn silent() -> (Arc<Names>, Arc<AtomicUsize>, mpsc::Sender<()>) {
        let (ends, silence) = mpsc::channel::<()>();
        let (silence, asked) = (Mutex::new(silence), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let names = Names::new(move |_| {
            count.fetch_add(1, SeqCst);
            let _ = silence.lock().recv();
            Err(io::Error::other("silence"))
        });
        (names, asked, ends)
    }

    #[test]
    fn an_address_without_a_way_to_it_is_no_want_of_ports() {
        let full = || io::Error::from_raw_os_error(nix::errno::Errno::EADDRNOTAVAIL as i32);
        let here = without_way(full(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(here.raw_os_error(), full().raw_os_error());
        // Of which of its networks it is meant, an address of a link does not say.
        let nowhere = without_way(full(), "[fe80::1]:80".parse().unwrap());
        assert_eq!(nowhere.raw_os_error(), None);
        assert_eq!(nowhere.to_string(), full().to_string());
    }

    #[tokio::test]
    async fn a_silent_resolver_is_asked_once_for_a_name_however_many_requests_want_it() {
        let (names, asked, ends) = silent();
        for _ in 0..500 {
            let found = timeout(Duration::from_micros(10), names.find("cart")).await;
            assert!(found.is_err());
        }
        assert!(asked.load(SeqCst) <= 1);
        drop(ends);
        assert_eq!(names.find("cart").await.unwrap_err().to_string(), "silence");
        assert_eq!(asked.load(SeqCst), 1);
        // And not at once again.
        assert!(names.find("cart").await.is_err());
        assert_eq!(asked.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn few_look_ups_are_under_way_at_once_however_many_names_there_are() {
        let (names, asked, ends) = silent();
        let wait = |n: usize| {
            let names = Arc::clone(&names);
            tokio::spawn(async move { names.find(&format!("cart-{n}")).await.is_err() })
        };
        let waiting: Vec<_> = (0..4 * UNDER_WAY).map(wait).collect();
        while asked.load(SeqCst) < UNDER_WAY {
            tokio::task::yield_now().await;
        }
        assert_eq!(names.under_way.available_permits(), 0);
        assert_eq!(asked.load(SeqCst), UNDER_WAY);
        drop(ends);
        for task in waiting {
            assert!(task.await.unwrap());
        }
        assert_eq!(asked.load(SeqCst), 4 * UNDER_WAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_moves_is_followed_and_one_that_cannot_be_looked_up_stays_a_while() {
        let last = Arc::new(AtomicU8::new(1));
        let says = Arc::clone(&last);
        let names = Names::new(move |_| match says.load(SeqCst) {
            0 => Err(io::Error::other("no resolver")),
            last => Ok(vec![[10, 0, 0, last].into()]),
        });
        let leads_to = async || names.find("cart").await.map(|found| found[0]);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert_eq!(leads_to().await.unwrap(), address(1));
        last.store(2, SeqCst);
        assert_eq!(leads_to().await.unwrap(), address(1), "a moment ago");
        tokio::time::advance(FRESH).await;
        assert_eq!(leads_to().await.unwrap(), address(2));
        last.store(0, SeqCst);
        tokio::time::advance(FRESH).await;
        assert_eq!(leads_to().await.unwrap(), address(2));
        tokio::time::advance(TOO_OLD).await;
        assert!(leads_to().await.is_err());
        tokio::time::advance(FAILED).await;
        last.store(3, SeqCst);
        assert_eq!(leads_to().await.unwrap(), address(3));
    }
}
