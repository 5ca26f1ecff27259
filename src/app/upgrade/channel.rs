//! What the two processes of an upgrade say to each other: packets of JSON, each of which may bring a
//! descriptor. The end of either process is the end of the channel. Knows nothing of what is said.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net,
    },
};

use rustix::{
    cmsg_space,
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

/// The longest packet: a report of many errors in a file.
const LONGEST: usize = 64 * 1024;

/// Whether the process at the other end is gone, or has closed that.
pub(super) fn is_closed(socket: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let looked = poll(&mut polled, Some(&Timespec::default()));
    looked.is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

/// One end, watched by the runtime as any unix socket.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

/// A packet, and the descriptor that it brought.
pub(super) type Received<T> = (T, Option<OwnedFd>);

/// Two ends, of which the second is for another process.
///
/// # Errors
/// Where the process has no descriptor left.
pub(super) fn pair() -> io::Result<(Channel, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Channel::over(ours)?, theirs))
}

/// Sends a packet without waiting for room, which there is where little is sent.
///
/// # Errors
/// Where the other process is gone.
pub(super) fn send_now(
    socket: impl AsFd,
    packet: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(packet)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let parts = [IoSlice::new(&bytes)];
    sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

impl Channel {
    /// Over an end that another process has made.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    pub(super) fn over(socket: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(net::UnixStream::from(socket)).map(Self)
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// Where the other process is gone, or the packet is too long.
    pub(super) async fn send(
        &self,
        packet: &impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let send = || send_now(&self.0, packet, descriptor);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next packet; `None` at the end of the other process. Cancel-safe.
    ///
    /// # Errors
    /// Where it is no such packet.
    pub(super) async fn next<T: DeserializeOwned>(&self) -> io::Result<Option<Received<T>>> {
        let next = self.0.async_io(Interest::READABLE, || receive(&self.0));
        match next.await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            received => received,
        }
    }
}

fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<Received<T>>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let packet = serde_json::from_slice(&bytes[..received.bytes])?;
    Ok(Some((packet, descriptor)))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _, Write as _},
    };

    use super::*;

    #[tokio::test]
    async fn packets_come_in_their_order_with_their_descriptors_and_then_the_end() {
        let (ours, theirs) = pair().unwrap();
        let theirs = Channel::over(theirs).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"well").unwrap();
        ours.send(&"first", Some(file.as_fd())).await.unwrap();
        ours.send(&"second", None).await.unwrap();
        assert!(!is_closed(&theirs.0));
        drop(ours);
        assert!(is_closed(&theirs.0));
        let (text, descriptor) = theirs.next::<String>().await.unwrap().unwrap();
        assert_eq!(text, "first");
        let mut file = File::from(descriptor.unwrap());
        file.rewind().unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "well");
        let (text, descriptor) = theirs.next::<String>().await.unwrap().unwrap();
        assert_eq!((&*text, descriptor.is_none()), ("second", true));
        assert!(theirs.next::<String>().await.unwrap().is_none());
        assert!(theirs.send(&"late", None).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_packet_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        let theirs = Channel::over(theirs).unwrap();
        ours.send(&1, None).await.unwrap();
        assert!(theirs.next::<String>().await.is_err());
    }
}
