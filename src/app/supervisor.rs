//! What a supervisor is told, as systemd wants it (`sd_notify(3)`): datagrams of lines, to a socket that the
//! environment names. Without one nothing is said. Knows nothing of what is going on.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Who has started this process, and looks after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Supervisor(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long this process may be silent.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        let inner = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            Some(Arc::new(Inner {
                socket: UnixDatagram::unbound().ok()?,
                address: address(&name).ok()?,
                watchdog: watchdog(
                    env::var_os("WATCHDOG_USEC"),
                    env::var_os("WATCHDOG_PID"),
                    std::process::id(),
                ),
            }))
        });
        Self(inner)
    }

    /// How long it waits for a sign of life; `None` where it waits for none.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog
    }

    /// The process serves, by the configuration that there is now.
    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// The configuration is read again; [`Self::ready`] ends that.
    pub(super) fn reloading(&self) {
        // The moment is by the clock that systemd asks, too, to know which of its signals was meant.
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reading its file again"
        ));
    }

    /// The process is on its way out.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Another process is the one to look after. It is that one's to say more.
    pub(super) fn replaced_by(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
    }

    /// A sign of life.
    pub(super) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, lines: &str) {
        let Some(inner) = &self.0 else { return };
        // One that does not listen looks after nothing.
        if let Err(error) = inner.socket.send_to_addr(lines.as_bytes(), &inner.address) {
            tracing::debug!(%error, "the supervisor cannot be told");
        }
    }
}

/// A path, or with `@` a name that no file has.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// How long a process with this id may be silent, by what the environment says.
fn watchdog(time: Option<OsString>, of: Option<OsString>, own: u32) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    if of.is_some_and(|of| number(of) != Some(own.into())) {
        return None;
    }
    let time = time.and_then(number).filter(|time| *time > 0);
    time.map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names_and_for_any_where_it_names_none() {
        let text = |text: &str| Some(OsString::from(text));
        let second = Some(Duration::from_secs(1));
        for (time, of, expected) in [
            (text("1000000"), text("7"), second),
            (text("1000000"), None, second),
            (text("1000000"), text("8"), None),
            (text("0"), None, None),
            (text("soon"), None, None),
            (None, text("7"), None),
        ] {
            assert_eq!(
                watchdog(time.clone(), of.clone(), 7),
                expected,
                "{time:?} {of:?}"
            );
        }
    }

    #[test]
    fn an_address_is_a_path_or_a_name_without_a_file() {
        let path = address(OsStr::new("/run/notify")).unwrap();
        assert!(path.as_pathname().is_some());
        let name = address(OsStr::new("@notify")).unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"notify"[..]));
    }
}
