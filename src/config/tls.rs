//! `tls` of a client of ours: which servers it trusts, and the certificate that it shows.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::ServerName;

use super::{
    document::{report::Wrong, table::Table},
    load::strict,
};

/// TLS of a client of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// A PEM file of certificate authorities; the system's where it is left out.
    pub ca: Option<PathBuf>,
    /// Where not empty, the server's key must be one of these. Its certificate may then be issued by
    /// any authority, unless `ca` is set.
    pub pins: Vec<Pin>,
    /// A PEM certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `tls.pin`: a key, by the SHA-256 of its `SubjectPublicKeyInfo` (RFC 7469, 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// That of a key in DER form.
    pub fn of_key(key: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
        Self(pin)
    }

    fn read(text: &str) -> Result<Self, Wrong> {
        let sha256 = text.strip_prefix("sha256/").unwrap_or_default();
        // curl has two slashes.
        let sha256 = sha256.strip_prefix('/').unwrap_or(sha256);
        let decoded = STANDARD.decode(sha256).ok();
        let pin = decoded.and_then(|bytes| bytes.try_into().ok());
        pin.map(Self).ok_or_else(|| {
            Wrong::new(format!("`{text}` is no pin of a key")).suggest(
                "write \"sha256/…\", with the base64 that `openssl x509 -pubkey -noout -in cert.pem \
                 | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64` prints",
            )
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

/// TLS towards those of a service's endpoints that speak it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointTls {
    /// Whom they must have their certificates from, and as whom we come.
    pub client: ClientTls,
    /// Who they must be, and are asked for (SNI); where it is left out, the host of each one's
    /// address.
    pub server_name: Option<ServerName<'static>>,
}

/// Reads the `tls` of a client of the HTTP API at `address`.
pub(super) fn of_url(table: &mut Table<'_>, base: &Path, address: &str) -> ClientTls {
    if let Some(field) = table.take("tls")
        && !address.starts_with("https://")
    {
        let rest = address.trim_start_matches("http://");
        field.wrong(
            Wrong::new("`tls` needs an address of https")
                .suggest(format!("write `address = \"https://{rest}\"`")),
        );
    }
    table.within("tls", |table| client(table, base))
}

/// Reads the keys of a client's `tls`.
pub(super) fn client(table: &mut Table<'_>, base: &Path) -> ClientTls {
    let mut file = |key, example, wanted| {
        let path = table.file(key, base, example)?;
        if let Some(field) = table.take(key) {
            strict::check_file(&field, &path, wanted);
        }
        Some(path)
    };
    let ca = file("ca", "\"ca.pem\"", "CERTIFICATE");
    let certificate = file("certificate", "\"client.pem\"", "CERTIFICATE");
    let key = file("key", "\"client-key.pem\"", "PRIVATE KEY");
    table.pair(["certificate", "key"].map(|file| (file, "\"….pem\"")));
    let pins = table.take("pin").map_or_else(Vec::new, |field| {
        let example = "\"sha256/…\"";
        let pins = field.one_or_more(example).into_iter();
        pins.filter_map(|field| field.parse("a pin of a key", example, Pin::read))
            .collect()
    });
    ClientTls {
        ca,
        pins,
        identity: certificate.zip(key),
    }
}

/// Reads the `tls` of a service, or of all; what it does not say is taken from `base`.
pub(super) fn of_endpoints(
    table: &mut Table<'_>,
    folder: &Path,
    base: &EndpointTls,
) -> EndpointTls {
    let ClientTls { ca, pins, identity } = client(table, folder);
    let pins = match table.has("pin") {
        true => pins,
        false => base.client.pins.clone(),
    };
    let name = table.take("server_name");
    let name = name.and_then(|field| field.parse("a host name", "\"cart.internal\"", server_name));
    EndpointTls {
        client: ClientTls {
            ca: ca.or_else(|| base.client.ca.clone()),
            pins,
            identity: identity.or_else(|| base.client.identity.clone()),
        },
        server_name: name.or_else(|| base.server_name.clone()),
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, Wrong> {
    ServerName::try_from(text.to_owned()).map_err(|_| {
        Wrong::new(format!("`{text}` is neither a host name nor an IP address"))
            .suggest("write it without a scheme and a port")
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config, error};
    use super::*;

    const CART: &str = "[[route]]\nservice = \"cart\"\n";
    /// The SHA-256 of nothing.
    const PIN: &str = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn a_pin_is_the_base64_of_a_keys_sha_256() {
        assert_eq!(Pin::of_key(b"").to_string(), PIN);
        for written in [PIN, &PIN.replace('/', "//").replace("+//", "+/")] {
            let text = format!("[service.cart]\ntls.pin = [\"{written}\"]\n{CART}");
            let pins = &config(&text).services["cart"].tls.client.pins;
            assert_eq!(pins, &[Pin::of_key(b"")], "{written}");
        }
        for wrong in ["sha1/AAAA", "sha256/AAAA", &PIN[7..], "sha256/*"] {
            let text = format!("[service.cart]\ntls.pin = \"{wrong}\"\n{CART}");
            assert!(
                error(&text).contains("is no pin of a key; write"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_services_pins_stand_before_the_defaults() {
        let text = format!(
            "[defaults]\ntls.pin = \"{PIN}\"\n[service.cart]\ntls.ca = \"ca.pem\"\n\
             [service.hat]\ntls.pin = []\n{CART}[[route]]\npath = \"/hat\"\nservice = \"hat\"\n"
        );
        let config = config(&text);
        let pins = |name: &str| config.services[name].tls.client.pins.len();
        assert_eq!((pins("cart"), pins("hat")), (1, 0));
    }
}
