//! Where a listener is.

use std::{
    fmt,
    net::SocketAddr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use crate::config::document::{report::Wrong, value};

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// The IP address and port; `None` where it is no such thing.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether two sockets cannot listen at once. IPv6 sockets take IPv6 only, so that `0.0.0.0` and
    /// `[::]` are two addresses.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (one, other) = match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => (one, other),
            (Self::Unix(one), Self::Unix(other)) => return one == other,
            _ => return false,
        };
        one.port() == other.port()
            && one.port() != 0
            && one.is_ipv4() == other.is_ipv4()
            && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    /// As it stands in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{PREFIX}{}", path.display()),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Before the path of a unix socket.
const PREFIX: &str = "unix:";

/// The kernel takes paths of unix sockets of so many bytes.
const LONGEST: usize = 107;

/// What the name of a socket takes, at most, before it is given its own.
const TEMPORARY: usize = 10;

/// Reads an address to listen on.
pub(super) fn read(text: &str) -> Result<ListenAddress, Wrong> {
    let Some(path) = text.strip_prefix(PREFIX) else {
        let wrong = || Wrong::new(format!("`{text}` is not an IP address with a port"));
        return match text.starts_with('/') {
            true => Err(wrong().suggest(format!("did you mean \"{PREFIX}{text}\"?"))),
            false => value::listen_address(text).map(ListenAddress::Tcp),
        };
    };
    socket_path(path).map(|path| ListenAddress::Unix(path.to_owned()))
}

/// The path of a unix socket.
pub(in crate::config) fn socket_path(text: &str) -> Result<&Path, Wrong> {
    let path = Path::new(text);
    let is_file = path.file_name().is_some() && !text.ends_with('/') && !text.contains('\0');
    if !path.is_absolute() || !is_file {
        let wrong = Wrong::new(format!("`{text}` is not the whole path of a unix socket"));
        return Err(wrong.suggest("write it like \"unix:/run/callboard/http.sock\""));
    }
    let folder = path
        .parent()
        .map_or(0, |folder| folder.as_os_str().as_bytes().len());
    if text.len() > LONGEST || folder + TEMPORARY > LONGEST {
        let wrong = Wrong::new(format!("the path `{text}` is longer than the kernel takes"));
        let folder = LONGEST - TEMPORARY;
        return Err(wrong.suggest(format!(
            "write one of at most {LONGEST} bytes, of which at most {folder} are its folder's"
        )));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_takes_its_port_from_all_of_its_family() {
        for (one, other, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::1]:80", "[::]:80", true),
            ("0.0.0.0:80", "[::]:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "127.0.0.1:80", false),
        ] {
            let address = |text| read(text).ok().unwrap();
            let result = address(one).overlaps(&address(other));
            assert_eq!(result, expected, "{one} {other}");
        }
    }

    #[test]
    fn a_unix_socket_has_a_whole_path_that_the_kernel_takes() {
        let path = |length: usize| format!("unix:/{}", "x".repeat(length - 1));
        for text in ["unix:/run/a.sock", "unix:/a", &path(107)] {
            assert_eq!(read(text).ok().unwrap().to_string(), *text);
        }
        let deep = |length: usize| format!("unix:/{}/s", "x".repeat(length - 1));
        assert!(read(&deep(97)).is_ok());
        for text in [
            "unix:a.sock",
            "unix:",
            "unix:/",
            "unix:/run/",
            "unix:@a",
            "/run/a.sock",
            &path(108),
            &deep(98),
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
