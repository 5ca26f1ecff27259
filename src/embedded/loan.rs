//! The registry's state on loan: a successor that is not ready yet has it, and where it does not get ready
//! this process goes on with what it has left.

use tokio::sync::{mpsc, oneshot};

/// Asks a registry that runs for its state.
#[derive(Clone, Debug)]
pub(crate) struct Lender(mpsc::Sender<Asked>);

/// The state of a registry that waits for it. Dropped, it is returned; the process that had it must have let
/// go of it.
#[derive(Debug)]
pub(crate) struct Loan {
    _returned: oneshot::Sender<()>,
}

/// A request for the state.
#[derive(Debug)]
pub(super) struct Asked(oneshot::Sender<Loan>);

impl Lender {
    /// With what hears of those who ask.
    pub(super) fn pair() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Has the registry stand still, and its folder be another process's to open; `None` where it has gone
    /// down.
    pub(crate) async fn borrow(&self) -> Option<Loan> {
        let (asked, lent) = oneshot::channel();
        self.0.send(Asked(asked)).await.ok()?;
        lent.await.ok()
    }
}

impl Asked {
    /// Lends the state; ends when it is returned.
    pub(super) async fn lend(self) {
        let (returned, until) = oneshot::channel();
        let loan = Loan {
            _returned: returned,
        };
        // A borrower that is gone has returned it.
        if self.0.send(loan).is_ok() {
            let _ = until.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::{Server, journal::Journal};
    use crate::{config::Embedded, registry::ServiceQuery};

    #[tokio::test]
    async fn a_state_that_cannot_be_had_back_at_once_is_had_when_it_can_and_readers_hear_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Embedded {
            address: "127.0.0.1:0".parse().unwrap(),
            data: folder.path().to_owned(),
            token: None,
            hosts: Vec::new(),
        };
        let server = Server::bind(&settings).await.unwrap();
        let (lender, reader, address) = (server.lender(), server.reader(), server.address());
        let ending = CancellationToken::new();
        let running = tokio::spawn(server.run(ending.clone()));
        let mut source = reader.service(ServiceQuery {
            name: "web".to_owned(),
            ..ServiceQuery::default()
        });
        source.next().await.unwrap();
        let loan = lender.borrow().await.unwrap();
        let other = Journal::open(folder.path()).unwrap();
        drop(loan);
        let error = source.next().await.unwrap_err();
        assert!(error.message.contains("used by another process"), "{error}");
        drop(other);
        while source.next().await.is_err() {}
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = client.get(format!("http://{address}/v1/catalog/services"));
        assert!(asked.send().await.unwrap().status().is_success());
        ending.cancel();
        running.await.unwrap();
    }
}
