//! Files that are replaced as a whole or not at all, and files that one process has for itself.
//! Knows nothing of what stands in them. Takes as long as the disk takes.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Only the owner may read and write.
const MODE: u32 = 0o600;

/// A new version of a file, beside it under another name until it takes its place. Dropped before
/// that, it is removed, and the file is what it was. Readable by its owner only.
///
/// Two replacements of one file at the same time would write into each other. Their callers exclude
/// each other by a [`lock`].
#[derive(Debug)]
pub(crate) struct Replacement {
    file: Option<File>,
    path: PathBuf,
}

impl Replacement {
    /// Begins an empty one for the file at `path`.
    ///
    /// # Errors
    /// Where nothing can be made in its folder.
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.mode(MODE).open(temporary(path))?;
        Ok(Self {
            file: Some(file),
            path: path.to_owned(),
        })
    }

    /// What is written to it.
    pub(crate) fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("it is there until it is placed")
    }

    /// Lets it take the file's place, which survives a power cut; what was written to it does
    /// where it was synced. Returns it, still open.
    ///
    /// # Errors
    /// Where it cannot be renamed.
    pub(crate) fn place(mut self) -> io::Result<File> {
        fs::rename(temporary(&self.path), &self.path)?;
        let file = self.file.take().expect("only this takes it");
        // It is in its place, and written to from here on, though a power cut may undo that.
        let synced = File::open(folder(&self.path)).and_then(|folder| folder.sync_all());
        if let Err(error) = synced {
            tracing::warn!(path = %self.path.display(), %error, "a folder cannot be synced");
        }
        Ok(file)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What cannot be removed is written over the next time.
            let _ = fs::remove_file(temporary(&self.path));
        }
    }
}

/// Replaces a file by these bytes, which are on the disk when this returns.
///
/// # Errors
/// Where the disk has no room or takes nothing; the file is then what it was.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = Replacement::begin(path)?;
    new.file().write_all(bytes)?;
    new.file().sync_all()?;
    new.place().map(drop)
}

/// Takes the lock that a file stands for, making the file where it is not there. It is held for as
/// long as the file is open, and no longer than the process lives. Only the file's owner may open it: another
/// could take the lock, and never let go of it.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] where another process has it; else why the file cannot be had.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o777 != MODE {
        // Made by another umask, or by hand. Where it is another's, it is its owner's to say.
        let _ = file.set_permissions(Permissions::from_mode(MODE));
    }
    file.try_lock()?;
    Ok(file)
}

/// The folder of a file; that of a bare name is where the process stands.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for text in ["a longer text", "short"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn where_the_disk_is_full_the_file_stays_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"before").unwrap();
        symlink("/dev/full", temporary(&path)).unwrap();
        let error = replace(&path, b"after").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(names(folder.path()), ["a"], "nothing is left beside it");
    }

    #[test]
    fn a_lock_is_one_holders_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let held = lock(&path).unwrap();
        let mode = held.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "no other can take it");
        let error = lock(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        lock(&path).unwrap();
    }
}
