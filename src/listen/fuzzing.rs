//! What must hold of a client's first bytes, whatever they are.

pub(crate) use super::{
    http1::fuzzing::{chunks, targets},
    http2::fuzzing::frames,
};

use rustls::server::{Accepted, Acceptor};

use super::{
    preface::{self, Preface},
    records::Records,
    tls::First,
};

/// The greeting of a client is the same however its bytes come, and none of its kinds is taken for another.
pub(crate) fn greetings(bytes: &[u8]) {
    for step in [1, 7] {
        assert_eq!(greeting(bytes, step), greeting(bytes, bytes.len().max(1)));
    }
    let first = bytes.first().map(|byte| First::of(*byte));
    match greeting(bytes, 1) {
        Greeting::Hello(_) => assert_eq!(first, Some(First::Tls)),
        Greeting::Wrong | Greeting::Awaited => {}
    }
    // What is answered in words is none that TLS would understand.
    if first == Some(First::Text) {
        assert!(!matches!(greeting(bytes, 1), Greeting::Hello(_)));
    }
    // HTTP/2 is known by all of its preface, in one piece or in two.
    let begun = preface::of(b"", bytes);
    for cut in 1..bytes.len().min(preface::LENGTH) {
        let (before, read) = bytes.split_at(cut);
        if preface::of(b"", before) == Preface::Begun {
            assert_eq!(preface::of(before, read), begun);
        } else {
            assert_eq!(begun, Preface::Other);
        }
    }
    let mut records = Records::default();
    records.follow(bytes);
    for step in [1, 3] {
        let mut other = Records::default();
        bytes.chunks(step).for_each(|piece| other.follow(piece));
        assert_eq!(records.is_amid_one(), other.is_amid_one());
    }
}

/// What becomes of a client's greeting.
#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    /// It is whole, and asks for this name.
    Hello(Option<String>),
    Wrong,
    /// There is more to come.
    Awaited,
}

fn greeting(bytes: &[u8], step: usize) -> Greeting {
    let mut acceptor = Acceptor::default();
    for mut piece in bytes.chunks(step) {
        while !piece.is_empty() {
            // A greeting beyond what is taken of one is an error.
            match acceptor.read_tls(&mut piece) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Greeting::Wrong,
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(hello)) => return Greeting::Hello(name(&hello)),
                Err(_) => return Greeting::Wrong,
            }
        }
    }
    Greeting::Awaited
}

fn name(hello: &Accepted) -> Option<String> {
    hello.client_hello().server_name().map(str::to_owned)
}
