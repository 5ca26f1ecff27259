//! What has changed, as it changes: one picture of everything for all who watch, and of it the parts
//! that are not as they were. Made only while a client watches. A client that does not read what it is
//! sent is let go of, so that none of it is held for long.

mod clients;
mod frame;
mod picture;

pub(super) use clients::Live;

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http::{StatusCode, header};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    history::{EVERY, Measured},
    view::{Context, Shown},
};

/// `GET /api/events`
pub(super) async fn events(State(context): Shown) -> Response {
    let Some(mut changes) = context.live.watch(|| picture::of(&context)) else {
        let text = "as many clients watch as may, or the proxy is about to end\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let changes = stream::poll_fn(move |cx| {
        let change = changes.receiver.poll_recv(cx);
        change.map(|change| change.map(Ok::<_, Infallible>))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(changes)).into_response()
}

/// Takes the samples of the history, and tells those who watch what has changed, until `ending`. Then
/// they are let go of.
pub(super) async fn follow(context: &Context, ending: CancellationToken) {
    let live = &context.live;
    let following = async {
        let mut next = Instant::now() + EVERY;
        loop {
            let pace = live.pace();
            tokio::select! {
                () = sleep_until(next) => {
                    sample(context);
                    next = (next + EVERY).max(Instant::now());
                }
                () = live.begun.notified(), if pace.is_none() => continue,
                () = sleep(pace.unwrap_or_default()), if pace.is_some() => {}
            }
            live.tell(|| picture::of(context));
        }
    };
    ending.run_until_cancelled(following).await;
    live.end();
}

fn sample(context: &Context) {
    let directory = context.view.shared.directory();
    let services = directory.services();
    let measured = services
        .iter()
        .filter_map(|service| Some((Arc::clone(service.name()), Measured::of(service)?)));
    context.history.lock().sample(measured);
}
