//! A provider's entry in etcd by its API v2: a key with a TTL, which is written again and again,
//! as go-kit's registrar does. So a heartbeat also mends what was lost.

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::{Entry, Provider, etcd::Text};
use crate::{
    config,
    registry::{BuildError, RegistryError, etcd2::Client},
};

/// An entry of etcd's.
pub(super) struct Etcd2 {
    client: Client,
    subject: String,
    text: Text,
    /// Whether it may stand there.
    written: bool,
}

impl Etcd2 {
    pub(super) fn new(
        registry: &str,
        settings: &config::Etcd,
        provider: &Provider,
    ) -> Result<Self, BuildError> {
        let mut text = Text::of(registry, settings, provider)?;
        // Here every key begins with a slash.
        text.key = format!("/{}", text.key.trim_start_matches('/'));
        Ok(Self {
            client: Client::new(registry, settings)?,
            subject: text.subject(),
            text,
            written: false,
        })
    }
}

impl Entry for Etcd2 {
    fn sign_in(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        // Before it is: an answer may be lost on its way.
        self.written = true;
        let Text { key, value, ttl } = &self.text;
        let seconds = self.text.ttl_seconds();
        // Where one member hangs, there is time for another before the TTL is over.
        let put = self
            .client
            .put(key, value, seconds, *ttl / 3, &self.subject);
        Box::pin(put)
    }

    fn keep(&mut self) -> BoxFuture<'_, RegistryError> {
        Box::pin(async move {
            loop {
                sleep(self.text.ttl / 3).await;
                if let Err(error) = self.sign_in().await {
                    return error;
                }
            }
        })
    }

    fn sign_out(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            if std::mem::take(&mut self.written) {
                self.client.delete(&self.text.key, &self.subject).await?;
            }
            Ok(())
        })
    }
}
