//! How the library's streams are run: each is a task, which ends where its client is late.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::{
    super::stop::{Orders, Stop},
    progress::Progress,
    streams::Stream,
};
use crate::proxy::RequestStream;

/// What the library has its streams run by, one task for each.
#[derive(Clone)]
pub(super) struct StreamTasks {
    progress: Arc<Progress>,
    /// The stream whose request was handed over, and whose task follows at once.
    begun: Arc<Mutex<Option<Arc<Stream>>>>,
    tasks: TaskTracker,
}

impl StreamTasks {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        Self {
            progress,
            begun: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// A stream has begun, with a request.
    pub(super) fn begin(&self) -> Arc<RequestStream> {
        let request = Arc::new(RequestStream::new(Arc::clone(&self.progress.client)));
        let stream = Stream::new(Arc::clone(&request));
        *self.begun.lock() = Some(Arc::new(stream));
        request
    }

    /// Waits for the streams of a connection that is over.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, serving: F) {
        let Some(stream) = self.begun.lock().take() else {
            self.tasks.spawn(serving);
            return;
        };
        let open = OpenStream::new(&self.progress, stream);
        // Boxed: it is large, and a future that waits for it would hold it twice.
        let mut serving: Pin<Box<F>> = Box::pin(serving);
        self.tasks.spawn(async move {
            let mut orders = Orders::to(&open.stream.signal);
            poll_fn(|cx| match orders.last(cx.waker()) {
                Stop::Cut => Poll::Ready(()),
                Stop::Serve | Stop::Finish => serving.as_mut().poll(cx),
            })
            .await;
        });
    }
}

/// A stream's place among those that are open.
struct OpenStream {
    progress: Arc<Progress>,
    stream: Arc<Stream>,
    id: u64,
}

impl OpenStream {
    fn new(progress: &Arc<Progress>, stream: Arc<Stream>) -> Self {
        progress.client.worker.http2.streams.add_one();
        Self {
            id: progress.streams.add(Arc::clone(&stream)),
            progress: Arc::clone(progress),
            stream,
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.progress.streams.remove(self.id);
        self.progress.client.worker.http2.streams.sub_one();
    }
}
