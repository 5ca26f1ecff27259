//! What must hold of the nodes of a ZooKeeper, whatever they hold.

use super::{folder::Data, parse};
use crate::registry::fuzzing::assert_sound;

/// A node whose name is the first line, and what it holds behind that.
pub(crate) fn nodes(bytes: &[u8]) {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let name = String::from_utf8_lossy(&bytes[..end]);
    let data = Data::Bytes(bytes.get(end + 1..).unwrap_or_default().to_vec());
    let nodes = [(&*name, &data), (&*name, &Data::Denied)];
    assert_sound(&parse::instances(nodes.into_iter()));
    parse::catalog([&*name].into_iter(), true);
    parse::stands_beside(&name, "cart");
}
