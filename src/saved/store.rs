//! The file itself: read once at the start, and then replaced as a whole by the one process that
//! has its lock; and what came of that.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use super::Contents;
use crate::disk;

/// The file, and what is known of it. Reading and writing take as long as the disk takes.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    max_age: Duration,
    /// Which registry has which name.
    registries: Mutex<BTreeMap<Arc<str>, String>>,
    lock: Mutex<Lock>,
    known: Mutex<Known>,
}

/// Whether the file is this process's to write.
#[derive(Debug, Default)]
enum Lock {
    /// Not before the first time.
    #[default]
    None,
    /// From then on.
    Held { _file: fs::File },
    /// A successor's.
    HandedOver,
}

#[derive(Debug, Default)]
struct Known {
    found: Found,
    written: Option<SystemTime>,
    writes: u64,
    failures: u64,
    error: Option<String>,
}

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// No file.
    #[default]
    Nothing,
    /// One that could be used.
    Usable {
        /// How many sets and catalogs.
        entries: usize,
        /// Those that were older than `max_age`, and are not among them.
        too_old: usize,
        /// Those that another registry had said, whose name is now given to a different one.
        of_others: usize,
    },
    /// One that cannot be read, and why. It is replaced at the next change.
    Unusable(String),
}

/// A [`Store`] at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Where it is.
    pub file: PathBuf,
    /// What was there at the start.
    pub found: Found,
    /// When it was last written by this process, in seconds since 1970.
    pub written: Option<f64>,
    /// How often it was written.
    pub writes: u64,
    /// How often it could not be.
    pub failures: u64,
    /// Why it could not be written the last time.
    pub error: Option<String>,
}

impl Store {
    /// The file at `path`, of which nothing is used that is older than `max_age`, or was said by
    /// another registry than the one that has its name now. Touches nothing yet.
    pub fn new(path: PathBuf, max_age: Duration, registries: BTreeMap<Arc<str>, String>) -> Self {
        Self {
            path,
            max_age,
            registries: Mutex::new(registries),
            lock: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// The names have these registries from now on.
    pub fn follow(&self, registries: BTreeMap<Arc<str>, String>) {
        *self.registries.lock() = registries;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is there; nothing where there is none, or none that can be used, which is said
    /// in the log.
    pub fn read(&self) -> Contents {
        let path = self.path.display();
        let read = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Contents::default(),
            Err(error) => Err(format!("it cannot be read: {error}")),
            Ok(bytes) => Contents::read(&bytes).map_err(|error| error.to_string()),
        };
        match read {
            Ok(mut contents) => {
                let of_others = contents.drop_others(&self.registries.lock());
                let too_old = contents.drop_older(self.max_age, SystemTime::now());
                let entries = contents.len();
                tracing::info!(file = %path, entries, too_old, "the last good sets were read from the snapshot");
                if of_others > 0 {
                    tracing::warn!(file = %path, of_others, "sets of the snapshot are not used: other registries had said them");
                }
                self.known().found = Found::Usable {
                    entries,
                    too_old,
                    of_others,
                };
                contents
            }
            Err(reason) => {
                tracing::error!(file = %path, reason, "the snapshot is not used");
                self.known().found = Found::Unusable(reason);
                Contents::default()
            }
        }
    }

    /// Leaves the file to a successor. Nothing is written after this.
    pub fn hand_over(&self) {
        *self.lock.lock() = Lock::HandedOver;
    }

    /// Replaces what is there. The first time, this process takes the file for itself. Once it is a
    /// successor's this does nothing.
    ///
    /// # Errors
    /// Why not, in a line; what was there stays.
    pub fn write(&self, contents: &Contents) -> Result<(), String> {
        let registries = self.registries.lock().clone();
        let mut lock = self.lock.lock();
        if matches!(*lock, Lock::HandedOver) {
            return Ok(());
        }
        let written = self.replace(&mut lock, &contents.write(&registries));
        drop(lock);
        let mut known = self.known();
        known.error = written.as_ref().err().cloned();
        match written {
            Ok(()) => {
                known.written = Some(SystemTime::now());
                known.writes += 1;
            }
            Err(_) => known.failures += 1,
        }
        written
    }

    fn replace(&self, lock: &mut Lock, bytes: &[u8]) -> Result<(), String> {
        let done = (|| {
            if matches!(lock, Lock::None) {
                fs::create_dir_all(disk::folder(&self.path))?;
                let mut name = self.path.as_os_str().to_owned();
                name.push(".lock");
                *lock = Lock::Held {
                    _file: disk::lock(Path::new(&name))?,
                };
            }
            disk::replace(&self.path, bytes)
        })();
        done.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => "another process has it; give each a `file`".to_owned(),
            _ => error.to_string(),
        })
    }

