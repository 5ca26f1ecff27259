//! The file of a unix socket that is listened on. It has its name only when it takes connections and has
//! its permissions, so that no client finds it half made. A process that listens there keeps it, a file
//! that one has left behind is taken away, and each process removes its own and no other. With a socket that
//! goes on to another process goes its file.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    mem,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use parking_lot::Mutex;
use socket2::{Domain, SockAddr, Socket, Type};

/// How often a file that was left behind is taken away, and another one is found in its place.
const TRIES: usize = 3;

/// What tells a file from one that had its name before, or has it since: its device and its number there.
pub(crate) type Id = (u64, u64);

/// The file of a socket of ours, which is removed with this where it is ours to remove.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: Id,
    claim: Mutex<Claim>,
}

/// Whose the path of a socket is.
#[derive(Debug)]
enum Claim {
    /// This process's.
    Ours,
    /// Another process's, until this one takes it: the socket has this name until then.
    Beside(Temporary),
    /// The process's that has bound the socket, until this one takes it with these permissions.
    Inherited(u32),
    /// Another process's: one that goes on with the socket, or the supervisor.
    Theirs,
}

impl SocketFile {
    /// Listens with these permissions. `alone`: at this path, and only where no process listens there; else
    /// that process has the path until [`SocketFile::take_path`].
    ///
    /// # Errors
    /// [`ErrorKind::AddrInUse`] where another process listens there.
    pub(super) fn listen(
        path: &Path,
        mode: u32,
        backlog: i32,
        alone: bool,
    ) -> io::Result<(Self, UnixListener)> {
        let temporary = Temporary::beside(path);
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.bind(&SockAddr::unix(&temporary.0)?)?;
        fs::set_permissions(&temporary.0, Permissions::from_mode(mode))?;
        socket.listen(backlog)?;
        let id = id(&temporary.0)?;
        let claim = match alone {
            true => {
                temporary.link_to(path)?;
                Claim::Ours
            }
            false => Claim::Beside(temporary),
        };
        let file = Self {
            path: path.to_owned(),
            id,
            claim: Mutex::new(claim),
        };
        Ok((file, socket.into()))
    }

