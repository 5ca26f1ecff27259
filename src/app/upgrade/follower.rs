//! Who takes the end of this process for the end of the service, and cannot be told of another one: an upgrade
//! would end all.

use std::{env, ffi::OsStr, fs};

use nix::unistd::getppid;

use crate::admin::UpgradeError;

/// Inits of containers, which end with the process that they start.
const INITS: [&str; 4] = ["tini", "dumb-init", "docker-init", "catatonit"];
/// Supervisors that start a process anew when it ends.
const SUPERVISORS: [&str; 3] = ["supervisord", "runsv", "s6-supervise"];

/// A supervisor that follows the id of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follower {
    name: String,
    way_out: &'static str,
}

impl Follower {
    /// That of this process. To be asked at its start: the parent may be another one later.
    pub(super) fn of_this_process() -> Option<Self> {
        let comm = fs::read_to_string(format!("/proc/{}/comm", getppid()));
        Self::of(
            env::var_os("NOTIFY_SOCKET").is_some(),
            env::var_os("SYSTEMD_EXEC_PID").as_deref(),
            std::process::id(),
            comm.unwrap_or_default().trim_end(),
        )
    }

    /// By whether a supervisor can be told, the process that systemd says it has started, this process's id
    /// and its parent's name.
    fn of(is_told: bool, started: Option<&OsStr>, own: u32, parent: &str) -> Option<Self> {
        if is_told {
            return None;
        }
        let way_out = if started.is_some_and(|pid| pid == OsStr::new(&own.to_string())) {
            return Some(Self {
                name: "systemd".to_owned(),
                way_out: "have the unit say `Type=notify`, and restart it once",
            });
        } else if INITS.contains(&parent) {
            "start a container with the new binary"
        } else if SUPERVISORS.contains(&parent) {
            "have it restart the process"
        } else {
            return None;
        };
        Some(Self {
            name: parent.to_owned(),
            way_out,
        })
    }

    /// Why there is no upgrade.
    pub(super) fn refusal(&self) -> UpgradeError {
        UpgradeError::Followed(self.name.clone(), self.way_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_that_follows_the_process_and_cannot_be_told_is_known() {
        for (is_told, started, parent, expected) in [
            (false, Some("7"), "systemd", Some("systemd")),
            (true, Some("7"), "systemd", None),
            // A shell of a unit has started it, or a process before it.
            (false, Some("8"), "bash", None),
            (false, None, "systemd", None),
            (false, None, "tini", Some("tini")),
            (false, None, "docker-init", Some("docker-init")),
            (false, None, "runsv", Some("runsv")),
            (false, None, "bash", None),
            (false, None, "", None),
        ] {
            let found = Follower::of(is_told, started.map(OsStr::new), 7, parent);
            let name = found.map(|follower| follower.name);
            assert_eq!(name.as_deref(), expected, "{is_told} {started:?} {parent}");
        }
    }
}
