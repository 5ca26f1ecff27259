//! What a registry says of one provider. Knows nothing of how it was learnt or how it is called.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use http::Uri;
use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, Mark};

/// Where an instance is called: a host (an IP address or a name) and a port that is never 0; or the
/// path of a unix socket. In JSON, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address(Place);

/// There are several of each instance, and most are IPv4 addresses: these have two words, and nothing
/// elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    V4(Ipv4Addr, u16),
    Other(Arc<Host>, u16),
}

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Host {
    V6(Ipv6Addr),
    Named(Box<str>),
    /// A unix socket, whose port is 0.
    Path(Box<Path>),
}

/// Why a host and port make no [`Address`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// The port is 0, negative or above 65535.
    #[error("port {0} cannot be called")]
    Port(i64),
    /// The host is empty, or not an IP address or a name.
    #[error("`{0}` is neither an IP address nor a host name")]
    Host(String),
    /// The path is not absolute, or longer than the kernel takes.
    #[error("`{0}` is not the whole path of a unix socket")]
    Path(String),
}

impl Address {
    /// Takes an IP address (IPv6 with or without brackets) or a host name, and a port.
    ///
    /// # Errors
    /// Where the host cannot be a name or the port cannot be called.
    pub fn new(host: &str, port: i64) -> Result<Self, AddressError> {
        let port = u16::try_from(port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or(AddressError::Port(port))?;
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        let other = match bare.parse() {
            Ok(IpAddr::V4(ip)) => return Ok(Self(Place::V4(ip, port))),
            Ok(IpAddr::V6(ip)) => Host::V6(ip),
            Err(_) if bare.len() != host.len() || !is_host_name(bare) => {
                return Err(AddressError::Host(host.to_owned()));
            }
            Err(_) => Host::Named(bare.to_ascii_lowercase().into()),
        };
        Ok(Self(Place::Other(Arc::new(other), port)))
    }

    /// Takes the absolute path of a unix socket. Several slashes in a row are one, as to the kernel: others
    /// write `unix:///PATH`.
    ///
    /// # Errors
    /// Where it is none.
    pub fn of_path(path: &str) -> Result<Self, AddressError> {
        let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_control);
        let mut short = String::new();
        let is_double = |before: &str, letter| letter == '/' && before.ends_with('/');
        for letter in path.chars() {
            if !is_double(&short, letter) {
                short.push(letter);
            }
        }
        let is_sound = path.starts_with('/') && short.len() <= LONGEST_PATH;
        if !is_sound || !path.rsplit('/').next().is_some_and(is_name) || path.contains('\0') {
            return Err(AddressError::Path(path.to_owned()));
        }
        let host = Host::Path(Path::new(&short).into());
        Ok(Self(Place::Other(Arc::new(host), 0)))
    }

    /// Reads `unix:/PATH`, or what [`Address::of_text`] reads. For texts that are written by those who
    /// run this machine: whose word this is chooses among all sockets of it.
    ///
    /// # Errors
    /// Why the text cannot be called, as it stands in a sentence.
    pub fn of_local_text(text: &str) -> Result<(Self, bool), String> {
        match text.strip_prefix(UNIX) {
            Some(path) => Self::of_path(path)
                .map(|address| (address, false))
                .map_err(|error| error.to_string()),
            None => Self::of_text(text),
        }
    }

