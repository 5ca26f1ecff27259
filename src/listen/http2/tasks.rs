//! How the library's streams are run: each is a task, which ends where its client is late. The tunnel that a
//! stream goes over to runs in its task, too.

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
    streams::{Stream, Upgrade},
    tunnel::{self, Sender},
};
use crate::proxy::RequestStream;

/// What the library has its streams run by, one task for each.
#[derive(Clone)]
pub(super) struct StreamTasks {
    progress: Arc<Progress>,
    /// The stream whose request was handed over, and whose task follows at once.
    begun: Arc<Mutex<Option<Arc<Stream>>>>,
    /// What sends the bytes of a stream that goes over, whose task is being polled, and takes it at once.
    sender: Arc<Mutex<Option<Sender>>>,
    tasks: TaskTracker,
    /// The streams that have gone over.
    tunnels: TaskTracker,
}

impl StreamTasks {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        Self {
            progress,
            begun: Arc::default(),
            sender: Arc::default(),
            tasks: TaskTracker::new(),
            tunnels: TaskTracker::new(),
        }
    }

    /// A stream has begun, with a request that perhaps goes over to another protocol.
    pub(super) fn begin(&self, upgrade: Option<Upgrade>) -> Arc<RequestStream> {
        let request = Arc::new(RequestStream::new(Arc::clone(&self.progress.client)));
        let stream = Stream::new(Arc::clone(&request), upgrade);
        *self.begun.lock() = Some(Arc::new(stream));
        request
    }

    /// Has tunnels end, and waits for them; none begins any more.
    pub(super) async fn end_tunnels(&self) {
        self.tunnels.close();
        self.progress.streams.cut_tunnels();
        self.tunnels.wait().await;
    }

    /// Serves the tunnel of a stream, if it has gone over.
    async fn serve_tunnel(self, stream: &Stream) {
        let sender = self.sender.lock().take();
        // It and its request hold each other.
        let tunnel = stream.request.take_tunnel();
        if let (Some(sender), Some(tunnel)) = (sender, tunnel)
            && let Some(upgrade) = &stream.upgrade
            && !self.tunnels.is_closed()
        {
            let _open = self.tunnels.token();
            tunnel::serve(stream, upgrade.bytes.clone(), sender, tunnel).await;
        }
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
            *self.sender.lock() = Some(Box::pin(serving));
            return;
        };
        let goes_over = stream.upgrade.is_some().then(|| self.clone());
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
            if let Some(tasks) = goes_over {
                drop(serving);
                Box::pin(tasks.serve_tunnel(&open.stream)).await;
            }
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
