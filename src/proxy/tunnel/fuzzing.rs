//! What must hold of the bytes of a tunnel that are taken for WebSocket's frames, whatever they are.

use super::frames::Frames;

/// Frames are followed the same however their bytes come. Where they stand is known, or it is known that it is not;
/// what brings the boundary on is no more than what was said to.
pub(crate) fn frames(bytes: &[u8]) {
    let whole = at(bytes, bytes.len().max(1));
    for step in [1, 3, 7] {
        assert_eq!(whole, at(bytes, step), "in pieces of {step}");
    }
    let (left, is_closed, may_close) = whole;
    assert!(left == 0 || !is_closed && !may_close);
    assert!(!(is_closed && may_close));
}

/// What is left up to a boundary, whether the last frame was one that closes, and whether one may be put there.
fn at(bytes: &[u8], step: usize) -> (u64, bool, bool) {
    let mut frames = Frames::default();
    for piece in bytes.chunks(step) {
        frames.follow(piece);
    }
    let may_close = frames.close(None).is_some();
    (frames.to_a_boundary(), frames.are_closed(), may_close)
}
