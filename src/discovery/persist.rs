//! Keeps the last good sets on disk: a while after they have changed, every minute, since
//! registries confirm what has not changed, and at the end. Knows nothing of who asks for them.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Directory;
use crate::{backoff::Lines, saved::Store};

/// Between two writes at least.
const PAUSE: Duration = Duration::from_secs(1);
/// Of a slow disk or of very many services no more than a twentieth of the time is taken.
const SHARE: u32 = 20;
/// What has not changed is written again for its age.
const CONFIRM: Duration = Duration::from_secs(60);

/// Keeps what the services of the present directory know, until `ending`, and then once more.
pub(crate) async fn keep(
    directory: impl Fn() -> Arc<Directory>,
    store: Arc<Store>,
    ending: CancellationToken,
) {
    let mut keeper = Keeper {
        directory,
        store,
        pause: PAUSE,
        trouble: None,
    };
    let mut last = Instant::now();
    loop {
        let due = async {
            if keeper.trouble.is_none() {
                let directory = (keeper.directory)();
                let changed = directory.changed();
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(last + CONFIRM) => {}
                }
            }
            sleep_until(last + keeper.pause).await;
        };
        let ended = ending.run_until_cancelled(due).await.is_none();
        keeper.write().await;
        last = Instant::now();
        if ended {
            return;
        }
    }
}

struct Keeper<D> {
    directory: D,
    store: Arc<Store>,
    /// After the last write.
    pause: Duration,
    trouble: Option<Lines>,
}

impl<D: Fn() -> Arc<Directory>> Keeper<D> {
    async fn write(&mut self) {
        let (directory, store) = ((self.directory)(), Arc::clone(&self.store));
        let began = Instant::now();
        let writing = spawn_blocking(move || {
            let contents = directory.to_save();
            // A proxy that knows nothing yet keeps what another one knew.
            if contents.sets.is_empty() && contents.catalogs.is_empty() {
                return Ok(());
            }
            store.write(&contents)
        });
        let written = writing.await.unwrap_or_else(|panic| Err(panic.to_string()));
        let file = self.store.path().display();
        match written {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    tracing::info!(%file, "the snapshot is written again");
                }
                self.pause = PAUSE.max(began.elapsed() * SHARE);
            }
            Err(error) => {
                if self.trouble.get_or_insert_default().is_due() {
                    tracing::warn!(
                        %file, error,
                        "the snapshot cannot be written: a restart while a registry is away would not know the latest sets"
                    );
                }
                self.pause = (self.pause * 2).clamp(PAUSE, CONFIRM);
            }
        }
    }
}
