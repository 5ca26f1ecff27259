//! The head of a request as HTTP/1.1 has it: with CRLF always, and its framing our own. Knows nothing
//! of connections.

use super::{Framing, field};
use crate::{
    instance::Address,
    upstream::{
        Upgrade,
        head::{Fields, Head},
    },
};

/// Writes a head with its empty line, for a body that is framed like this.
pub(in crate::upstream) fn write_head(
    out: &mut Vec<u8>,
    head: &impl Head,
    framing: Framing,
    expects_continue: bool,
    upgrade: Option<&Upgrade>,
    endpoint: &Address,
) {
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    for piece in head.target() {
        out.extend_from_slice(piece.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    match head.host() {
        Some(host) => field(out, "host", host),
        None => field(out, "host", endpoint.authority().as_bytes()),
    }
    head.fields(&mut Fields(out));
    framing.write(out, head.method());
    if expects_continue {
        field(out, "expect", b"100-continue");
    }
    if let Some(upgrade) = upgrade {
        field(out, "connection", b"upgrade");
        field(out, "upgrade", upgrade.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    head.spell(out);
}
