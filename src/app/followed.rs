//! The file that is followed, and those that it includes: whether they are others than they were. Knows
//! nothing of what they say.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use crate::{
    config::Include,
    tls::{Stamp, stamp},
};

/// What was found at one moment: the files by their names.
pub(super) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// A file, and what it includes as it was when it was last another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    path: PathBuf,
    own: Option<Stamp>,
    includes: Vec<Include>,
}

impl Followed {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
    }

    /// Looks, off the runtime's threads: the files may lie on a slow disk.
    pub(super) async fn look(self) -> (Self, Stamps) {
        let path = self.path.clone();
        let looked = spawn_blocking(move || self.look_now()).await;
        looked.unwrap_or_else(|_| (Self::new(&path), Stamps::new()))
    }

    /// What the file includes is read only where it is another one: a large file takes its time.
    pub(super) fn look_now(mut self) -> (Self, Stamps) {
        let now = stamp(&self.path);
        if now != self.own {
            // One that cannot be read for a moment includes what it did.
            if let Ok(includes) = Include::of_file(&self.path) {
                (self.own, self.includes) = (now, includes);
            }
        }
        let files = self
            .includes
            .iter()
            .flat_map(|include| include.files().unwrap_or_default());
        let mut stamps: Stamps = files.map(|path| (path.clone(), stamp(&path))).collect();
        stamps.insert(self.path.clone(), now);
        (self, stamps)
    }
}

/// Whether the files are others than those that were used, and the same as a moment ago: one that is being
/// written is waited for. The first of them must be there.
pub(super) fn is_due(path: &Path, used: &Stamps, seen: &Stamps, now: &Stamps) -> bool {
    let is_there = now.get(path).is_some_and(Option::is_some);
    is_there && now != used && now == seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Followed::new(&path).look_now().1
        };
        let (first, second) = (write("a"), write("ab"));
        let is_due = |used, seen, now| is_due(&path, used, seen, now);
        assert!(!is_due(&first, &first, &first) && !is_due(&first, &first, &second));
        assert!(is_due(&first, &second, &second));
        assert!(!is_due(&second, &second, &second));
        std::fs::remove_file(&path).unwrap();
        let none = Followed::new(&path).look_now().1;
        assert!(!is_due(&first, &none, &none));
    }

    #[test]
    fn a_file_that_is_included_comes_and_changes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("conf.d")).unwrap();
        let mut followed = Followed::new(&at("proxy.toml"));
        let mut seen = Vec::new();
        let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
        for step in 0..6 {
            match step {
                0 => write("proxy.toml", ""),
                1 => write("proxy.toml", "include = \"conf.d/*.toml\""),
                2 => write("conf.d/a.toml", "a"),
                3 => write("conf.d/a.toml", "ab"),
                4 => write("conf.d/a.txt", "no matter"),
                _ => std::fs::remove_file(at("conf.d/a.toml")).unwrap(),
            }
            let (next, stamps) = followed.look_now();
            followed = next;
            seen.push(stamps);
        }
        assert_ne!(seen[0], seen[1]);
        assert_ne!(seen[1], seen[2]);
        assert_ne!(seen[2], seen[3]);
        assert_eq!(seen[3], seen[4]);
        assert_eq!(seen[5], seen[1]);
    }

    #[test]
    fn a_file_that_cannot_be_read_for_a_moment_includes_what_it_did() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.toml"), "a").unwrap();
        std::fs::write(at("proxy.toml"), "include = \"a.toml\"").unwrap();
        let (followed, _) = Followed::new(&at("proxy.toml")).look_now();
        std::fs::write(at("proxy.toml"), [0xff]).unwrap();
        let (followed, stamps) = followed.look_now();
        assert!(stamps.contains_key(&at("a.toml")));
        std::fs::write(at("proxy.toml"), "").unwrap();
        assert!(!followed.look_now().1.contains_key(&at("a.toml")));
    }
}
