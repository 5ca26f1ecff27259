//! Samples of the listeners that speak TLS.

use std::fmt;

use super::scrape::{Samples, Scrape};
use crate::tls::{CertificateStatus, Server};

pub(super) fn expiries(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    each_certificate(scrape, |listener, certificate| {
        let file = certificate.file.to_string_lossy();
        samples.add(&[listener, &file], certificate.not_after as f64)
    })
}

pub(super) fn unusable(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    each_certificate(scrape, |listener, certificate| {
        let file = certificate.file.to_string_lossy();
        samples.add(&[listener, &file], certificate.error.is_some())
    })
}

pub(super) fn reloads(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    each_server(scrape, |listener, server| {
        samples.add(&[listener, "taken"], server.reloads.taken.value())?;
        samples.add(&[listener, "failed"], server.reloads.failed.value())
    })
}

pub(super) fn handshakes(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    each_server(scrape, |listener, server| {
        let counts = &server.handshakes;
        let results = [
            ("full", &counts.full),
            ("resumed", &counts.resumed),
            ("failed", &counts.failed),
            ("late", &counts.late),
            ("evicted", &counts.evicted),
            ("not_tls", &counts.not_tls),
        ];
        let mut results = results.iter();
        results.try_for_each(|(result, count)| samples.add(&[listener, result], count.value()))
    })
}

pub(super) fn pending(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    each_server(scrape, |listener, server| {
        samples.add(&[listener], server.handshakes.pending.value())
    })
}

fn each_certificate(
    scrape: &Scrape<'_>,
    mut add: impl FnMut(&str, &CertificateStatus) -> fmt::Result,
) -> fmt::Result {
    each_server(scrape, |listener, server| {
        let certificates = server.certificates();
        let mut certificates = certificates.iter();
        certificates.try_for_each(|certificate| add(listener, certificate))
    })
}

fn each_server(
    scrape: &Scrape<'_>,
    mut add: impl FnMut(&str, &Server) -> fmt::Result,
) -> fmt::Result {
    let servers = (scrape.context.view.tls)();
    let mut servers = servers.iter();
    servers.try_for_each(|(listener, server)| add(&listener.to_string(), server))
}
