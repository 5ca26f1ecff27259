//! The supervision of an entry: sign in, keep, sign in again after whatever went wrong, sign out.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument as _;

use super::Entry;
use crate::{
    backoff::{Backoff, Lines},
    registry::RegistryError,
};

const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(2);
/// Who is on the way out waits no longer than this for a registry.
const SIGN_OUT: Duration = Duration::from_secs(5);
/// An entry that stood for this long was a good one: the next trouble begins a new row.
const STOOD: Duration = Duration::from_secs(10);

/// Keeps a provider signed in until it is told to [`deregister`](Self::deregister). Where it is
/// dropped instead, the entry is left to its lease, session or TTL.
///
/// go-kit's `Registrar`; unlike go-kit's it signs in again after a lost lease, an expired session
/// or a registry that forgot. What it logs stands in the span in which it was started.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use callboard::{
///     config::{Embedded, RegistryKind},
///     embedded,
///     instance::Address,
///     register::{self, Provider, Registrar},
/// };
/// use tokio_util::sync::CancellationToken;
///
/// // A registry, for the example: the embedded one, on a port of its own.
/// let folder = tempfile::tempdir()?;
/// let mut settings = Embedded {
///     address: "127.0.0.1:0".parse()?,
///     data: folder.path().to_owned(),
///     token: None,
///     hosts: Vec::new(),
/// };
/// let server = embedded::Server::bind(&settings).await?;
/// settings.address = server.address();
/// let closing = CancellationToken::new();
/// let served = tokio::spawn(server.run(closing.clone()));
///
/// // What the registry tells clients of this program. It listens already: from the sign-in on it is
/// // called.
/// let provider = Provider {
///     tags: vec!["v2".to_owned()],
///     ..Provider::new("cart", Address::new("127.0.0.1", 8080)?)
/// };
/// let registry = RegistryKind::Embedded(settings.clone());
/// let registrar = Registrar::start(register::entry("embedded", &registry, provider)?);
/// registrar.registered().await;
///
/// let url = format!("http://{}/v1/agent/services", settings.address);
/// let services = reqwest::get(url).await?.text().await?;
/// assert!(services.contains("cart-127.0.0.1:8080"));
///
/// // On the way out: first this, then no more requests, then the end.
/// registrar.deregister().await?;
/// closing.cancel();
/// served.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Registrar {
    standing: watch::Receiver<SignedIn>,
    leave: CancellationToken,
    /// Who lets go of a registrar wants its entry to lapse.
    task: AbortOnDropHandle<Result<(), RegistryError>>,
}

/// How a provider's entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedIn {
    /// It was not written yet, or it is being written again; and why, if something went wrong.
    Out(Option<String>),
    /// It was written, and nothing is known to be wrong with it.
    In,
}

