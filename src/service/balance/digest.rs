//! A digest of bytes that is the same in every proxy, whatever it was built with: keys must lead all
//! of them to the same endpoint. Multiply and fold, as wyhash does it; no secret and no cryptography.

const A: u64 = 0x9e37_79b9_7f4a_7c15;
const B: u64 = 0xe703_7ed1_a0b4_28db;

/// The digest of a key, or of a part of one that goes on from another's.
pub(super) fn digest(before: u64, bytes: &[u8]) -> u64 {
    let folded = bytes.chunks(8).fold(before ^ A, |digest, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        fold(digest ^ u64::from_le_bytes(word), B).wrapping_add(A)
    });
    mix(folded ^ bytes.len() as u64)
}

/// Another number for each number, with nothing in common.
pub(super) fn mix(number: u64) -> u64 {
    fold(number.wrapping_add(A) ^ B, A)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_is_the_same_for_ever() {
        // Proxies of different versions serve side by side.
        assert_eq!(digest(0, b""), 0xb05e_0e01_9be5_e21d);
        assert_eq!(digest(0, b"callboard"), 0xcab6_9a35_4a6d_a855);
    }

    #[test]
    fn keys_that_are_alike_have_nothing_in_common() {
        let digests: Vec<_> = (0..20_000)
            .map(|n| digest(0, format!("user-{n}").as_bytes()))
            .collect();
        assert_eq!(digests.iter().collect::<HashSet<_>>().len(), 20_000);
        for bit in 0..64 {
            let set = digests.iter().filter(|digest| *digest >> bit & 1 == 1);
            assert!((9_600..10_400).contains(&set.count()), "bit {bit}");
        }
        assert_ne!(digest(0, b"a\0"), digest(0, b"a"));
    }
}
