//! A client of HTTP for what commands and checks ask. Registries, whose settings have authorities, have one of
//! their own.

use reqwest::{Client, ClientBuilder};

/// A client by these settings. Where the system has no certificate authorities, as in a small image, it has none
/// either: `http` needs none, and `https` fails when it is asked for.
///
/// # Errors
/// Where the settings make no client.
pub(crate) fn client(settings: impl Fn() -> ClientBuilder) -> reqwest::Result<Client> {
    let built = settings().build();
    built.or_else(|_| settings().tls_certs_only([]).build())
}
