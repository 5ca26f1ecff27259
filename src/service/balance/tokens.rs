//! What a cookie calls an endpoint: a digest of its identity, which is the same in every proxy and
//! says nothing of an address. A client that makes one up chooses its endpoint, which any client may.

use aws_lc_rs::hmac;
use rustc_hash::FxHashMap;

use crate::service::EndpointId;

/// Keeps these digests apart from any others; it is no secret.
const PURPOSE: &[u8] = b"callboard: an endpoint's name in a cookie";

/// The places of endpoints, by their tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens(FxHashMap<u64, u32>);

impl Tokens {
    pub(super) fn new<'e>(endpoints: impl Iterator<Item = &'e EndpointId>) -> Self {
        Self(endpoints.map(token).zip(0..).collect())
    }

    pub(super) fn place(&self, token: u64) -> Option<usize> {
        self.0.get(&token).map(|place| *place as usize)
    }
}

/// The first half of an HMAC with SHA-256.
pub(super) fn token(id: &EndpointId) -> u64 {
    let key = hmac::Key::new(hmac::HMAC_SHA256, PURPOSE);
    let mut context = hmac::Context::with_key(&key);
    context.update(&(id.instance.len() as u64).to_be_bytes());
    context.update(id.instance.as_bytes());
    context.update(id.address.host().as_bytes());
    context.update(&id.address.port().to_be_bytes());
    let tag = context.sign();
    let first = tag.as_ref().first_chunk().expect("it has 32 bytes");
    u64::from_be_bytes(*first)
}