    /// Reads `host:port`, or an `http://` or `https://` URL without a path; and whether it says
    /// https.
    ///
    /// # Errors
    /// Why the text cannot be called, as it stands in a sentence.
    pub fn of_text(text: &str) -> Result<(Self, bool), String> {
        let shown: String = text.chars().take(60).collect();
        let neither = || format!("`{shown}` is neither host:port nor a URL");
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        };
        let (tls, default) = match scheme.as_deref() {
            None => (false, None),
            Some("http") => (false, Some(80)),
            Some("https") => (true, Some(443)),
            Some(scheme) => return Err(format!("`{scheme}://` cannot be called")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // A service is called at its root: what stands after it would be lost.
        if authority.contains(['/', '?', '#', '@']) {
            return Err(format!("`{shown}` holds more than a host and a port"));
        }
        let uri: Uri = authority.parse().map_err(|_| neither())?;
        let host = uri.host().ok_or_else(neither)?;
        // The port as it was written: one out of range is no missing one.
        let port = authority[host.len()..].strip_prefix(':');
        let port = match (port, default) {
            (Some(port), _) => port.parse().map_err(|_| neither())?,
            (None, Some(port)) => port,
            (None, None) => return Err(format!("`{shown}` has no port")),
        };
        let address = Self::new(host, port).map_err(|error| error.to_string())?;
        Ok((address, tls))
    }

    /// The IP address (without brackets) or name; `localhost` of a unix socket.
    pub fn host(&self) -> Cow<'_, str> {
        match &self.0 {
            Place::V4(ip, _) => ip.to_string().into(),
            Place::Other(host, _) => match &**host {
                Host::V6(ip) => ip.to_string().into(),
                Host::Named(name) => Cow::Borrowed(name),
                Host::Path(_) => Cow::Borrowed(LOCALHOST),
            },
        }
    }

    /// What a request has as `Host` that names this address: `host:port`, with IPv6 in brackets, and
    /// `localhost` of a unix socket.
    pub fn authority(&self) -> Cow<'_, str> {
        match self.path() {
            Some(_) => Cow::Borrowed(LOCALHOST),
            None => Cow::Owned(self.to_string()),
        }
    }

    /// The path of a unix socket.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Other(host, _) => match &**host {
                Host::Path(path) => Some(path),
                _ => None,
            },
            Place::V4(..) => None,
        }
    }

    /// The port, 0 only of a unix socket.
    pub fn port(&self) -> u16 {
        match self.0 {
            Place::V4(_, port) | Place::Other(_, port) => port,
        }
    }

    /// The socket address, where the host is an IP address; `None` where a name must be resolved, and
    /// of a unix socket.
    pub fn socket(&self) -> Option<SocketAddr> {
        match &self.0 {
            Place::V4(ip, port) => Some((*ip, *port).into()),
            Place::Other(host, port) => match **host {
                Host::V6(ip) => Some((ip, *port).into()),
                Host::Named(_) | Host::Path(_) => None,
            },
        }
    }
}

/// A service's name in the one spelling that stands for all of its letter cases: what is the same
/// here is the same to a registry that takes names in any case. As Consul has it, letter by letter
/// (Go's `strings.ToLower`): the one letter of which Rust makes two is one there.
pub fn in_any_case(name: &str) -> String {
    name.chars()
        .flat_map(|letter| match letter {
            'İ' => 'i'.to_lowercase(),
            letter => letter.to_lowercase(),
        })
        .collect()
}

/// Before the path of a unix socket.
const UNIX: &str = "unix:";

/// The host of every unix socket.
const LOCALHOST: &str = "localhost";

/// The kernel takes paths of unix sockets of so many bytes.
const LONGEST_PATH: usize = 107;

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Self::of_local_text(&text)? {
            (address, _) if address.path().is_some() || !text.contains("://") => Ok(address),
            _ => Err(format!("`{text}` is not host:port")),
        }
    }
}

impl fmt::Display for Address {
    /// `host:port`, with IPv6 in brackets; or `unix:/PATH`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::V4(ip, port) => write!(f, "{ip}:{port}"),
            Place::Other(host, port) => match &**host {
                Host::V6(ip) => write!(f, "[{ip}]:{port}"),
                Host::Named(name) => write!(f, "{name}:{port}"),
                Host::Path(path) => write!(f, "{UNIX}{}", path.display()),
            },
        }
    }
}

/// The largest weight that is believed: Consul's own limit.
pub const MAX_WEIGHT: u32 = 65_535;

