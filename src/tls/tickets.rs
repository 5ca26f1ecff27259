//! Session tickets whose keys stand in a file, so that several proxies can resume each other's sessions. The
//! first key of the file encrypts, and each decrypts.
//!
//! A ticket has a key of its own, which comes from the file's by HKDF (RFC 5869) and a random salt: so there
//! is no number of tickets after which a key of the file would be worn out. It is the name of the file's key,
//! the salt, and what AES-256-GCM makes of the time and the session's state.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Okm, Salt},
    rand,
};
use rustls::server::ProducesTickets;

use super::{
    followed::{Change, Followed},
    pem::{TlsError, read},
    stamp::{Stamp, stamp},
};

/// For how long a session can be resumed. The keys of a file may stay in it for longer.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Bytes of a key, of its name, of a salt, of a nonce and of a time.
const KEY: usize = 32;
const NAME: usize = 16;
const SALT: usize = 32;
const NONCE: usize = 12;
const TIME: usize = 8;

/// A file with keys of tickets.
pub(super) struct TicketFile {
    pub(super) path: PathBuf,
    pub(super) followed: Followed<Option<Stamp>>,
    pub(super) keys: TicketKeys,
}

impl TicketFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        let followed = Followed::new(stamp(path));
        Ok(Self {
            path: path.to_owned(),
            followed,
            keys: TicketKeys::read(path)?,
        })
    }

    /// Reads the file again where it has changed.
    pub(super) fn follow(&mut self) -> Change {
        if !self.followed.have_changed(stamp(&self.path)) {
            return Change::None;
        }
        let file = self.path.display();
        match TicketKeys::read(&self.path) {
            Ok(keys) => {
                tracing::info!(%file, keys = keys.0.len(), "new keys of tickets are used");
                self.keys = keys;
                self.followed.take()
            }
            Err(error) => {
                let change = self.followed.refuse(&error);
                if change == Change::Refused {
                    tracing::warn!(%file, %error, "new keys of tickets cannot be used, and the old ones stay");
                }
                change
            }
        }
    }
}

/// Keys of tickets, of which there is one at least.
#[derive(Clone)]
pub(super) struct TicketKeys(Vec<TicketKey>);

#[derive(Clone)]
struct TicketKey {
    name: [u8; NAME],
    secret: [u8; KEY],
}

impl TicketKeys {
    fn read(path: &Path) -> Result<Self, TlsError> {
        let text = read(path)?;
        Self::parse(&String::from_utf8_lossy(&text)).map_err(|reason| TlsError::Tickets {
            path: path.to_owned(),
            reason,
        })
    }

    /// One key a line, in hexadecimal; what begins with `#` is none. What is wrong is said without a key.
    fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let secret = secret(line).ok_or_else(|| {
                let number = place + 1;
                format!("line {number} is none of 64 hexadecimal digits")
            })?;
            keys.push(TicketKey::new(secret).ok_or("no key can be made of it")?);
        }
        if keys.is_empty() {
            return Err("there is no key in it".to_owned());
        }
        Ok(Self(keys))
    }

    /// Public names of the keys, in their order: each ticket bears one.
    pub(super) fn names(&self) -> Vec<String> {
        let hex = |key: &TicketKey| key.name.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.iter().map(hex).collect()
    }

    fn seal(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let key = self.0.first()?;
        let mut head = [0; NAME + SALT];
        head[..NAME].copy_from_slice(&key.name);
        rand::fill(&mut head[NAME..]).ok()?;
        let (key, nonce) = key.of_ticket(&head[NAME..])?;
        let mut sealed = seconds(now).to_be_bytes().to_vec();
        sealed.extend_from_slice(plain);
        key.seal_in_place_append_tag(nonce, Aad::from(&head), &mut sealed)
            .ok()?;
        Some([&head[..], &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(NAME + SALT)?;
        let (name, salt) = head.split_at(NAME);
        let key = self.0.iter().find(|key| key.name == name)?;
        let (key, nonce) = key.of_ticket(salt)?;
        let mut sealed = sealed.to_vec();
        let opened = key
            .open_in_place(nonce, Aad::from(head), &mut sealed)
            .ok()?;
        let (issued, plain) = opened.split_first_chunk::<TIME>()?;
        // The clock of the proxy that has issued it may be ahead.
        let age = seconds(now).saturating_sub(u64::from_be_bytes(*issued));
        (age <= LIFETIME.as_secs()).then(|| plain.to_vec())
    }
}

impl TicketKey {
    /// `None` where the library makes none of it.
    fn new(secret: [u8; KEY]) -> Option<Self> {
        let mut name = [0; NAME];
        expand(&secret, b"", b"callboard ticket name", &mut name)?;
        Some(Self { name, secret })
    }

    /// What the ticket with this salt is encrypted by.
    fn of_ticket(&self, salt: &[u8]) -> Option<(LessSafeKey, Nonce)> {
        let mut bytes = [0; KEY + NONCE];
        expand(&self.secret, salt, b"callboard ticket", &mut bytes)?;
        let (key, nonce) = bytes.split_at(KEY);
        let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        Some((LessSafeKey::new(key), nonce))
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, SystemTime::now())
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys")
    }
}

