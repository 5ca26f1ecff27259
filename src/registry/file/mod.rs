//! A file of endpoints that an operator keeps by hand, as a [`Registry`]. Owns how its changes are
//! noticed; what stands in it is read in `parse`. Knows nothing of retrying, which
//! [`watch`](super::watch) does for every registry.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod parse;
mod sections;

use std::{io, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Catalog, Registry, RegistryError, ServiceQuery, Source};
use crate::{config, instance::InstanceSet};
use parse::Services;

/// How often the file is looked at. A change is seen within this time and [`STILL`], which the
/// page on files rounds up to 250 ms.
const POLL: Duration = Duration::from_millis(200);

/// A file that has just changed is read once it has stood still for so long: its writer may be in
/// the middle. Longer than a tick of the file system's clock, so that no two versions look the
/// same.
const STILL: Duration = Duration::from_millis(20);

/// How long an error stays unsaid after it was said. A file that is mended meanwhile is noticed like
/// any other change, and not as late as the watcher's backoff would have it.
const REPEAT: Duration = Duration::from_secs(10);

/// A file of services.
#[derive(Debug)]
pub struct File {
    shared: Arc<Shared>,
}

/// What the cursors have in common.
#[derive(Debug)]
struct Shared {
    registry: String,
    settings: config::File,
    /// The cursor that holds this looks at the file, for all cursors.
    looking: Mutex<Looked>,
    /// What stands in the file, or why it cannot be read; `None` before the first look.
    content: watch::Sender<Option<Content>>,
}

type Content = Result<Arc<Services>, String>;

/// The last look.
#[derive(Debug, Default)]
struct Looked {
    at: Option<Instant>,
    /// Of what was read; `None` where it could not be.
    stamp: Option<Stamp>,
}

/// What differs when a file does: device, inode, size, and the times of its last changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([u64; 3], [(i64, i64); 2]);

impl File {
    /// Prepares what `[registry.NAME]` describes; reads nothing yet.
    pub fn new(name: &str, settings: &config::File) -> Self {
        Self {
            shared: Arc::new(Shared {
                registry: name.to_owned(),
                settings: settings.clone(),
                looking: Mutex::default(),
                content: watch::Sender::new(None),
            }),
        }
    }

    fn cursor<P>(&self, subject: String, parse: P) -> Cursor<P> {
        Cursor {
            shared: Arc::clone(&self.shared),
            subject,
            seen: None,
            failed: false,
            parse,
        }
    }
}

impl Registry for File {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        let subject = format!("service `{}`", query.name);
        let mut before = None;
        Box::new(self.cursor(subject, move |services: &Services, again| {
            let service = services.get(&*query.name);
            let now = Some(service.map(|service| Arc::clone(&service.set)));
            let is_as_before = match (&before, &now) {
                (Some(Some(before)), Some(Some(now))) => Arc::ptr_eq(before, now),
                (Some(None), Some(None)) => true,
                _ => false,
            };
            before = now;
            (again || !is_as_before).then(|| parse::set(services, &query.name, &query.tags))
        }))
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let catalog = |services: &Services, _| Some(Ok(parse::catalog(services)));
        Some(Box::new(self.cursor("the catalog".to_owned(), catalog)))
    }
}

/// One thing that stands in the file.
struct Cursor<P> {
    shared: Arc<Shared>,
    /// What it is, for errors: "service `cart`".
    subject: String,
    /// Tells what stands there, and whether that was seen; `None` asks at once.
    seen: Option<watch::Receiver<Option<Content>>>,
    /// Whether what was seen is an error.
    failed: bool,
    /// What of it is wanted; `None` where that is as it was, unless it is wanted again.
    parse: P,
}