/// What a registry says of one provider at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The registry's own id for it, unique within its service. Consul's ids are per node:
    /// there it is `node/id`.
    pub id: Arc<str>,
    /// Where it is called.
    pub address: Address,
    /// Whether it speaks TLS there.
    pub tls: bool,
    /// The registry's verdict: whether every one of its checks passes.
    pub healthy: bool,
    /// Its share relative to the others, from 1 to [`MAX_WEIGHT`]; 1 where the registry says
    /// nothing.
    pub weight: u32,
    /// The registry's tags, in its order.
    pub tags: Vec<String>,
    /// The registry's metadata.
    pub meta: BTreeMap<String, String>,
}

/// A version of HTTP, as far as an instance names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1
    One,
    /// HTTP/2
    Two,
}

impl HttpVersion {
    fn of_word(word: &str) -> Option<Self> {
        let is_one_of = |words: &[&str]| words.iter().any(|it| word.eq_ignore_ascii_case(it));
        if is_one_of(&["h2c", "h2", "http2", "http/2", "grpc", "grpcs"]) {
            Some(Self::Two)
        } else if is_one_of(&["http1", "http/1.1", "http", "https"]) {
            Some(Self::One)
        } else {
            None
        }
    }
}

/// What tells an instance from the others of its service: its id, and where it is called.
pub type Identity = (Arc<str>, Address);

impl Instance {
    /// One of which its registry says no more: healthy, called in the clear, and with the same share as
    /// others.
    pub fn new(id: impl Into<Arc<str>>, address: Address) -> Self {
        Self {
            id: id.into(),
            address,
            tls: false,
            healthy: true,
            weight: 1,
            tags: Vec::new(),
            meta: BTreeMap::new(),
        }
    }

    /// Its own.
    pub fn identity(&self) -> Identity {
        (Arc::clone(&self.id), self.address.clone())
    }

    /// What its metadata and tags say of it, whatever registry it stands in: `scheme = "https"`, or
    /// `secure = "true"` and the tag `secure=true` as Spring Cloud writes them, that it speaks TLS;
    /// and `weight` its weight. Called once where an entry was read.
    #[must_use]
    pub fn heed_meta(mut self) -> Self {
        let says = |key| self.meta.get(key).map(|value| value.trim());
        let says_so = |key, word: &str| says(key).is_some_and(|it| it.eq_ignore_ascii_case(word));
        let is_tagged = || {
            self.tags
                .iter()
                .any(|tag| tag.eq_ignore_ascii_case("secure=true"))
        };
        self.tls |= says_so("scheme", "https") || says_so("secure", "true") || is_tagged();
        if let Some(weight) = says("weight").and_then(|weight| weight.parse::<u32>().ok()) {
            self.weight = weight.clamp(1, MAX_WEIGHT);
        }
        self
    }

    /// The version of HTTP that it says it is called in, whatever registry it stands in: the metadata
    /// `protocol`, else the first tag that is `protocol=…`, `grpc`, `h2` or `h2c`. Words that mean no
    /// version are disregarded.
    pub fn http_version(&self) -> Option<HttpVersion> {
        let of_tag = |tag: &String| match tag.split_once('=') {
            Some((key, word)) if key.eq_ignore_ascii_case("protocol") => {
                HttpVersion::of_word(word.trim())
            }
            // A tag that is no more than `http` may say what a port is for, and not what it speaks.
            None if tag.len() <= 4 => {
                HttpVersion::of_word(tag).filter(|version| *version == HttpVersion::Two)
            }
            _ => None,
        };
        let said = self.meta.get("protocol");
        said.and_then(|word| HttpVersion::of_word(word.trim()))
            .or_else(|| self.tags.iter().find_map(of_tag))
    }

    /// The same where its registry has this verdict on it.
    #[must_use]
    pub fn called(self: &Arc<Self>, healthy: bool) -> Arc<Self> {
        if self.healthy == healthy {
            return Arc::clone(self);
        }
        Arc::new(Self {
            healthy,
            ..Self::clone(self)
        })
    }

