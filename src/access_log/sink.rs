//! Where lines are written to: standard output, a file, or a syslog (RFC 3164, as what listens at
//! `/dev/log` understands it).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write, stdout},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::{
        fs::{FileExt, FileTypeExt, OpenOptionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::fcntl::OFlag;

use super::{line, queue::Piece};
use crate::config::LogTarget;

/// `local7.info`, as web servers have it.
const PRIORITY: &str = "<190>";

/// A place that lines can be written to.
#[derive(Debug)]
pub(super) enum Sink {
    /// The process's own output.
    Stdout {
        /// As for a file.
        is_torn: bool,
    },
    /// A file's end.
    File {
        /// Where it is.
        path: PathBuf,
        /// Opened.
        file: File,
        /// Its last line has no end, since writing failed amid it.
        is_torn: bool,
    },
    /// A syslog of this machine.
    Socket(UnixDatagram, PathBuf),
    /// One that listens for datagrams.
    Udp {
        /// Sends to any.
        socket: UdpSocket,
        /// Where it listens.
        to: SocketAddr,
        /// The name of this machine, which others cannot know.
        host: String,
    },
}

/// Why so many lines were not written.
pub(super) struct Lost {
    pub lines: u64,
    pub error: io::Error,
}

impl Sink {
    pub(super) fn open(target: &LogTarget) -> io::Result<Self> {
        Ok(match target {
            LogTarget::Stdout => Self::Stdout { is_torn: false },
            LogTarget::File(path) => Self::File {
                file: append(path)?,
                path: path.clone(),
                is_torn: ends_amid_a_line(path),
            },
            LogTarget::SyslogSocket(path) => {
                let socket = UnixDatagram::unbound()?;
                // A syslog that is not there yet is found when a line is sent.
                let _ = socket.connect(path);
                Self::Socket(socket, path.clone())
            }
            LogTarget::SyslogUdp(address) => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                Self::Udp {
                    // Not connected: a refusal of one message would be told with the next.
                    socket: UdpSocket::bind(any)?,
                    to: *address,
                    host: host_name(),
                }
            }
        })
    }

    /// Opens its file anew; what is none stays as it is.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Self::File {
            path,
            file,
            is_torn,
        } = self
        {
            *file = append(path)?;
            *is_torn = ends_amid_a_line(path);
        }
        Ok(())
    }

    /// Writes a piece's lines.
    ///
    /// # Errors
    /// How many were not written, and why.
    pub(super) fn write(&mut self, piece: &Piece) -> Result<(), Lost> {
        match self {
            Self::Stdout { is_torn } => append_all(&mut stdout().lock(), is_torn, &piece.bytes),
            Self::File { file, is_torn, .. } => append_all(file, is_torn, &piece.bytes),
            Self::Socket(socket, path) => each(&piece.bytes, "", |message| {
                // It was begun anew.
                socket.send(message).or_else(|_| {
                    socket.connect(&*path)?;
                    socket.send(message)
                })
            }),
            Self::Udp { socket, to, host } => {
                each(&piece.bytes, host, |message| socket.send_to(message, *to))
            }
        }
    }
}

/// The file that does not exist before it is opened.
pub(super) fn missing_file(target: &LogTarget) -> Option<PathBuf> {
    match target {
        LogTarget::File(path) if !path.exists() => Some(path.clone()),
        _ => None,
    }
}

/// Whether lines could be written there, as far as can be said without a new file. A pipe is not opened: its reader
/// would take the close for the end.
pub(super) fn try_to_open(target: &LogTarget) -> io::Result<()> {
    let LogTarget::File(path) = target else {
        return Sink::open(target).map(drop);
    };
    if std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo()) {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(OFlag::O_NONBLOCK.bits());
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            std::fs::metadata(folder).map(drop)
        }
        opened => opened.map(drop),
    }
}

/// Opens a file for its end to be written to. A pipe that is not read is an error, and no wait.
fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640);
    options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// Whether a file's last line has no end: its writer died amid it, or its disk was full.
fn ends_amid_a_line(path: &Path) -> bool {
    let last = || {
        let length = std::fs::metadata(path)?;
        let length = if length.is_file() { length.len() } else { 0 };
        let mut byte = [b'\n'];
        if let Some(last) = length.checked_sub(1) {
            File::open(path)?.read_exact_at(&mut byte, last)?;
        }
        io::Result::Ok(byte != [b'\n'])
    };
    // What cannot be read is taken for whole.
    last().unwrap_or(false)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} ", name.trim())
}

/// Lines that are not written whole are lost; the file goes on with a line of its own.
fn append_all(file: &mut impl Write, is_torn: &mut bool, mut bytes: &[u8]) -> Result<(), Lost> {
    let lost = |bytes: &[u8], error| Lost {
        lines: bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
        error,
    };
    if *is_torn {
        file.write_all(b"\n").map_err(|error| lost(bytes, error))?;
        *is_torn = false;
    }
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(lost(bytes, io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                *is_torn = bytes[written - 1] != b'\n';
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(lost(bytes, error)),
        }
    }
    file.flush().map_err(|error| lost(b"", error))
}

/// Receivers need not take more of a line.
const MOST: usize = 8 * 1024;

/// Sends each line as a message of its own, from this host where it is named.
fn each(bytes: &[u8], host: &str, send: impl Fn(&[u8]) -> io::Result<usize>) -> Result<(), Lost> {
    let mut lost: Option<Lost> = None;
    let now = line::syslog_time(SystemTime::now());
    let mut message = format!("{PRIORITY}{now} {host}callboard: ").into_bytes();
    let head = message.len();
    for line in bytes.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        message.truncate(head);
        message.extend(&line[..line.len().min(MOST)]);
        if let Err(error) = send(&message) {
            let lines = lost.map_or(0, |lost| lost.lines) + 1;
            lost = Some(Lost { lines, error });
        }
    }
    lost.map_or(Ok(()), Err)
}
