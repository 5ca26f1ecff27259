//! A listening socket's door, which is closed before the socket is. The kernel resets what a socket
//! that closes has in its queue, and answers with a reset whatever comes later for a handshake that was
//! begun with it, though a socket beside it, of another worker or a successor, goes on accepting:
//! on a network, all clients that began to connect within the last round trip. So the packets that
//! begin a handshake are dropped first, while those that end one are let in for a moment more. A client
//! whose first packet was dropped sends it again after a second, and finds another socket, or none.
//! Its second is the price, and so the moment is short.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockFilter, SockRef};

/// How long handshakes that have begun may take to end: a round trip, also of a client that is far.
pub(super) const THRESHOLD: Duration = Duration::from_millis(100);

/// From here on no client begins to connect to this socket.
///
/// # Errors
/// Where the kernel knows no such filters.
pub(super) fn close(socket: &impl AsFd) -> io::Result<()> {
    // A listening socket's filter sees packets from the TCP header on, whose byte 13 has the flags.
    const SYN: u32 = 0x02;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// `BPF_LD | BPF_B | BPF_ABS`
const LOAD_BYTE: u16 = 0x30;
/// `BPF_JMP | BPF_JSET | BPF_K`
const JUMP_IF_SET: u16 = 0x45;
/// `BPF_RET | BPF_K`: how many of the packet's bytes are kept
const RETURN: u16 = 0x06;
