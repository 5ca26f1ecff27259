//! The control plane's tasks, which all end together.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{ready::become_ready, supervisor::Supervisor};
use crate::{
    discovery,
    proxy::{Generation, Shared},
    saved::Store,
};

/// The control plane's tasks, but for the watchers of services.
#[derive(Default)]
pub(super) struct ControlTasks {
    ending: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl ControlTasks {
    /// Begins a task, which ends when its token is cancelled.
    pub(super) fn spawn<T>(&mut self, task: impl FnOnce(CancellationToken) -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.tasks.push(tokio::spawn(task(self.ending.clone())));
    }

    /// Begins the task that follows the routes that tags make.
    pub(super) fn follow_tags(&mut self, shared: &Arc<Shared>) {
        let state = Arc::clone(shared);
        self.spawn(|ending| follow_tags(state, ending));
    }

    /// Begins the tasks that follow what the registries say.
    pub(super) fn follow(
        &mut self,
        shared: &Arc<Shared>,
        snapshot: Option<Arc<Store>>,
        supervisor: Supervisor,
    ) {
        if let Some(store) = snapshot {
            let state = Arc::clone(shared);
            let directory = move || state.directory();
            self.spawn(|ending| discovery::keep(directory, store, ending));
        }
        let state = Arc::clone(shared);
        self.spawn(|ending| async move {
            if !state.ready.load(Relaxed) {
                let timeout = state.generation.load().config.admin.ready_timeout;
                become_ready(Arc::clone(&state), timeout, ending).await;
            }
            if state.ready.load(Relaxed) {
                supervisor.ready();
            }
        });
    }

    /// Ends them all.
    pub(super) async fn end(self) {
        self.ending.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the control plane failed");
            }
        }
    }
}

/// Makes a new generation whenever the routes that tags make have changed.
async fn follow_tags(shared: Arc<Shared>, ending: CancellationToken) {
    let mut changes = shared.directory().tagged_changes();
    loop {
        // Once at the beginning, too: something may have changed before this began to listen.
        shared.update(Generation::with_tags_of_now);
        tokio::select! {
            () = ending.cancelled() => return,
            Ok(()) = changes.changed() => {}
        }
    }
}
