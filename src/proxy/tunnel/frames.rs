//! The frames of WebSocket (RFC 6455 5.2), followed by their headers alone: where one ends, and another
//! may be put behind it. Knows nothing of what they hold.

/// What a header has at the most that says how long its frame is.
const LONGEST: usize = 10;

/// The opcode of a frame that closes.
const CLOSE: u8 = 8;

/// That the one who says it goes away (RFC 6455 7.4.1).
const GOING_AWAY: u16 = 1001;

/// Where in one direction's frames the bytes stand.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; LONGEST],
    /// Bytes of a header that were seen, the mask's among them.
    seen: u8,
    /// Bytes of a frame's payload that are to come.
    left: u64,
    /// A frame that closes has begun: none follows.
    is_closed: bool,
    /// A frame is longer than any may be.
    is_lost: bool,
}

impl Frames {
    /// Bytes that were passed on.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_lost {
            if self.left > 0 {
                let all = bytes.len();
                let taken = usize::try_from(self.left).map_or(all, |left| left.min(all));
                self.left -= taken as u64;
                bytes = &bytes[taken..];
            } else {
                if let Some(place) = self.header.get_mut(usize::from(self.seen)) {
                    *place = bytes[0];
                }
                self.seen += 1;
                bytes = &bytes[1..];
                if self.seen == self.header_length() {
                    self.begin_payload();
                }
            }
        }
    }

    /// Bytes that end the frame which has begun, or its header, at the least; 0 between two frames, and
    /// where that is not known any more.
    pub(super) fn to_a_boundary(&self) -> u64 {
        match self.left {
            _ if self.is_lost => 0,
            0 if self.seen > 0 => u64::from(self.header_length() - self.seen),
            left => left,
        }
    }

    /// Whether a frame that closes is behind, and nothing has begun since.
    pub(super) fn are_closed(&self) -> bool {
        !self.is_lost && self.is_closed && self.to_a_boundary() == 0
    }

    /// The frame that ends it all between two others; `None` where no frame may follow.
    pub(super) fn close(&self, mask: Option<[u8; 4]>) -> Option<Vec<u8>> {
        let may_follow = !self.is_lost && !self.is_closed && self.to_a_boundary() == 0;
        may_follow.then(|| close(mask))
    }

    /// How long the header is, as far as that is known.
    fn header_length(&self) -> u8 {
        let second = self.header[1];
        let extended = match second & 0x7f {
            _ if self.seen < 2 => return 2,
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if second & 0x80 == 0 { 0 } else { 4 }
    }

    fn begin_payload(&mut self) {
        let [first, second, extended @ ..] = &self.header;
        self.left = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([extended[0], extended[1]])),
            127 => u64::from_be_bytes(*extended),
            short => u64::from(short),
        };
        self.is_closed |= first & 0x0f == CLOSE;
        self.is_lost = i64::try_from(self.left).is_err();
        self.seen = 0;
    }
}

/// A frame that closes, since its sender goes away. What goes to a server is masked (RFC 6455 5.3).
fn close(mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut code = GOING_AWAY.to_be_bytes();
    let mut frame = vec![0x80 | CLOSE, code.len() as u8];
    if let Some(mask) = mask {
        frame[1] |= 0x80;
        frame.extend(mask);
        for (byte, mask) in code.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    frame.extend(code);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, mask: bool) -> Vec<u8> {
        let masked = if mask { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..=125 => frame.push(masked | length as u8),
            126..=0xffff => {
                frame.push(masked | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(masked | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if mask {
            frame.extend([0x88; 4]);
        }
        // Payloads that look like headers.
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    #[test]
    fn frames_are_followed_however_their_bytes_come() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let mut frames = Frames::default();
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for _ in 0..random.usize(1..6) {
                let lengths = [0, 1, 125, 126, 127, 1_000, 65_535, 65_536, 70_000];
                let length = *random.choice(&lengths).unwrap();
                bytes.extend(frame(random.u8(0..=2), length, random.bool()));
                ends.push(bytes.len());
            }
            let mut at = 0;
            while at < bytes.len() {
                let longest = *random.choice(&[1, 9, 70_000]).unwrap();
                let step = random.usize(1..=longest);
                let end = (at + step).min(bytes.len());
                frames.follow(&bytes[at..end]);
                at = end;
                let next = ends.iter().find(|end| **end >= at).unwrap() - at;
                let left = frames.to_a_boundary() as usize;
                assert_eq!(left == 0, next == 0, "at {at}");
                assert!(left <= next, "at {at}: {left} of {next}");
                assert_eq!(frames.close(None).is_some(), next == 0, "at {at}");
            }
        }
    }

    #[test]
    fn a_frame_that_closes_is_the_last() {
        assert_eq!(Frames::default().close(None), Some(vec![0x88, 2, 3, 0xe9]));
        let masked = Frames::default().close(Some([1, 2, 3, 4]));
        assert_eq!(masked, Some(vec![0x88, 0x82, 1, 2, 3, 4, 2, 0xeb]));
        let mut frames = Frames::default();
        for byte in close(None) {
            assert!(!frames.are_closed());
            frames.follow(&[byte]);
        }
        assert!(frames.are_closed());
        assert_eq!((frames.close(None), frames.to_a_boundary()), (None, 0));
    }

    #[test]
    fn nothing_is_put_behind_a_frame_that_never_ends() {
        let mut frames = Frames::default();
        frames.follow(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((frames.close(None), frames.to_a_boundary()), (None, 0));
    }
}
