//! Where lines are written to: standard output, a file, or a syslog (RFC 3164, as what listens at
//! `/dev/log` understands it).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write, stdout},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{line, queue::Piece};
use crate::config::LogTarget;

/// `local7.info`, as web servers have it.
const PRIORITY: &str = "<190>";

/// A place that lines can be written to.
#[derive(Debug)]
pub(super) enum Sink {
    /// The process's own output.
    Stdout,
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
    Udp(UdpSocket),
}

/// Why so many lines were not written.
pub(super) struct Lost {
    pub lines: u64,
    pub error: io::Error,
}

impl Sink {
    pub(super) fn open(target: &LogTarget) -> io::Result<Self> {
        Ok(match target {
            LogTarget::Stdout => Self::Stdout,
            LogTarget::File(path) => Self::File {
                file: append(path)?,
                path: path.clone(),
                is_torn: false,
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
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Self::Udp(socket)
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
            *is_torn = false;
        }
        Ok(())
    }

    /// Writes a piece's lines.
    ///
    /// # Errors
    /// How many were not written, and why.
    pub(super) fn write(&mut self, piece: &Piece) -> Result<(), Lost> {
        match self {
            Self::Stdout => {
                let mut out = stdout().lock();
                let written = out.write_all(&piece.bytes).and_then(|()| out.flush());
                written.map_err(|error| Lost {
                    lines: piece.lines,
                    error,
                })
            }
            Self::File { file, is_torn, .. } => append_all(file, is_torn, &piece.bytes),
            Self::Socket(socket, path) => each(&piece.bytes, |message| {
                // It was begun anew.
                socket.send(message).or_else(|_| {
                    socket.connect(&*path)?;
                    socket.send(message)
                })
            }),
            Self::Udp(socket) => each(&piece.bytes, |message| socket.send(message)),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path)
}

/// Lines that are not written whole are lost; the file goes on with a line of its own.
fn append_all(file: &mut File, is_torn: &mut bool, mut bytes: &[u8]) -> Result<(), Lost> {
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
    Ok(())
}

/// Sends each line as a message of its own.
fn each(bytes: &[u8], send: impl Fn(&[u8]) -> io::Result<usize>) -> Result<(), Lost> {
    let mut lost: Option<Lost> = None;
    let now = line::syslog_time(SystemTime::now());
    let mut message = format!("{PRIORITY}{now} callboard: ").into_bytes();
    let head = message.len();
    for line in bytes.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        message.truncate(head);
        message.extend(line);
        if let Err(error) = send(&message) {
            let lines = lost.map_or(0, |lost| lost.lines) + 1;
            lost = Some(Lost { lines, error });
        }
    }
    lost.map_or(Ok(()), Err)
}