impl<T, P> Source<T> for Cursor<P>
where
    P: FnMut(&Services, bool) -> Option<Result<T, String>> + Send + Sync + 'static,
{
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        Box::pin(async move {
            loop {
                let again = self.failed || self.seen.is_none();
                let seen = match &mut self.seen {
                    None => self.seen.insert(Box::pin(self.shared.first()).await),
                    Some(seen) if self.failed => {
                        // Too late is said again. Boxed, as what is seldom waited for: there is a
                        // cursor for each service.
                        let _ = Box::pin(timeout(REPEAT, self.shared.changed(seen))).await;
                        seen
                    }
                    Some(seen) => {
                        self.shared.changed(seen).await;
                        seen
                    }
                };
                let content = seen.borrow_and_update().clone();
                let state = match content.expect("the first look is over") {
                    Ok(services) => (self.parse)(&services, again),
                    Err(why) => Some(Err(why)),
                };
                let Some(state) = state else { continue };
                self.failed = state.is_err();
                return state.map_err(|why| self.shared.explain(&self.subject, &why));
            }
        })
    }
}

impl Shared {
    /// What stands in the file now, or did at the last look, if that was less than [`POLL`] ago
    /// or the next one is under way.
    async fn first(&self) -> watch::Receiver<Option<Content>> {
        let mut content = self.content.subscribe();
        let looked = async { drop(content.wait_for(Option::is_some).await) };
        tokio::select! {
            biased;
            mut last = self.looking.lock() => {
                if last.at.is_none_or(|at| at.elapsed() >= POLL) {
                    self.look(&mut last).await;
                }
            }
            () = looked => {}
        }
        content
    }

    /// Waits for a change, and looks for one meanwhile unless another cursor does.
    async fn changed(&self, seen: &mut watch::Receiver<Option<Content>>) {
        let looking = async {
            loop {
                let mut last = self.looking.lock().await;
                // Boxed, since one cursor of all has this.
                Box::pin(async {
                    if let Some(at) = last.at {
                        sleep_until(at + POLL).await;
                    }
                    self.look(&mut last).await;
                })
                .await;
            }
        };
        tokio::select! {
            // The sender lives in `self`.
            _ = seen.changed() => {}
            () = looking => {}
        }
    }

    /// Looks at the file, and tells all cursors what stands there if it may have changed.
    async fn look(&self, last: &mut Looked) {
        let found = match self.stamp().await {
            Ok(stamp) if last.stamp == Some(stamp) => None,
            Ok(stamp) => Some(self.read_when_still(stamp).await),
            Err(error) => Some((None, Err(error))),
        };
        if let Some((stamp, content)) = found {
            last.stamp = stamp;
            self.content.send_if_modified(|before| {
                let differs = before.as_ref() != Some(&content);
                *before = Some(content);
                differs
            });
        }
        last.at = Some(Instant::now());
    }

    /// Reads the file as soon as it stands still.
    async fn read_when_still(&self, mut stamp: Stamp) -> (Option<Stamp>, Content) {
        loop {
            sleep(STILL).await;
            let read = tokio::fs::read(&self.settings.path).await;
            match self.stamp().await {
                Err(error) => return (None, Err(error)),
                Ok(now) if now != stamp => stamp = now,
                Ok(_) => {
                    let content = read.map_err(|error| error.to_string()).and_then(|bytes| {
                        let before = self.content.borrow().clone();
                        let before = before.and_then(Result::ok);
                        parse::services(&bytes, self.settings.format, before.as_deref())
                    });
                    // What was wrong may be mended without a change of the file.
                    return (content.is_ok().then_some(stamp), content.map(Arc::new));
                }
            }
        }
    }

    async fn stamp(&self) -> Result<Stamp, String> {
        let metadata = tokio::fs::metadata(&self.settings.path).await;
        let metadata = metadata.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            _ => error.to_string(),
        })?;
        if !metadata.is_file() {
            return Err("it is no file".to_owned());
        }
        Ok(Stamp(
            [metadata.dev(), metadata.ino(), metadata.size()],
            [
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            ],
        ))
    }

    /// One line: who, what was asked, what came back, and the key to look at.
    fn explain(&self, subject: &str, why: &str) -> RegistryError {
        let registry = &self.registry;
        RegistryError {
            message: format!(
                "{registry} in {} cannot be read for {subject}: {why}; check registry.{registry}.path",
                self.settings.path.display()
            ),
            retry_after: None,
            refused: false,
        }
    }
}
