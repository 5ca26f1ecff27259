//! When the authority would have certificates renewed (ARI, RFC 9773), which is asked from time to time.

use instant_acme::{CertificateIdentifier, Error};
use rustls::pki_types::CertificateDer;

use super::{Keeper, now};
use crate::acme::{client::Client, known::Known, schedule::Window};

/// How long after a question for the time of a renewal the next is made, where the authority does not say:
/// in seconds.
const ASK_AGAIN: i64 = 6 * 3600;
/// At least.
const LEAST: i64 = 60;

impl Keeper {
    /// Asks the authority when it would have a certificate renewed, where it has not said so for long.
    pub(super) async fn ask_for_a_window(&mut self) {
        let now = now();
        let is_due = |known: &Known| {
            // Further off than it is ever set: by a clock that was wrong.
            let is_time = known.ask_at <= now || known.ask_at > now + 5 * ASK_AGAIN;
            is_time && known.is_of(&self.account.directory)
        };
        let mut names = self.names.iter();
        let due = names.find_map(|(name, known)| {
            let issued = known.held.issued.as_ref().filter(|_| is_due(known))?;
            Some((name.clone(), identifier(&issued.der)))
        });
        let Some((name, identifier)) = due else {
            return;
        };
        let asked = match identifier {
            Some(identifier) => self.window(&identifier).await,
            None => None,
        };
        if let Some(known) = self.names.get_mut(&name) {
            let again = asked.map_or(ASK_AGAIN, |(_, again)| again);
            known.ask_at = now + again.clamp(LEAST, 4 * ASK_AGAIN);
            known.window = asked.map(|(window, _)| window).or(known.window);
        }
    }

    /// When a certificate is to be renewed, and after how many seconds to ask again.
    async fn window(&mut self, of: &CertificateIdentifier<'_>) -> Option<(Window, i64)> {
        if self.client.is_none() {
            // An account is made for an order, and not to ask.
            let directory = self.account.directory.clone();
            let there = self.aside(move |store| store.account(&directory));
            there.await?.ok()??;
            self.client = Client::open(&self.account, &self.stage.store).await.ok();
        }
        match self.client.as_ref()?.account.renewal_info(of).await {
            Ok((info, again)) => {
                let window = Window {
                    from: info.suggested_window.start.unix_timestamp(),
                    until: info.suggested_window.end.unix_timestamp(),
                };
                Some((window, again.as_secs().cast_signed()))
            }
            Err(Error::Unsupported(_)) => None,
            Err(error) => {
                tracing::debug!(%error, "the authority does not say when to renew");
                None
            }
        }
    }
}

/// How the authority knows a certificate (RFC 9773 4.1).
pub(super) fn identifier(der: &CertificateDer<'_>) -> Option<CertificateIdentifier<'static>> {
    let identifier = CertificateIdentifier::try_from(der).ok()?;
    Some(identifier.into_owned())
}