    /// Whether it has all of these tags, in any letter case, and all of this metadata.
    pub fn has(&self, tags: &[String], meta: &BTreeMap<String, String>) -> bool {
        // Consul compares tags without regard to case; here they are compared alike for all.
        let has = |wanted: &String| {
            let mut tags = self.tags.iter();
            tags.any(|tag| tag.to_lowercase() == wanted.to_lowercase())
        };
        tags.iter().all(has)
            && meta
                .iter()
                .all(|(key, value)| self.meta.get(key) == Some(value))
    }
}

/// The complete set of a service's instances as one answer of a registry gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceSet {
    /// Healthy and unhealthy ones alike, ordered by id, then address. What a set makes others of
    /// shares them with it: a large registry's instances are in memory once.
    pub instances: Vec<Arc<Instance>>,
    /// Entries that could not be understood: what they are called, and why they were skipped.
    pub skipped: Vec<Skipped>,
    /// Instances that the registry lists, and that are not in the set for what they are: of another
    /// datacenter or zone than the one that serves, or without what is wanted of them.
    pub elsewhere: Vec<Identity>,
    /// What it shows of the registry's history.
    pub evidence: Evidence,
}

impl InstanceSet {
    /// Brings the entries of one answer into the order of sets. Registries promise none: what is
    /// the same must look the same.
    pub fn of(
        entries: impl IntoIterator<Item = Result<impl Into<Arc<Instance>>, Skipped>>,
    ) -> Self {
        let mut set = Self::default();
        for entry in entries {
            match entry {
                Ok(instance) => set.instances.push(instance.into()),
                Err(skipped) => set.skipped.push(skipped),
            }
        }
        set.instances
            .sort_by(|a, b| (&a.id, &a.address).cmp(&(&b.id, &b.address)));
        set.instances.dedup_by(|double, kept| {
            let same = (&double.id, &double.address) == (&kept.id, &kept.address);
            if same && kept.healthy && !double.healthy {
                *kept = kept.called(false);
            }
            same
        });
        // It is held for as long as the registry says nothing else.
        set.instances.shrink_to_fit();
        set.skipped
            .sort_by(|a, b| (&a.id, &a.reason).cmp(&(&b.id, &b.reason)));
        let more = set.skipped.len().saturating_sub(MAX_SKIPPED);
        if more > 0 {
            set.skipped.truncate(MAX_SKIPPED);
            set.skipped.push(Skipped {
                id: "…".to_owned(),
                reason: format!("{more} more cannot be called"),
            });
            set.skipped.shrink_to_fit();
        }
        set
    }

    /// Shares with the set before what is equal in both, so that it is in memory once however often
    /// the registry is read.
    pub fn share_with(&mut self, before: &Self) {
        let mut before = before.instances.iter().peekable();
        for instance in &mut self.instances {
            let key = (&instance.id, &instance.address);
            while before
                .next_if(|one| (&one.id, &one.address) < key)
                .is_some()
            {}
            if let Some(known) = before.next_if(|known| *known == instance) {
                *instance = Arc::clone(known);
            }
        }
    }

    /// The same set, with what its answer shows of the registry's history.
    #[must_use]
    pub fn with(mut self, mark: Mark) -> Self {
        self.evidence = Evidence::of(mark);
        self
    }
}

/// As many entries of a set are named that cannot be called; of the others there is a number. They
/// are kept for as long as the set is.
const MAX_SKIPPED: usize = 1_000;

