//! HTTP/2 as frames (RFC 9113): a client that sends exactly those that a test tells it to, right or wrong,
//! and reads what comes as it comes. Heads are written without compression, and of those that come only the
//! status is read.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::PATIENCE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of frames.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Codes of errors.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The last four bytes: the code of `RST_STREAM`.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Whether it is the last of its stream.
    pub(crate) fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The status of a head that has one of those which have a number of their own, or spells it.
    pub(crate) fn status(&self) -> u16 {
        let block = match &self.payload[..] {
            // The table's new size.
            [0x20, block @ ..] | block => block,
        };
        match block {
            [0x88, ..] => 200,
            [0x89, ..] => 204,
            [0x8b, ..] => 304,
            [0x8c, ..] => 400,
            [0x8d, ..] => 404,
            [0x8e, ..] => 500,
            // Spelt by the code of Huffman (RFC 7541, appendix B).
            [_, 0x83, 0x68, 0x0c, ..] => 403,
            [_, 0x83, 0x68, 0x0d, ..] => 405,
            [_, 0x83, 0x68, 0x2e, ..] => 417,
            [_, 0x83, 0x69, 0x90, ..] => 431,
            [_, 0x82, 0x6c, 0x01, ..] => 501,
            [_, 0x82, 0x6c, 0x02, ..] => 502,
            _ => panic!("some status: {:02x?}", self.payload),
        }
    }
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[..], &[kind, flags], &stream, payload].concat()
}

/// Fields as a head has them, by no index and in plain letters (RFC 7541 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A number with a prefix of seven bits (RFC 7541 5.1).
fn length(length: usize, out: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(127) else {
        return out.push(u8::try_from(length).unwrap());
    };
    out.push(127);
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// The fields of a request to this host.
pub(crate) fn request<'f>(
    method: &'f str,
    path: &'f str,
    more: &[(&'f str, &'f str)],
) -> Vec<(&'f str, &'f str)> {
    let pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":authority", "shop.example"),
        (":path", path),
    ];
    pseudo.iter().chain(more).copied().collect()
}

/// A whole request without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    head(stream, END_STREAM, &request("GET", path, &[]))
}

/// The head of a request.
pub(crate) fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

/// The last word for a stream.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// Settings, by their numbers.
pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let entries = settings.iter().flat_map(|(id, value)| {
        let (id, value) = (id.to_be_bytes(), value.to_be_bytes());
        [&id[..], &value].concat()
    });
    frame(SETTINGS, 0, 0, &entries.collect::<Vec<_>>())
}

/// A client's connection.
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Frames {
    /// One that has said nothing yet.
    pub(crate) async fn silent(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // So that little lies in the kernel of what is not read.
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let stream = socket.connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// One that has sent its preface, and these settings: with a table of its own for compressed fields, which
    /// is empty, so that each status is spelt.
    pub(crate) async fn connect_with(address: SocketAddr, set: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(address).await;
        let set = &[&[(1, 0)], set].concat();
        frames
            .send([PREFACE.to_vec(), settings(set)].concat())
            .await;
        frames
    }

    /// The same, with no settings of its own.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[]).await
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends what the other side may no longer take.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sending = self.stream.write_all(bytes.as_ref());
        matches!(timeout(PATIENCE, sending).await, Ok(Ok(())))
    }

    /// The next frame; `None` where the connection ends instead. Settings are acknowledged, and pings
    /// answered.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any().await?;
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS, 0) => drop(self.try_send(self::frame(SETTINGS, ACK, 0, &[])).await),
                (PING, 0) => {
                    let pong = self::frame(PING, ACK, 0, &frame.payload);
                    self.try_send(pong).await;
                }
                (SETTINGS, _) | (WINDOW_UPDATE, _) => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next frame of whatever kind, which is not answered.
    pub(crate) async fn any(&mut self) -> Option<Frame> {
        while self.read.len() < 9 {
            self.more().await?;
        }
        let [high, middle, low, kind, flags] = self.read[..5].try_into().unwrap();
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let stream = u32::from_be_bytes(self.read[5..9].try_into().unwrap());
        while self.read.len() < 9 + length {
            self.more().await?;
        }
        let payload = self.read.drain(..9 + length).skip(9).collect();
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }

    async fn more(&mut self) -> Option<()> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        match read.expect("something comes") {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Reads until a frame of the stream that ends it, be it by a reset; and returns all of the stream.
    pub(crate) async fn all_of(&mut self, stream: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await.expect("the connection goes on");
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.stream != stream {
                continue;
            }
            let is_over = frame.ends() || frame.kind == RST_STREAM;
            frames.push(frame);
            if is_over {
                return frames;
            }
        }
    }

    /// The status and the body of an answer that comes to its end.
    pub(crate) async fn answer(&mut self, stream: u32) -> (u16, Vec<u8>) {
        let frames = self.all_of(stream).await;
        assert!(frames.last().is_some_and(Frame::ends), "{frames:?}");
        let status = frames[0].status();
        let data = frames.into_iter().filter(|frame| frame.kind == DATA);
        (status, data.flat_map(|frame| frame.payload).collect())
    }

    /// The code by which a stream is reset.
    pub(crate) async fn reset_of(&mut self, stream: u32) -> u32 {
        let frames = self.all_of(stream).await;
        let last = frames.last().unwrap();
        assert_eq!(last.kind, RST_STREAM, "{frames:?}");
        last.code()
    }

    /// Sends something again and again until the connection ends, reads meanwhile, and returns the code of its
    /// last `GOAWAY`.
    pub(crate) async fn flood(mut self, mut bytes: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
        let (mut reader, mut writer) = self.stream.split();
        let reading = reader.read_to_end(&mut self.read);
        let writing = async {
            for round in 0..100_000 {
                if writer.write_all(&bytes(round)).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let flooding = async {
            tokio::select! {
                // What came before a reset is there all the same.
                read = reading => drop(read),
                () = writing => {}
            }
        };
        timeout(PATIENCE, flooding).await.expect("it ends");
        let (mut code, mut rest) = (None, &self.read[..]);
        while let [high, middle, low, kind, _, _, _, _, _, more @ ..] = rest {
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            let Some((payload, after)) = more.split_at_checked(length) else {
                break;
            };
            if *kind == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            rest = after;
        }
        code
    }

    /// Reads to the connection's end, and returns the code of its last `GOAWAY`.
    pub(crate) async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}
