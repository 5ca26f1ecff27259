//! The head of a request as parts and fields: who calls an endpoint says what stands in it, and the
//! wire format of the connection writes it. Knows nothing of what the fields mean.

use http::{HeaderMap, Method};

use super::{Upgrade, http1};

/// The head of a request for an endpoint. How its body is framed is not its to say.
pub trait Head {
    /// Its method.
    fn method(&self) -> &Method;

    /// Its path with its query, in two pieces.
    fn target(&self) -> [&str; 2];

    /// The host that it is for; `None` is the endpoint's own address.
    fn host(&self) -> Option<&[u8]>;

    /// Gives its other fields, without those of a connection.
    fn fields(&self, out: &mut Fields<'_>);

    /// What it asks its connection to go over to. Asked once for all endpoints that are called by one
    /// head.
    fn upgrade(&self) -> Option<Box<Upgrade>> {
        None
    }

    /// Spells the names in its text, where the wire format leaves that to it.
    fn spell(&self, _text: &mut [u8]) {}

    /// A map that is of no use once the head is written: the answer's fields take over its allocation.
    fn spare_map(&mut self) -> &mut HeaderMap;
}

/// Where the fields of a head are written.
#[derive(Debug)]
pub struct Fields<'o>(pub(super) &'o mut Vec<u8>);

impl Fields<'_> {
    /// Writes one.
    #[inline]
    pub fn push(&mut self, name: &str, value: &[u8]) {
        http1::field(self.0, name, value);
    }

    /// Writes one whose value is in pieces.
    pub fn push_pieces(&mut self, name: &str, value: &[&[u8]]) {
        http1::field_of(self.0, name, value);
    }

    /// Writes all of a block.
    #[inline]
    pub fn push_block(&mut self, block: &FieldBlock) {
        self.0.extend_from_slice(&block.0);
    }
}

/// Fields that stand in many heads, written once.
#[derive(Debug, Default)]
pub struct FieldBlock(Vec<u8>);

impl FieldBlock {
    /// These.
    pub fn new<'f>(fields: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> Self {
        let mut block = Vec::new();
        for (name, value) in fields {
            http1::field(&mut block, name, value);
        }
        block.shrink_to_fit();
        Self(block)
    }
}
