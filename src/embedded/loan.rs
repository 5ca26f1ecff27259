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
