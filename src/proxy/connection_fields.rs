//! The fields that a request's `Connection` names: they belong to the connection, and are not passed
//! on (RFC 9110 7.6.1). Knows nothing of what a field means.

use http::{HeaderMap, header};

/// Fields that `Connection` may name.
pub(super) const MOST: usize = 32;

/// The fields that `Connection` names, read once for all fields of a head.
pub(super) struct Nominated<'h> {
    names: [&'h [u8]; MOST],
    count: usize,
}

impl<'h> Nominated<'h> {
    /// Those of a head, of which no more than [`MOST`] count.
    pub(super) fn of(headers: &'h HeaderMap) -> Self {
        let mut nominated = Self {
            names: [b""; MOST],
            count: 0,
        };
        let lines = headers.get_all(header::CONNECTION);
        let named = lines.iter().flat_map(|line| names(line.as_bytes()));
        for (place, name) in nominated.names.iter_mut().zip(named) {
            *place = name;
            nominated.count += 1;
        }
        nominated
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        let mut names = self.names[..self.count].iter();
        names.any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Whether `Connection` says that `Upgrade` is meant.
pub(super) fn name_upgrade(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter();
    let mut names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// What a line of `Connection` names, but for what is never passed on in any case.
pub(super) fn names(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    names.filter(|name| {
        let of_connection: [&[u8]; 5] = [b"", b"keep-alive", b"close", b"upgrade", b"te"];
        !of_connection
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    })
}
