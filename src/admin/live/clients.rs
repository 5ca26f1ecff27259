//! Those who watch, and what they have seen. Knows nothing of what the picture shows.

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::frame::Picture;

/// Clients that may watch at once.
const CLIENTS: usize = 16;
/// Changes that a client may be behind.
const BEHIND: usize = 8;
/// Changes are looked for so often; less often where that takes long.
const PACE: Duration = Duration::from_millis(500);
/// A tenth of the time at most goes into looking.
const REST: u32 = 10;
/// A client hears something so often, be it nothing: it can tell a proxy that is gone from one that
/// has nothing to say.
const BEAT: Duration = Duration::from_secs(10);

/// Those who watch, and what they have seen.
#[derive(Debug, Default)]
pub(in crate::admin) struct Live {
    watched: Mutex<Watched>,
    /// A first client watches.
    pub(super) begun: Notify,
    /// One more for each connection of theirs that has not ended, whatever it has of what it was sent.
    places: Arc<()>,
}

/// What a client is to hear, and its place for as long as it has not heard it.
pub(super) struct Changes {
    pub(super) receiver: mpsc::Receiver<Bytes>,
    _place: Arc<()>,
}

#[derive(Debug, Default)]
struct Watched {
    /// `None` while no client watches.
    picture: Option<Picture>,
    clients: Vec<mpsc::Sender<Bytes>>,
    /// How long it took to look.
    took: Duration,
    said: Option<Instant>,
    has_ended: bool,
}

impl Live {
    /// Begins to watch: everything there is comes first. `None` where too many do.
    pub(super) fn watch(&self, look: impl FnOnce() -> Picture) -> Option<Changes> {
        let mut watched = self.watched.lock();
        watched.clients.retain(|client| !client.is_closed());
        if watched.has_ended || Arc::strong_count(&self.places) > CLIENTS {
            return None;
        }
        let picture = watched.picture.take().unwrap_or_else(look);
        let (sender, receiver) = mpsc::channel(BEHIND);
        let whole = event(&picture.whole());
        sender.try_send(whole).ok()?;
        watched.picture = Some(picture);
        watched.clients.push(sender);
        self.begun.notify_one();
        Some(Changes {
            receiver,
            _place: Arc::clone(&self.places),
        })
    }

    /// How long to wait before looking again; `None` where no client watches.
    pub(super) fn pace(&self) -> Option<Duration> {
        let watched = self.watched.lock();
        let is_watched = watched.picture.is_some();
        is_watched.then(|| PACE.max(watched.took * REST))
    }

    /// Tells those who watch what has changed.
    pub(super) fn tell(&self, look: impl FnOnce() -> Picture) {
        let mut watched = self.watched.lock();
        watched.clients.retain(|client| !client.is_closed());
        if watched.clients.is_empty() {
            watched.picture = None;
            return;
        }
        let began = Instant::now();
        let now = look();
        let changes = watched
            .picture
            .as_ref()
            .and_then(|before| now.since(before));
        watched.picture = Some(now);
        watched.took = began.elapsed();
        let is_quiet = watched.said.is_none_or(|said| began - said >= BEAT);
        let said = match changes {
            Some(changes) => event(&changes),
            None if is_quiet => Bytes::from_static(b": nothing has changed\n\n"),
            None => return,
        };
        watched.said = Some(began);
        // One that is too far behind is let go of, and may begin anew.
        watched
            .clients
            .retain(|client| client.try_send(said.clone()).is_ok());
    }

    /// Lets go of all of them. Each may begin anew.
    pub(in crate::admin) fn let_go(&self) {
        let mut watched = self.watched.lock();
        watched.clients.clear();
        watched.picture = None;
    }

    /// Lets go of all of them, for good.
    pub(super) fn end(&self) {
        let mut watched = self.watched.lock();
        watched.has_ended = true;
        watched.clients.clear();
        watched.picture = None;
    }
}

/// JSON has no line break.
fn event(json: &str) -> Bytes {
    format!("data: {json}\n\n").into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::{
        admin::{
            live::picture,
            view::{Context, testing},
        },
        control::access::Access,
    };

    fn context() -> Context {
        testing::context(Access::new("127.0.0.1:9900".parse().unwrap(), None))
    }

    /// Has something to tell.
    fn change(context: &Context) {
        context.view.shared.ready.fetch_xor(true, Relaxed);
        context.live.tell(|| picture::of(context));
    }

    fn next(client: &mut Changes) -> Option<String> {
        let said = client.receiver.try_recv().ok()?;
        Some(String::from_utf8(said.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn everything_comes_first_and_then_what_has_changed() {
        let context = context();
        let mut client = context.live.watch(|| picture::of(&context)).unwrap();
        assert!(
            next(&mut client)
                .unwrap()
                .starts_with("data: {\"whole\":true,")
        );
        change(&context);
        let said = next(&mut client).unwrap();
        assert!(said.starts_with("data: {\"whole\":false,"), "{said}");
        assert!(said.contains("\"ready\":true"), "{said}");
        assert!(!said.contains("\"version\""), "{said}");
        context.live.tell(|| picture::of(&context));
        assert_eq!(next(&mut client), None, "nothing has changed");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_let_go_of() {
        let context = context();
        let mut slow = context.live.watch(|| picture::of(&context)).unwrap();
        let mut quick = context.live.watch(|| picture::of(&context)).unwrap();
        for _ in 0..2 * BEHIND {
            change(&context);
            while next(&mut quick).is_some() {}
        }
        let mut said = 0;
        while next(&mut slow).is_some() {
            said += 1;
        }
        assert_eq!(said, BEHIND);
        assert!(slow.receiver.is_closed() && !quick.receiver.is_closed());
    }

    #[tokio::test]
    async fn one_that_was_let_go_of_has_its_place_until_it_is_gone() {
        let context = context();
        let watch = || context.live.watch(|| picture::of(&context));
        let slow: Vec<_> = (0..CLIENTS).map(|_| watch().unwrap()).collect();
        for _ in 0..2 * BEHIND {
            change(&context);
        }
        assert!(slow.iter().all(|client| client.receiver.is_closed()));
        assert!(watch().is_none());
        drop(slow);
        assert!(watch().is_some());
    }

    #[tokio::test]
    async fn so_many_may_watch_and_none_once_it_ends() {
        let context = context();
        let watch = || context.live.watch(|| picture::of(&context));
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| watch().unwrap()).collect();
        assert!(watch().is_none());
        clients.pop();
        clients.push(watch().unwrap());
        context.live.end();
        assert!(clients.iter().all(|client| client.receiver.is_closed()));
        assert!(watch().is_none());
    }

    #[tokio::test]
    async fn where_no_client_watches_nothing_is_looked_for() {
        let context = context();
        assert_eq!(context.live.pace(), None);
        let client = context.live.watch(|| picture::of(&context)).unwrap();
        assert_eq!(context.live.pace(), Some(PACE));
        drop(client);
        context.live.tell(|| picture::of(&context));
        assert_eq!(context.live.pace(), None);
    }
}