    /// The file of a socket that another process has bound at this path, and `mode` what it is to have for
    /// permissions once it is ours; `None` where the supervisor keeps it. `file` is which one it is, by that
    /// process's word.
    ///
    /// # Errors
    /// Where it is not there, and nothing is said of which it is.
    pub(super) fn inherited(path: &Path, mode: Option<u32>, file: Option<Id>) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            id: file.map_or_else(|| id(path), Ok)?,
            claim: Mutex::new(mode.map_or(Claim::Theirs, Claim::Inherited)),
        })
    }

    /// Which file it is.
    pub(super) fn id(&self) -> Id {
        self.id
    }

    /// Whether it is ours, and has this path: also where that leads there by other folders.
    pub(crate) fn is_ours_at(&self, path: &Path) -> bool {
        matches!(*self.claim.lock(), Claim::Ours) && is_at(path, self.id)
    }

    /// Leaves it to the process that goes on with the socket.
    pub(super) fn leave(&self) {
        *self.claim.lock() = Claim::Theirs;
    }

    /// Whether it could listen at this path, as far as can be said without doing so.
    ///
    /// # Errors
    /// As for [`SocketFile::listen`].
    pub(super) fn try_to_listen(path: &Path) -> io::Result<()> {
        match left_behind(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Self::try_to_listen_beside(path),
        }
    }

    /// Whether a file could be made beside this path.
    ///
    /// # Errors
    /// Where the folder is not there, or may not be written to.
    pub(super) fn try_to_listen_beside(path: &Path) -> io::Result<()> {
        let temporary = Temporary::beside(path);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&temporary.0)?)
    }

    /// Gives it other permissions, unless the path is another's by now.
    ///
    /// # Errors
    /// Where the folder may not be used any more.
    pub(crate) fn change_mode(&self, mode: u32) -> io::Result<()> {
        if !matches!(*self.claim.lock(), Claim::Ours) || id(&self.path)? != self.id {
            return Ok(());
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    /// Takes the path from the process that has it, unless that is done: clients are this process's from now
    /// on. Dropped before, the file stays.
    ///
    /// # Errors
    /// Where the folder may not be changed any more.
    pub(crate) fn take_path(&self) -> io::Result<()> {
        let mut claim = self.claim.lock();
        match mem::replace(&mut *claim, Claim::Ours) {
            Claim::Beside(name) => fs::rename(&name.0, &self.path),
            // The path may be another's by now.
            Claim::Inherited(mode) if id(&self.path)? == self.id => {
                fs::set_permissions(&self.path, Permissions::from_mode(mode))
            }
            Claim::Inherited(_) => Ok(()),
            before @ Claim::Theirs => {
                *claim = before;
                Ok(())
            }
            Claim::Ours => Ok(()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if matches!(self.claim.get_mut(), Claim::Ours) {
            // Unless it is another's by now. Where it cannot be removed, the next process says so.
            let _ = remove(&self.path, self.id);
        }
    }
}

/// A name of this process's own, which is removed with this.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Self {
        // By chance: processes of two containers may have one number, and share the folder.
        Self(path.with_file_name(format!(".{:08x}", fastrand::u32(..))))
    }

    /// Gives the file this name too, in place of one that a process has left behind.
    fn link_to(&self, path: &Path) -> io::Result<()> {
        for _ in 0..TRIES {
            match fs::hard_link(&self.0, path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
            match left_behind(path) {
                Ok(id) => remove(path, id).map_err(not_removed)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EADDRINUSE.into())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed, or never made, it is not there.
        let _ = fs::remove_file(&self.0);
    }
}

/// The socket file at this path, where no process listens at it.
fn left_behind(path: &Path) -> io::Result<Id> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.file_type().is_socket() {
        let reason = "the file is there, and is no socket";
        return Err(io::Error::new(ErrorKind::AlreadyExists, reason));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(id_of(&metadata)),
        // It would block where the queue of a process is full.
        Ok(()) => Err(Errno::EADDRINUSE.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Errno::EADDRINUSE.into()),
        Err(error) => Err(error),
    }
}

/// Whether this file has the path.
pub(crate) fn is_at(path: &Path, file: Id) -> bool {
    id(path).is_ok_and(|own| own == file)
}

/// Whether both paths lead to one socket.
pub(crate) fn is_one_socket(one: &Path, other: &Path) -> bool {
    id(one).is_ok_and(|file| id(other).is_ok_and(|other| other == file))
}

/// As of a file of another user's in a folder that is sticky.
fn not_removed(error: io::Error) -> io::Error {
    let text = format!("the file that a process has left behind cannot be removed: {error}");
    io::Error::new(error.kind(), text)
}

/// Removes this file. One that has its name is put back.
fn remove(path: &Path, file: Id) -> io::Result<()> {
    if id(path).ok() != Some(file) {
        return Ok(());
    }
    // Between a look and a removal another one might take the name.
    let aside = Temporary::beside(path);
    match fs::rename(path, &aside.0) {
        Ok(()) if id(&aside.0).ok() != Some(file) => fs::hard_link(&aside.0, path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

fn id(path: &Path) -> io::Result<Id> {
    fs::symlink_metadata(path).map(|metadata| id_of(&metadata))
}

fn id_of(metadata: &fs::Metadata) -> Id {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::net::UnixStream};

    use super::*;

    fn listen(path: &Path, alone: bool) -> io::Result<(SocketFile, UnixListener)> {
        SocketFile::listen(path, 0o600, 16, alone)
    }

    fn names(folder: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_socket_has_its_permissions_and_is_gone_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (file, _listener) = listen(&path, true).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert_eq!(names(folder.path()), ["http.sock"]);
        drop(file);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_path_at_which_a_process_listens_is_its_own_and_one_that_was_left_behind_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (file, listener) = listen(&path, true).unwrap();
        let second = listen(&path, true).err().map(|error| error.kind());
        assert_eq!(second, Some(ErrorKind::AddrInUse));
        UnixStream::connect(&path).unwrap();
        // As after kill -9.
        std::mem::forget(file);
        drop(listener);
        assert!(UnixStream::connect(&path).is_err());
        let (_file, _listener) = listen(&path, true).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(names(folder.path()), ["http.sock"]);
    }

    #[test]
    fn a_successor_takes_the_path_at_once_and_the_one_before_leaves_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (file, listener) = listen(&path, true).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        let (successor, next) = listen(&path, false).unwrap();
        let _too = UnixStream::connect(&path).unwrap();
        successor.take_path().unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        drop(file);
        for is_theirs in [true, true, false] {
            assert_eq!(listener.accept().is_ok(), is_theirs);
        }
        assert!(next.accept().is_ok());
        UnixStream::connect(&path).unwrap();
        // It is done.
        successor.take_path().unwrap();
        assert_eq!(names(folder.path()), ["http.sock"]);
    }

    #[test]
    fn a_successor_that_takes_no_path_leaves_it_to_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (_file, listener) = listen(&path, true).unwrap();
        drop(listen(&path, false).unwrap());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().is_ok());
        assert_eq!(names(folder.path()), ["http.sock"]);
    }

    #[test]
    fn an_inherited_file_is_its_heirs_once_that_one_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (file, listener) = listen(&path, true).unwrap();
        drop(SocketFile::inherited(&path, Some(0o660), None).unwrap());
        UnixStream::connect(&path).unwrap();
        let heir = SocketFile::inherited(&path, Some(0o660), None).unwrap();
        heir.take_path().unwrap();
        file.leave();
        drop(file);
        UnixStream::connect(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(SocketFile::inherited(&path, None, None).unwrap());
        drop(heir);
        assert!(names(folder.path()).is_empty());
        drop(listener);
    }

    #[test]
    fn a_path_that_is_anothers_by_now_is_neither_changed_nor_removed_by_an_heir() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (file, _listener) = listen(&path, true).unwrap();
        let id = file.id();
        assert!(is_at(&path, id));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&path, id));
        let heir = SocketFile::inherited(&path, Some(0o666), Some(id)).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let before = mode();
        heir.take_path().unwrap();
        file.leave();
        drop((heir, file));
        assert_eq!((mode(), before == 0o666), (before, false));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        fs::write(&path, "mine").unwrap();
        let error = listen(&path, true).unwrap_err();
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let missing = listen(&folder.path().join("none/a"), true).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
