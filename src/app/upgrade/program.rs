//! What this process was started by, to be started again: by the path that led to it, where another file
//! may stand by now.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

/// Tells a process whose successor it is to be, by that one's id.
pub(super) const OF: &str = "CALLBOARD_UPGRADE_OF";

/// What a supervisor says to one process, and to no child of it.
const OF_ONE_PROCESS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// A binary, by its path, and its arguments.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// What this process was started by. To be asked at its start, while that file is there.
    ///
    /// # Errors
    /// Where the system does not say.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let running = env::current_exe()?;
        // The system names the file itself. A link that led to it may lead to another one later.
        let paths = env::var_os("PATH").unwrap_or_default();
        let path = led_by(&name, &paths).filter(|path| is_one_file(path, &running));
        Ok(Self {
            path: path.unwrap_or(running),
            name,
            arguments: arguments.collect(),
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts what stands there now, as this process was started, with the channel for standard input.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn start(&self, channel: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        command.arg0(&self.name).args(&self.arguments);
        command.env(OF, std::process::id().to_string());
        for name in OF_ONE_PROCESS {
            command.env_remove(name);
        }
        command.stdin(Stdio::from(channel)).spawn()
    }
}

/// Where a shell finds a program of this name.
fn led_by(name: &OsStr, paths: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name).ok();
    }
    let mut found = env::split_paths(paths).map(|folder| folder.join(name));
    std::path::absolute(found.find(|path| path.is_file())?).ok()
}

fn is_one_file(one: &Path, other: &Path) -> bool {
    let id = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    id(one).is_ok_and(|one| id(other).is_ok_and(|other| other == one))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_path_is_the_one_that_led_to_the_binary_and_not_the_one_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let [binary, link] = ["callboard-1", "callboard"].map(|name| folder.path().join(name));
        fs::write(&binary, "").unwrap();
        symlink(&binary, &link).unwrap();
        let paths = env::join_paths([Path::new("/nowhere"), folder.path()]).unwrap();
        for name in [link.as_os_str(), OsStr::new("callboard")] {
            let led = led_by(name, &paths).unwrap();
            assert_eq!(led, link);
            assert!(is_one_file(&led, &binary));
        }
        assert_eq!(led_by(OsStr::new("other"), &paths), None);
        fs::remove_file(&link).unwrap();
        assert!(!is_one_file(&link, &binary));
    }
}
