//! A connection that has gone over from HTTP/1.1 to another protocol: what its server has read and not
//! used is the client's first word in it.

use std::{task::Context, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{
    super::{Connection, Stop, linger::leave, stop::Orders},
    progress::Progress,
    stream::ClientStream,
};
use crate::proxy::{Parting, Tunnel};

/// How long a client may take to take the end that it is told.
const GRACE: Duration = Duration::from_secs(1);

/// Serves the tunnel to its end. `read` is what was read of the client behind its request.
pub(super) async fn serve(
    connection: &Connection,
    progress: &Progress,
    mut wire: ClientStream,
    read: Bytes,
    tunnel: Box<Tunnel>,
) {
    // Until then the time-outs are those of an answer.
    if !wire.send_rest(&connection.signal).await {
        return;
    }
    wire.transport().socket().keep_alive(Tunnel::KEEP_ALIVE);
    progress.goes_over(tunnel.watch());
    let early = joined(read, wire.take_held());
    let mut orders = Orders::to(&connection.signal);
    let is_told = |cx: &mut Context<'_>| orders.last(cx.waker()) == Stop::Cut;
    match tunnel.run(wire.transport(), early, is_told).await {
        Parting::Close => {}
        Parting::Leave => {
            // A client that reads nothing takes no end either.
            let said = timeout(GRACE, wire.say_end(&connection.signal)).await;
            match said {
                Ok(()) => leave(&connection.signal, wire.shut(), true).await,
                Err(_) => wire.transport().socket().reset(),
            }
        }
        Parting::Reset => wire.transport().socket().reset(),
    }
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(&second);
    both.freeze()
}