impl Registrar {
    /// Begins to sign in, and goes on in the background. Must be called in a tokio runtime.
    pub fn start(entry: Box<dyn Entry>) -> Self {
        let (told, standing) = watch::channel(SignedIn::Out(None));
        let leave = CancellationToken::new();
        let task = tokio::spawn(run(entry, told, leave.clone()).in_current_span());
        Self {
            standing,
            leave,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// How the entry stands, now and whenever that changes.
    pub fn standing(&self) -> watch::Receiver<SignedIn> {
        self.standing.clone()
    }

    /// Waits until the entry was written.
    pub async fn registered(&self) {
        let mut standing = self.standing.clone();
        // The sender lives until `deregister`, which takes `self`.
        let _ = standing
            .wait_for(|standing| *standing == SignedIn::In)
            .await;
    }

    /// Takes the entry away, and ends.
    ///
    /// # Errors
    /// Where the registry could not be told: then the entry is left to its lease, session or TTL.
    pub async fn deregister(self) -> Result<(), RegistryError> {
        self.leave.cancel();
        self.task.await.unwrap_or_else(|error| {
            Err(RegistryError::new(format!("the registrar failed: {error}")))
        })
    }
}

async fn run(
    mut entry: Box<dyn Entry>,
    told: watch::Sender<SignedIn>,
    leave: CancellationToken,
) -> Result<(), RegistryError> {
    let signed_out = async {
        stay(&mut *entry, &told, &leave).await;
        guarded(entry.sign_out()).await
    };
    let too_late = async {
        leave.cancelled().await;
        tokio::time::sleep(SIGN_OUT).await;
    };
    let signed_out = tokio::select! {
        signed_out = signed_out => signed_out,
        () = too_late => Err(RegistryError::new(format!("signing out took more than {} s", SIGN_OUT.as_secs()))),
    };
    told.send_replace(SignedIn::Out(None));
    signed_out
}

/// Signs in again and again until it is time to leave.
async fn stay(entry: &mut dyn Entry, told: &watch::Sender<SignedIn>, leave: &CancellationToken) {
    let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP, fastrand::Rng::new());
    let mut lines = Lines::new();
    let mut said_in = false;
    loop {
        // Never broken off: it might reach the registry after the signing out.
        let error = match guarded(entry.sign_in()).await {
            Ok(()) => {
                told.send_replace(SignedIn::In);
                // A registry that forgets again and again does not fill the log either.
                if !std::mem::replace(&mut said_in, true) {
                    tracing::info!("signed in");
                }
                let began = Instant::now();
                let keeping = guarded(entry.keep().map(Ok));
                let Some(kept) = leave.run_until_cancelled(keeping).await else {
                    return;
                };
                if began.elapsed() >= STOOD {
                    backoff.reset();
                    lines = Lines::new();
                }
                kept.unwrap_or_else(|error| error)
            }
            Err(error) => error,
        };
        if lines.is_due() {
            said_in = false;
            tracing::warn!(error = %error, "not signed in; trying again");
        }
        told.send_replace(SignedIn::Out(Some(error.message)));
        let away = error.retry_after.unwrap_or_default();
        let pause = tokio::time::sleep(backoff.delay() + away);
        if leave.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// A panic is an error like any other: the provider behind it is still there.
async fn guarded<T>(
    step: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    AssertUnwindSafe(step)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(RegistryError::new("the registrar panicked: a defect")))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
    };

    use futures_util::future::BoxFuture;

    use super::*;

    /// Plays what becomes of each signing in, and notes what it was asked.
    #[derive(Clone, Default)]
    struct Script {
        /// How long each entry stands; `None` where signing in fails.
        stands: Arc<Mutex<VecDeque<Option<Duration>>>>,
        asked: Arc<Mutex<Vec<&'static str>>>,
        /// How long the registry takes to write it.
        slow: Duration,
    }

    fn error() -> RegistryError {
        RegistryError::new("no")
    }

    impl Entry for Script {
        fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
            self.asked.lock().unwrap().push("in");
            let stands = self.stands.lock().unwrap();
            let fails = stands.front().is_some_and(Option::is_none);
            drop(stands);
            Box::pin(async move {
                if fails {
                    self.stands.lock().unwrap().pop_front();
                    return Err(error());
                }
                if !self.slow.is_zero() {
                    tokio::time::sleep(self.slow).await;
                    self.asked.lock().unwrap().push("written");
                }
                Ok(())
            })
        }

        fn keep(&mut self) -> BoxFuture<'_, RegistryError> {
            let stands = self.stands.lock().unwrap().pop_front();
            Box::pin(async move {
                match stands.flatten() {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
                error()
            })
        }

        fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
            self.asked.lock().unwrap().push("out");
            Box::pin(async { Ok(()) })
        }
    }

    fn script(stands: &[Option<u64>]) -> Script {
        let script = Script::default();
        *script.stands.lock().unwrap() = stands
            .iter()
            .map(|stands| stands.map(Duration::from_secs))
            .collect();
        script
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_lost_is_written_again() {
        let script = script(&[None, None, Some(60), Some(60)]);
        let registrar = Registrar::start(Box::new(script.clone()));
        registrar.registered().await;
        assert_eq!(*script.asked.lock().unwrap(), ["in"; 3]);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(*script.asked.lock().unwrap(), ["in"; 5]);
        assert_eq!(*registrar.standing().borrow(), SignedIn::In);
        registrar.deregister().await.unwrap();
        assert_eq!(script.asked.lock().unwrap().last(), Some(&"out"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_while_it_signs_in_lets_that_come_to_its_end_first() {
        for (seconds, asked) in [(4, &["in", "written", "out"][..]), (6, &["in"])] {
            let script = Script {
                slow: Duration::from_secs(seconds),
                ..script(&[])
            };
            let registrar = Registrar::start(Box::new(script.clone()));
            tokio::time::sleep(Duration::from_millis(1)).await;
            let began = Instant::now();
            let gone = registrar.deregister().await;
            assert_eq!(*script.asked.lock().unwrap(), asked);
            assert_eq!(gone.is_ok(), asked.ends_with(&["out"]));
            assert!(began.elapsed() < SIGN_OUT + Duration::from_millis(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_dropped_leaves_its_entry_alone() {
        let script = script(&[Some(1); 60]);
        let registrar = Registrar::start(Box::new(script.clone()));
        registrar.registered().await;
        drop(registrar);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(*script.asked.lock().unwrap(), ["in"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_forgets_at_once_is_not_hammered() {
        let script = script(&[Some(0); 10_000]);
        let _registrar = Registrar::start(Box::new(script.clone()));
        tokio::time::sleep(Duration::from_secs(600)).await;
        let asked = script.asked.lock().unwrap().len();
        // Full jitter waits half the cap on average.
        assert!((400..900).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn why_it_is_out_is_said() {
        let script = script(&[None; 3]);
        let registrar = Registrar::start(Box::new(script));
        let mut standing = registrar.standing();
        let out = SignedIn::Out(Some("no".to_owned()));
        standing
            .wait_for(|standing| *standing == out)
            .await
            .unwrap();
        registrar.registered().await;
    }
}
