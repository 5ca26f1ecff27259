//! The addresses that an endpoint's name stands for, asked of the system. A look-up blocks a thread,
//! and goes on when nobody waits for it any more: there is one at a time, and what it found is
//! believed for a moment by all who ask.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use crate::instance::Address;

/// How long an answer is believed: connections that are opened at once share it.
const BELIEVED: Duration = Duration::from_secs(1);

/// What one endpoint's name stands for.
#[derive(Debug)]
pub(super) struct Names {
    /// Held by the look-up itself: one whose asker is gone still runs.
    running: Arc<Semaphore>,
    found: Arc<Mutex<Option<Found>>>,
}

#[derive(Debug)]
struct Found {
    addresses: Arc<[SocketAddr]>,
    since: Instant,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            running: Arc::new(Semaphore::new(1)),
            found: Arc::default(),
        }
    }
}

impl Names {
    /// The addresses of this host, with its port.
    ///
    /// # Errors
    /// The system's, where there is no such name or nobody to ask.
    pub(super) async fn resolve(&self, address: &Address) -> io::Result<Arc<[SocketAddr]>> {
        let (host, port) = (address.host().to_owned(), address.port());
        self.resolve_by(move || Ok((&*host, port).to_socket_addrs()?.collect()))
            .await
    }

    async fn resolve_by(
        &self,
        look_up: impl FnOnce() -> io::Result<Arc<[SocketAddr]>> + Send + 'static,
    ) -> io::Result<Arc<[SocketAddr]>> {
        if let Some(addresses) = self.believed() {
            return Ok(addresses);
        }
        let running = Arc::clone(&self.running).acquire_owned().await;
        let running = running.map_err(io::Error::other)?;
        if let Some(addresses) = self.believed() {
            return Ok(addresses);
        }
        let found = Arc::clone(&self.found);
        let asking = move || {
            let addresses = look_up()?;
            *lock(&found) = Some(Found {
                addresses: Arc::clone(&addresses),
                since: Instant::now(),
            });
            // Whoever waited for it finds what it has found.
            drop(running);
            Ok(addresses)
        };
        tokio::task::spawn_blocking(asking).await?
    }

    fn believed(&self) -> Option<Arc<[SocketAddr]>> {
        let found = lock(&self.found);
        let found = found.as_ref()?;
        let is_new = found.since.elapsed() < BELIEVED;
        is_new.then(|| Arc::clone(&found.addresses))
    }
}

fn lock(found: &Mutex<Option<Found>>) -> MutexGuard<'_, Option<Found>> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    };

    use futures_util::future::join_all;

    use super::*;

    fn here() -> Arc<[SocketAddr]> {
        Arc::new([([127, 0, 0, 1], 80).into()])
    }

    #[tokio::test]
    async fn a_resolver_that_is_silent_has_one_look_up_however_many_ask_and_give_up() {
        let names = Names::default();
        let begun = Arc::<AtomicUsize>::default();
        let (answer, answers) = mpsc::channel::<()>();
        let answers = Arc::new(Mutex::new(answers));
        let ask = || {
            let (begun, answers) = (Arc::clone(&begun), Arc::clone(&answers));
            names.resolve_by(move || {
                begun.fetch_add(1, SeqCst);
                // Until the resolver says something, or is gone.
                let _ = answers.lock().unwrap().recv();
                Ok(here())
            })
        };
        let limit = Duration::from_millis(50);
        let impatient = (0..100).map(|_| tokio::time::timeout(limit, ask()));
        assert!(join_all(impatient).await.iter().all(Result::is_err));
        assert_eq!(begun.load(SeqCst), 1);
        drop(answer);
        let found = join_all((0..100).map(|_| ask())).await;
        assert!(
            found
                .iter()
                .all(|found| found.as_ref().unwrap()[..] == here()[..])
        );
        assert_eq!(
            begun.load(SeqCst),
            1,
            "what it found was kept for those who came after"
        );
    }

    #[tokio::test]
    async fn what_was_not_found_is_asked_again() {
        let names = Names::default();
        let fails = names.resolve_by(|| Err(io::ErrorKind::NotFound.into()));
        assert!(fails.await.is_err());
        let found = names.resolve_by(|| Ok(here())).await.unwrap();
        assert_eq!(found[..], here()[..]);
    }
}
