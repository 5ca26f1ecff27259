//! What is left of a stream whose answer is whole, but which its endpoint has not ended yet: it is read to its
//! end by the connection's own task, since servers count streams that are reset.

use std::{future::pending, time::Duration};

use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet, time::timeout};

use super::link::Rest;

/// How long a stream may take to end that has nothing more to say.
const FAREWELL: Duration = Duration::from_secs(10);

/// Reads what a connection's streams have left, for as long as it is polled.
pub(super) async fn read_all(mut rests: UnboundedReceiver<Rest>) {
    let mut reading = JoinSet::new();
    loop {
        tokio::select! {
            Some(rest) = rests.recv() => {
                reading.spawn(read(rest));
            }
            Some(_) = reading.join_next() => {}
            else => pending().await,
        }
    }
}

async fn read(mut rest: Rest) {
    let ended = async {
        while let Some(Ok(data)) = rest.stream.data().await {
            // A body where there is none. It is not worth its bytes.
            if !data.is_empty() {
                return;
            }
        }
        // Whether there are any, and sound, is the same.
        let _ = rest.stream.trailers().await;
    };
    // A stream that is late is reset.
    let _ = timeout(FAREWELL, ended).await;
}