    /// What is known of it.
    pub fn status(&self) -> Status {
        let known = self.known();
        let since_1970 = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok();
        Status {
            file: self.path.clone(),
            found: known.found.clone(),
            written: known
                .written
                .and_then(since_1970)
                .map(|since| since.as_secs_f64()),
            writes: known.writes,
            failures: known.failures,
            error: known.error.clone(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::Set;
    use super::*;
    use crate::evidence::Evidence;

    const DAY: Duration = Duration::from_secs(86_400);

    fn contents(service: &str) -> Contents {
        Contents {
            sets: vec![Set {
                service: service.into(),
                name: service.to_owned(),
                registry: "main".into(),
                confirmed: UNIX_EPOCH + DAY * 20_000,
                instances: Vec::new(),
                evidence: Evidence::default(),
            }],
            catalogs: Vec::new(),
            registries: registries("http://a"),
        }
    }

    fn registries(main: &str) -> BTreeMap<Arc<str>, String> {
        [("main".into(), format!("consul at {main}"))].into()
    }

    /// Long enough for what is confirmed in [`contents`].
    fn store(folder: &Path) -> Store {
        Store::new(
            folder.join("data/snapshot.json"),
            DAY * 200_000,
            registries("http://a"),
        )
    }

    #[test]
    fn what_was_written_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let first = store(folder.path());
        assert_eq!(first.read(), Contents::default());
        assert_eq!(first.status().found, Found::Nothing);
        first.write(&contents("cart")).unwrap();
        drop(first);
        let second = store(folder.path());
        assert_eq!(second.read(), contents("cart"));
        let found = |entries, too_old, of_others| Found::Usable {
            entries,
            too_old,
            of_others,
        };
        assert_eq!(second.status().found, found(1, 0, 0));
        let impatient = Store::new(second.path().to_owned(), DAY, registries("http://a"));
        assert_eq!(impatient.read().len(), 0);
        assert_eq!(impatient.status().found, found(0, 1, 0));
        let path = second.path().to_owned();
        let moved = Store::new(path, DAY * 200_000, registries("http://b"));
        assert_eq!(moved.read().len(), 0);
        assert_eq!(moved.status().found, found(0, 0, 1));
    }

    #[test]
    fn what_cannot_be_read_is_said_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        fs::create_dir_all(store.path().parent().unwrap()).unwrap();
        for (bytes, reason) in [
            (&b""[..], "it cannot be read: EOF"),
            (b"{\"format\":1,\"sets\":[", "it cannot be read: EOF"),
            (b"\xff\x00", "it cannot be read: expected value"),
            (b"{\"format\":7}", "its format is 7, not 2"),
            (
                b"{\"format\":1,\"sets\":[],\"catalogs\":[]}",
                "its format is 1, not 2",
            ),
        ] {
            fs::write(store.path(), bytes).unwrap();
            assert_eq!(store.read(), Contents::default());
            match store.status().found {
                Found::Unusable(said) => assert!(said.starts_with(reason), "{said}"),
                other => panic!("{other:?}"),
            }
            store.write(&contents("cart")).unwrap();
            assert_eq!(store.read(), contents("cart"));
        }
        fs::remove_file(store.path()).unwrap();
        fs::create_dir(store.path()).unwrap();
        assert_eq!(store.read(), Contents::default());
        assert!(matches!(store.status().found, Found::Unusable(_)));
    }

    #[test]
    fn where_the_disk_is_full_what_was_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.write(&contents("cart")).unwrap();
        symlink("/dev/full", folder.path().join("data/snapshot.json.new")).unwrap();
        let error = store.write(&contents("other")).unwrap_err();
        assert!(error.contains("No space left"), "{error}");
        assert_eq!(store.read(), contents("cart"));
        let status = store.status();
        assert_eq!((status.writes, status.failures), (1, 1));
        assert_eq!(status.error, Some(error));
        store.write(&contents("other")).unwrap();
        assert_eq!(store.status().error, None);
    }

    #[test]
    fn of_two_processes_one_has_it_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (store(folder.path()), store(folder.path()));
        one.write(&contents("cart")).unwrap();
        let error = other.write(&contents("other")).unwrap_err();
        assert!(error.starts_with("another process has it"), "{error}");
        assert_eq!(other.read(), contents("cart"));
        drop(one);
        other.write(&contents("other")).unwrap();
    }
}