fn secret(line: &str) -> Option<[u8; KEY]> {
    let digits = line.as_bytes().as_chunks::<2>();
    let (pairs, []) = digits else { return None };
    let pairs: &[[u8; 2]; KEY] = pairs.try_into().ok()?;
    let mut secret = [0; KEY];
    for (byte, pair) in secret.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(secret)
}

/// HKDF-SHA256.
fn expand(secret: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) -> Option<()> {
    struct Length(usize);

    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    let key = Salt::new(HKDF_SHA256, salt).extract(secret);
    let info = [info];
    let expanded: Okm<'_, Length> = key.expand(&info, Length(out.len())).ok()?;
    expanded.fill(out).ok()
}

fn seconds(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    fn keys(text: &str) -> TicketKeys {
        TicketKeys::parse(text).unwrap()
    }

    fn second() -> String {
        "7".repeat(64)
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn the_first_key_encrypts_and_each_decrypts() {
        let (old, new) = (keys(FIRST), keys(&second()));
        let both = keys(&format!("# keys\n{}\n\n  {FIRST}\n", second()));
        assert_eq!(both.names(), [new.names(), old.names()].concat());
        let state = b"a session";
        let (of_old, of_both) = (old.seal(state, now()), both.seal(state, now()));
        let (of_old, of_both) = (of_old.unwrap(), of_both.unwrap());
        assert_eq!(both.open(&of_old, now()).as_deref(), Some(&state[..]));
        assert_eq!(new.open(&of_both, now()).as_deref(), Some(&state[..]));
        assert_eq!(old.open(&of_both, now()), None);
        assert_eq!(new.open(&of_old, now()), None);
        assert_ne!(old.seal(state, now()).unwrap(), of_old, "salted");
    }

    #[test]
    fn a_ticket_of_which_one_bit_differs_is_none() {
        let keys = keys(FIRST);
        let ticket = keys.seal(b"a session", now()).unwrap();
        for place in 0..ticket.len() {
            let mut other = ticket.clone();
            other[place] ^= 1;
            assert_eq!(keys.open(&other, now()), None, "{place}");
            assert_eq!(keys.open(&ticket[..place], now()), None, "{place}");
        }
    }

    #[test]
    fn a_ticket_is_of_use_for_half_a_day() {
        let keys = keys(FIRST);
        let ticket = keys.seal(b"a session", now()).unwrap();
        for (later, is_good) in [(0, true), (12 * 3600, true), (12 * 3600 + 1, false)] {
            let opened = keys.open(&ticket, now() + Duration::from_secs(later));
            assert_eq!(opened.is_some(), is_good, "{later}");
        }
        let earlier = keys.open(&ticket, now() - Duration::from_secs(60));
        assert!(earlier.is_some(), "another proxy's clock");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_its_keys() {
        for (text, says) in [
            ("", "there is no key in it"),
            ("# none\n", "there is no key in it"),
            (&FIRST[..62], "line 1 is none of 64 hexadecimal digits"),
            (&format!("{FIRST}\n{FIRST}0"), "line 2 is none of"),
            (&FIRST.replace('0', "g"), "line 1 is none of"),
            (&FIRST.replace("01", "é"), "line 1 is none of"),
        ] {
            let error = TicketKeys::parse(text).unwrap_err();
            assert!(error.contains(says) && !error.contains("4567"), "{error}");
        }
    }
}