/// One entry of a registry's answer that cannot be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The entry's id, as far as it has one.
    pub id: String,
    /// Why it was skipped.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_bracketed_once_however_it_was_written() {
        let bare = Address::new("::1", 80).unwrap();
        assert_eq!(bare, Address::new("[::1]", 80).unwrap());
        assert_eq!(bare.to_string(), "[::1]:80");
        assert_eq!(bare.socket(), Some("[::1]:80".parse().unwrap()));
    }

    /// A large registry has 100,000 of them, each of whose addresses is in memory several times.
    #[test]
    fn an_instance_is_small() {
        assert_eq!((size_of::<Address>(), size_of::<Instance>()), (16, 88));
    }

    #[test]
    fn names_in_any_case_are_one_as_go_has_it() {
        for (name, folded) in [
            ("Billing", "billing"),
            ("bİLLING", "billing"),
            ("\u{212a}art", "kart"),
            ("ΟΔΟΣ", "οδοσ"),
            ("straße", "straße"),
            ("a b\tC", "a b\tc"),
        ] {
            assert_eq!(in_any_case(name), folded);
        }
    }

    #[test]
    fn a_unix_socket_is_a_path_that_only_who_runs_this_machine_can_say() {
        let (address, tls) = Address::of_local_text("unix:/run/cart.sock").unwrap();
        assert_eq!(address.to_string(), "unix:/run/cart.sock");
        assert_eq!((&*address.host(), address.port()), ("localhost", 0));
        assert_eq!((&*address.authority(), tls), ("localhost", false));
        assert_eq!(address.path(), Some(Path::new("/run/cart.sock")));
        assert_eq!(address.socket(), None);
        assert_eq!(Address::try_from(address.to_string()), Ok(address));
        let (address, _) = Address::of_local_text("[::1]:80").unwrap();
        assert_eq!((&*address.authority(), address.path()), ("[::1]:80", None));
        let long = format!("/{}", "x".repeat(LONGEST_PATH));
        for path in [
            "", "/", "a.sock", "@a", "/run/", "/run/\0a", "/run/a\n", &long,
        ] {
            assert!(Address::of_path(path).is_err(), "{path:?}");
        }
        assert!(Address::of_path(&long[..LONGEST_PATH]).is_ok());
        for text in ["unix:/run/cart.sock", "unix:///run/cart.sock"] {
            assert!(Address::of_text(text).is_err(), "{text}");
        }
    }

    /// As in the snapshot, which is of no use where one of them is none.
    #[test]
    fn what_is_an_address_is_one_again_as_it_is_shown() {
        for (text, shown) in [
            ("unix:/run/cart.sock", "unix:/run/cart.sock"),
            ("unix:///run/cart.sock", "unix:/run/cart.sock"),
            ("unix://run/cart.sock", "unix:/run/cart.sock"),
            ("unix:/run//a///b.sock", "unix:/run/a/b.sock"),
            ("unix:/run/http://a:80", "unix:/run/http:/a:80"),
            ("unix:/run/\u{e9} b.sock", "unix:/run/\u{e9} b.sock"),
            ("http://Cart.example", "cart.example:80"),
            ("https://[::1]/", "[::1]:443"),
            ("10.0.0.7:8080", "10.0.0.7:8080"),
        ] {
            let (address, _) = Address::of_local_text(text).unwrap();
            assert_eq!(address.to_string(), shown);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
        // An older version has written it so.
        let old = Address::try_from("unix:///run/cart.sock".to_owned()).unwrap();
        assert_eq!(old.to_string(), "unix:/run/cart.sock");
        assert!(Address::try_from("http://10.0.0.7:8080".to_owned()).is_err());
    }

    #[test]
    fn a_name_is_kept_for_the_resolver() {
        let named = Address::new("My-Address", 12345).unwrap();
        assert_eq!(named.to_string(), "my-address:12345");
        assert_eq!(named.socket(), None);
    }

    #[test]
    fn a_weight_in_metadata_is_at_least_1_and_what_is_none_is_left_out() {
        for (text, weight) in [
            ("3", 3),
            (" 3 ", 3),
            ("0", 1),
            ("70000", MAX_WEIGHT),
            ("-5", 7),
            ("1e3", 7),
            ("2.5", 7),
            ("", 7),
        ] {
            let instance = Instance {
                weight: 7,
                meta: BTreeMap::from([("weight".to_owned(), text.to_owned())]),
                ..Instance::new("a", Address::new("10.0.0.1", 80).unwrap())
            };
            assert_eq!(instance.heed_meta().weight, weight, "{text:?}");
        }
    }

    #[test]
    fn tls_is_what_metadata_and_tags_say_in_the_words_of_each_framework() {
        for (meta, tags, tls) in [
            (None, &[][..], false),
            (Some(("scheme", "HTTPS")), &[], true),
            (Some(("scheme", "http")), &[], false),
            (Some(("secure", "true")), &[], true),
            (Some(("secure", " True ")), &[], true),
            (Some(("secure", "false")), &[], false),
            (Some(("secure", "yes")), &[], false),
            (None, &["v1", "secure=true"], true),
            (None, &["secure=false", "secure"], false),
        ] {
            let instance = Instance {
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                meta: meta
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into_iter()
                    .collect(),
                ..Instance::new("a", Address::new("10.0.0.1", 80).unwrap())
            };
            assert_eq!(instance.heed_meta().tls, tls, "{meta:?} {tags:?}");
        }
    }

    #[test]
    fn the_version_of_http_is_what_metadata_and_then_tags_say() {
        use HttpVersion::{One, Two};

        for (meta, tags, version) in [
            (None, &[][..], None),
            (Some("h2c"), &[], Some(Two)),
            (Some(" gRPC "), &[], Some(Two)),
            (Some("http"), &["grpc"], Some(One)),
            (Some("mucp"), &["grpc"], Some(Two)),
            (None, &["v1", "GRPC"], Some(Two)),
            (None, &["protocol=h2c"], Some(Two)),
            (None, &["Protocol=http1", "grpc"], Some(One)),
            (None, &["http", "grpc"], Some(Two)),
            (None, &["http"], None),
            (None, &["grpc-gateway", "proto=grpc"], None),
        ] {
            let instance = Instance {
                id: "a".into(),
                address: Address::new("10.0.0.1", 80).unwrap(),
                tls: false,
                healthy: true,
                weight: 1,
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                meta: meta
                    .map(|value| ("protocol".to_owned(), value.to_owned()))
                    .into_iter()
                    .collect(),
            };
            assert_eq!(instance.http_version(), version, "{meta:?} {tags:?}");
        }
    }

    #[test]
    fn what_a_set_has_in_common_with_the_one_before_is_in_memory_once() {
        let instance = |port: i64, weight: u32| {
            Ok(Instance {
                weight,
                ..Instance::new(format!("i{port}"), Address::new("10.0.0.1", port).unwrap())
            })
        };
        let before = InstanceSet::of([1, 2, 4, 5].map(|port| instance(port, 1)));
        let mut after =
            InstanceSet::of([1, 3, 4, 5].map(|port| instance(port, 1 + port as u32 / 5)));
        let read = after.clone();
        after.share_with(&before);
        assert_eq!(after, read);
        let is_shared = |one| before.instances.iter().any(|other| Arc::ptr_eq(one, other));
        let shared: Vec<_> = after.instances.iter().map(is_shared).collect();
        assert_eq!(shared, [true, false, true, false]);
    }

    #[test]
    fn of_what_cannot_be_called_a_number_is_named_and_the_rest_counted() {
        let skipped = |id: usize| {
            Err::<Instance, _>(Skipped {
                id: format!("{id:04}"),
                reason: "no".to_owned(),
            })
        };
        let set = InstanceSet::of((0..1000).map(skipped));
        assert_eq!(set.skipped.len(), 1000);
        let set = InstanceSet::of((0..3007).rev().map(skipped));
        assert_eq!(set.skipped.len(), 1001);
        assert_eq!(
            (&*set.skipped[999].id, &*set.skipped[1000].reason),
            ("0999", "2007 more cannot be called")
        );
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for port in [0, -1, 80810] {
            assert_eq!(
                Address::new("10.0.0.1", port),
                Err(AddressError::Port(port))
            );
        }
        for host in ["", "http://127.0.0.1", "a b", "[host]", "a:1"] {
            assert!(Address::new(host, 80).is_err(), "{host}");
        }
    }
}
