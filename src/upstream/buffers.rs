//! Read and write buffers that are handed from exchange to exchange on one thread, so that an
//! idle connection holds none and a busy one allocates none.

use std::{cell::RefCell, collections::VecDeque};

use bytes::BytesMut;

/// What one read asks for at the least: a small answer whole.
const READ_SIZE: usize = 8 * 1024;
/// Spares that a thread keeps of each kind.
const SPARES: usize = 256;
/// A larger buffer than this is not kept: one answer's large head would be paid for ever.
pub(super) const LARGEST_KEPT: usize = 64 * 1024;

thread_local! {
    // First in, first out: the longer a buffer lay, the surer that the answers cut from it are
    // gone, which is when `reserve` can have its memory back without allocating.
    static READ: RefCell<VecDeque<BytesMut>> = const { RefCell::new(VecDeque::new()) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for one read.
pub(super) fn take_read() -> BytesMut {
    let mut buffer = READ
        .with_borrow_mut(VecDeque::pop_front)
        .unwrap_or_default();
    buffer.reserve(READ_SIZE);
    buffer
}

/// Gives a read buffer back; what it still holds is dropped.
pub(super) fn give_read(mut buffer: BytesMut) {
    if buffer.capacity() > LARGEST_KEPT {
        return;
    }
    buffer.clear();
    READ.with_borrow_mut(|spares| {
        if spares.len() < SPARES {
            spares.push_back(buffer);
        }
    });
}

/// An empty write buffer.
pub(super) fn take_write() -> Vec<u8> {
    WRITE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a write buffer back.
pub(super) fn give_write(mut buffer: Vec<u8>) {
    if !(1..=LARGEST_KEPT).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    WRITE.with_borrow_mut(|spares| {
        if spares.len() < SPARES {
            spares.push(buffer);
        }
    });
}
