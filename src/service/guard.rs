//! The shrink guard's checks. A registry that restarts without its data answers an empty list
//! with status 200; before endpoints are dropped by the dozen they are asked themselves.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{net::TcpStream, time::Instant};

use super::{EndpointId, Service, journal::Why};

/// How often those that are held are asked.
const EVERY: Duration = Duration::from_secs(1);

/// Checks the service's held endpoints until none is held any more: one that does not take a
/// connection is let go at once, one that does at the guard's deadline.
pub(super) fn watch_over(service: &Arc<Service>) {
    tracing::warn!(
        service = %service.name(),
        held = service.board().held().len(),
        "the registry lost many instances at once; those that still answer are kept for a while"
    );
    // Ends by itself: with the service, with the last held endpoint, or at the deadline.
    tokio::spawn(run(Arc::downgrade(service)));
}

async fn run(service: Weak<Service>) {
    loop {
        let Some(service) = service.upgrade() else {
            return;
        };
        let held = {
            let mut board = service.board();
            let held = board.held();
            board.guarded = !held.is_empty();
            held
        };
        if held.is_empty() {
            return;
        }
        let limit = service.policy().timeout.connect;
        let verdicts = join_all(held.into_iter().map(|(id, until)| async move {
            let keep = Instant::now() < until && answers(&id, limit).await;
            (id, until, keep)
        }))
        .await;
        settle(&service, verdicts);
        drop(service);
        tokio::time::sleep(EVERY).await;
    }
}

/// Lets go of those that need not be kept.
fn settle(service: &Service, verdicts: Vec<(EndpointId, Instant, bool)>) {
    let mut board = service.board();
    let held = board.held();
    for (id, until, keep) in verdicts {
        // In the meantime it may have been registered again.
        if !keep && held.contains(&(id.clone(), until)) {
            tracing::info!(service = %service.name(), endpoint = %id.address, "no longer held");
            board.let_go(&id, service.policy());
        }
    }
    service.publish(&mut board);
    service.journal().note(Why::Guard, board.standings());
    drop(board);
    service.tell_of_change();
}

async fn answers(id: &EndpointId, limit: Duration) -> bool {
    let connecting = TcpStream::connect((id.address.host(), id.address.port()));
    matches!(tokio::time::timeout(limit, connecting).await, Ok(Ok(_)))
}
