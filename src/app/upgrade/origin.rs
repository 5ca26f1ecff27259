//! How a process came to be: by which program and which supervisor, and whether it is the successor in an
//! upgrade.

use std::{
    env,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use nix::unistd::getppid;
use rustix::stdio::dup2_stdin;
use socket2::{SockRef, Type};

use super::{
    channel,
    follower::Follower,
    packet::Reply,
    program::{OF, Program},
};
use crate::app::{
    supervised::{self, Supervised},
    supervisor::Supervisor,
};

/// The longest text of why a process cannot start, so that it is one packet.
const LONGEST: usize = 16 * 1024;

/// How a process came to be. That of a program which uses the library is the default: no other process can
/// take its place.
#[derive(Debug, Default)]
pub struct Origin {
    pub(super) program: Option<Program>,
    /// Who would take its end for the service's.
    pub(super) follower: Option<Follower>,
    /// The channel to the process before.
    pub(super) parent: Option<Arc<OwnedFd>>,
    /// Those to the processes before that one.
    pub(super) before: Vec<OwnedFd>,
    /// Who looks after it.
    pub(in crate::app) supervisor: Supervisor,
    /// What that one has bound for it.
    pub(in crate::app) sockets: Vec<Supervised>,
}

/// Tells the process before, where there is one, why this one cannot start.
#[derive(Debug)]
pub struct Complaint(Option<Arc<OwnedFd>>);

impl Origin {
    /// That of this process. To be asked once, and at its start: standard input may be the channel to the
    /// process before, and is nothing then.
    pub fn of_this_process() -> Self {
        let parent = channel_to_parent().map(Arc::new);
        Self {
            // A successor's parent is the process before, which had none.
            follower: match parent {
                None => Follower::of_this_process(),
                Some(_) => None,
            },
            // Where its path is not known it cannot be started again.
            program: Program::of_this_process().ok(),
            parent,
            before: Vec::new(),
            supervisor: Supervisor::of_environment(),
            sockets: supervised::of_environment(),
        }
    }

    /// Whether it is a binary that can be started again.
    pub(in crate::app) fn is_binary(&self) -> bool {
        self.program.is_some()
    }

    /// What tells the process before that this one cannot start.
    pub fn complaint(&self) -> Complaint {
        Complaint(self.parent.clone())
    }
}

impl Complaint {
    /// Says why.
    pub fn say(&self, why: &str) {
        if let Some(parent) = &self.0 {
            let end = why.floor_char_boundary(LONGEST);
            // A process that is gone needs no word.
            let _ = channel::send_now(parent, &Reply::Fails(why[..end].to_owned()), None);
        }
    }
}

/// Standard input, where the process before has put the channel there.
fn channel_to_parent() -> Option<OwnedFd> {
    let parent: i32 = env::var(OF).ok()?.parse().ok()?;
    if parent != getppid().as_raw() {
        return None;
    }
    let input = io::stdin();
    let kind = SockRef::from(&input.as_fd()).r#type();
    if kind.ok()? != Type::SEQPACKET {
        return None;
    }
    let channel = input.as_fd().try_clone_to_owned().ok()?;
    // The process before hands the real one over.
    dup2_stdin(File::open("/dev/null").ok()?).ok()?;
    Some(channel)
}
