//! HTTP/2 as frames: an endpoint that says exactly what a test tells it to, right or wrong.

use crate::support::raw::Wire;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const INTERNAL_ERROR: u32 = 2;
pub(super) const REFUSED_STREAM: u32 = 7;

/// `:status: 200`
pub(super) const OK: &[u8] = &[0x88];

const PREFACE: usize = 24;

/// A frame without its length.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// An endpoint's side of a connection.
pub(super) struct Frames(Wire);

impl Frames {
    /// Takes a connection, and allows any number of streams.
    pub(super) async fn accept(wire: Wire) -> Self {
        let mut frames = Self::begin(wire).await;
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Takes a connection, and says nothing yet.
    pub(super) async fn begin(mut wire: Wire) -> Self {
        wire.bytes(PREFACE).await;
        Self(wire)
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.send(frame).await;
    }

    pub(super) async fn reset(&mut self, stream: u32, reason: u32) {
        let reason = reason.to_be_bytes();
        self.send(RST_STREAM, 0, stream, &reason).await;
    }

    pub(super) async fn go_away(&mut self, last: u32, reason: u32) {
        let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    /// A whole answer without a body.
    pub(super) async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, OK)
            .await;
    }

    /// The next frame, whatever it is.
    pub(super) async fn next(&mut self) -> Frame {
        let head = self.0.bytes(9).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Frame {
            kind: head[3],
            flags: head[4],
            stream,
            payload: self.0.bytes(length).await,
        }
    }

    /// The stream of the next request; agrees to settings meanwhile.
    pub(super) async fn request(&mut self) -> u32 {
        loop {
            let frame = self.next().await;
            match frame.kind {
                HEADERS => return frame.stream,
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                _ => {}
            }
        }
    }

    /// The next frame of this kind; others are passed over.
    pub(super) async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Waits until the other side has closed the connection.
    pub(super) async fn closed(mut self) {
        while self.0.some().await.is_ok() {}
    }
}
