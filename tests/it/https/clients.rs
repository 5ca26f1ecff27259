//! Clients' certificates: who is let in, and what endpoints are told.

use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::{AlertDescription, Error};

use super::{SITE, Site, answer, ask};
use crate::support::{authority::Authority, tls::VERSIONS};

async fn site(mode: &str) -> Site {
    let tls = format!("certificates = [{SITE}], client = {{ ca = \"ca.pem\", mode = \"{mode}\" }}");
    Site::with(&tls, "", |authority| {
        authority.issue_for("client", &["cart.internal"], |params| {
            params.distinguished_name.push(DnType::CommonName, "cart");
            let uri = "spiffe://example.com/cart".try_into().unwrap();
            params.subject_alt_names.push(SanType::URI(uri));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
    })
    .await
}

fn identity(site: &Site) -> (std::path::PathBuf, std::path::PathBuf) {
    ["certificate", "key"]
        .map(|kind| site.folder.join(format!("client-{kind}.pem")))
        .into()
}

#[tokio::test]
async fn endpoints_are_told_who_the_client_is_and_strangers_cannot_say_it() {
    let site = site("optional").await;
    let spoofed = "X-Forwarded-Client-Cert: Hash=00\r\n";
    for version in VERSIONS {
        let client = site.client().speaking(version).showing(identity(&site));
        let mut stream = client.connect().await.unwrap();
        for _ in 0..2 {
            ask(&mut stream, "/site/", spoofed).await.unwrap();
            let answer = answer(&mut stream).await;
            let told: Vec<_> = answer
                .lines()
                .filter_map(|line| line.strip_prefix("x-forwarded-client-cert: "))
                .collect();
            let [told] = told[..] else { panic!("{answer}") };
            assert!(told.starts_with("Hash="), "{told}");
            let rest = ";Subject=\"CN=cart\";DNS=cart.internal;URI=spiffe://example.com/cart";
            assert!(told.ends_with(rest), "{told}");
        }
    }
    // Without a certificate it is let in, and nothing is said of it.
    let mut stream = site.client().connect().await.unwrap();
    ask(&mut stream, "/site/", spoofed).await.unwrap();
    let said = answer(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(!said.contains("x-forwarded-client-cert"), "{said}");
    // Nor is a stranger's word of it passed on in the clear.
    let plain = site.proxy.http.get(site.proxy.url("/site/"));
    let plain = plain.header("x-forwarded-client-cert", "Hash=00");
    let said = plain.send().await.unwrap().text().await.unwrap();
    assert!(!said.contains("x-forwarded-client-cert"), "{said}");
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_authority_is_turned_away_where_one_is_required() {
    let site = site("required").await;
    let said = site
        .client()
        .showing(identity(&site))
        .get("/site/")
        .await
        .unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let stranger = Authority::new(folder.path()).issue("client");
    for version in VERSIONS {
        for (client, alert) in [
            (site.client(), AlertDescription::CertificateRequired),
            (
                site.client().showing(stranger.clone()),
                // Its authority goes by the name of ours, with another key.
                AlertDescription::DecryptError,
            ),
        ] {
            let error = client.speaking(version).get("/site/").await.unwrap_err();
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            let Some(Error::AlertReceived(received)) = cause else {
                panic!("{version:?}: {error}");
            };
            assert_eq!(*received, alert, "{version:?}");
        }
    }
    assert_eq!(site.backend.requests(), 2, "the first is from the start");
}

/// A session that is resumed shows no certificate again.
#[tokio::test]
async fn no_session_is_resumed_where_clients_show_certificates() {
    let site = site("optional").await;
    for version in VERSIONS {
        let client = site.client().speaking(version);
        let client = client.showing(identity(&site)).remembering();
        for _ in 0..2 {
            let said = client.get("/site/").await.unwrap();
            assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        }
    }
    assert_eq!(site.handshakes("resumed").await, 0);
}
