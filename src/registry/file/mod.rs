//! A file of endpoints that an operator keeps by hand, as a [`Registry`]. Owns how its changes are
//! noticed; what stands in it is read in `parse`. Knows nothing of retrying, which
//! [`watch`](super::watch) does for every registry.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod parse;
mod sections;

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

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
    looking: Mutex<Looked>,
    /// What stands in the file, or why it cannot be read; `None` before the first look.
    content: watch::Sender<Option<Content>>,
    /// Looks at the file for all cursors, from the first question on and for as long as this is here.
    looker: OnceLock<AbortOnDropHandle<()>>,
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
                looker: OnceLock::new(),
            }),
        }
    }

    fn cursor<W>(&self, wanted: W) -> Cursor<W> {
        Cursor {
            shared: Arc::clone(&self.shared),
            seen: None,
            failed: false,
            wanted,
        }
    }
}

impl Registry for File {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        Box::new(self.cursor(OfService {
            name: query.name.into(),
            tags: query.tags.into(),
            before: None,
        }))
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        Some(Box::new(self.cursor(OfAll)))
    }
}

/// One thing that stands in the file. There is a cursor for each service: what can be made when it is
/// wanted is not kept, and what is seldom waited for is boxed.
struct Cursor<W> {
    shared: Arc<Shared>,
    /// Tells what stands there, and whether that was seen; `None` asks at once.
    seen: Option<watch::Receiver<Option<Content>>>,
    /// Whether what was seen is an error.
    failed: bool,
    wanted: W,
}

/// What a cursor wants of the file.
trait Wanted<T>: Send + Sync + 'static {
    /// What it is, for errors: "service `cart`".
    fn subject(&self) -> String;

    /// What stands there of it; `None` where that is as it was, unless it is wanted again.
    fn read(&mut self, services: &Services, again: bool) -> Option<Result<T, String>>;
}

/// The instances of a service that have these tags.
struct OfService {
    name: Box<str>,
    tags: Box<[String]>,
    /// What was read last, where it stands in the file; `None` before the first time.
    before: Option<Option<Arc<Result<InstanceSet, String>>>>,
}

impl Wanted<InstanceSet> for OfService {
    fn subject(&self) -> String {
        format!("service `{}`", self.name)
    }

    fn read(&mut self, services: &Services, again: bool) -> Option<Result<InstanceSet, String>> {
        let service = services.get(&*self.name);
        let now = service.map(|service| Arc::clone(&service.set));
        let before = self.before.replace(now.clone());
        let is_as_before = match (before, now) {
            (Some(Some(before)), Some(now)) => Arc::ptr_eq(&before, &now),
            (Some(None), None) => true,
            _ => false,
        };
        (again || !is_as_before).then(|| parse::set(services, &self.name, &self.tags))
    }
}

/// The names of all services.
struct OfAll;

impl Wanted<Catalog> for OfAll {
    fn subject(&self) -> String {
        "the catalog".to_owned()
    }

    fn read(&mut self, services: &Services, _: bool) -> Option<Result<Catalog, String>> {
        Some(Ok(parse::catalog(services)))
    }
}

impl<T, W: Wanted<T>> Source<T> for Cursor<W> {
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        Box::pin(async move {
            loop {
                let again = self.failed || self.seen.is_none();
                let seen = match &mut self.seen {
                    None => self
                        .seen
                        .insert(Box::pin(Shared::first(&self.shared)).await),
                    Some(seen) => {
                        // The sender lives as long as the cursor; too late is said again.
                        if self.failed {
                            let _ = Box::pin(timeout(REPEAT, seen.changed())).await;
                        } else {
                            let _ = seen.changed().await;
                        }
                        seen
                    }
                };
                let content = seen.borrow_and_update().clone();
                let state = match content.expect("the first look is over") {
                    Ok(services) => self.wanted.read(&services, again),
                    Err(why) => Some(Err(why)),
                };
                let Some(state) = state else { continue };
                self.failed = state.is_err();
                return state.map_err(|why| self.shared.explain(&self.wanted.subject(), &why));
            }
        })
    }
}

impl Shared {
    /// What stands in the file now, or did at the last look, if that was less than [`POLL`] ago
    /// or the next one is under way. From then on the file is looked at.
    async fn first(this: &Arc<Self>) -> watch::Receiver<Option<Content>> {
        let mut content = this.content.subscribe();
        let looked = async { drop(content.wait_for(Option::is_some).await) };
        tokio::select! {
            biased;
            mut last = this.looking.lock() => {
                if last.at.is_none_or(|at| at.elapsed() >= POLL) {
                    this.look(&mut last).await;
                }
            }
            () = looked => {}
        }
        let look_on = || AbortOnDropHandle::new(tokio::spawn(look_on(Arc::downgrade(this))));
        this.looker.get_or_init(look_on);
        content
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
            self.tell(content);
        }
        last.at = Some(Instant::now());
    }

    fn tell(&self, content: Content) {
        self.content.send_if_modified(|before| {
            let differs = before.as_ref() != Some(&content);
            *before = Some(content);
            differs
        });
    }

    /// Reads the file as soon as it stands still.
    async fn read_when_still(&self, mut stamp: Stamp) -> (Option<Stamp>, Content) {
        loop {
            sleep(STILL).await;
            let path = self.settings.path.clone();
            let read = spawn_blocking(move || read(&path)).await;
            let read = read.unwrap_or_else(|panic| Err(io::Error::other(panic)));
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
        RegistryError::new(format!(
            "{registry} in {} cannot be read for {subject}: {why}",
            self.settings.path.display()
        ))
        .naming(registry, Some("path"))
    }
}

/// A block of more than this glibc takes from the system, and gives it back whole. A smaller one may
/// come out of a thread's heap, which keeps it: its limit for that rises up to this with what is freed.
const FROM_THE_SYSTEM: usize = 32 << 20;

/// Files up to this size are read into as little as they need.
const SMALL: usize = 128 << 10;

/// A file's bytes. Of the room for a large one only what is filled is ever in memory.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let room = if size > SMALL {
        size.max(FROM_THE_SYSTEM)
    } else {
        size
    };
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(room.saturating_add(1))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Looks at the file for as long as there is a cursor. A panic is an error like any other, and said by
/// each cursor.
async fn look_on(shared: Weak<Shared>) {
    loop {
        sleep(POLL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let look = async { shared.look(&mut *shared.looking.lock().await).await };
        if AssertUnwindSafe(look).catch_unwind().await.is_err() {
            shared.tell(Err("reading it panicked".to_owned()));
            sleep(REPEAT).await;
        }
    }
}
