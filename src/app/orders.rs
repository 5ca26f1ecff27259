//! The certificates that the proxy orders itself: a keeper for each account that listeners have, which comes
//! and goes with a reload. Knows nothing of how one is ordered.

use std::{mem, sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::interval,
};
use tokio_util::sync::CancellationToken;

use crate::{
    acme::{Board, Challenges, Keeper, Wanted, Ways},
    config::{Acme, AcmeAccount, Config, Listener},
    proxy::Shared,
};

/// How often it is looked whether there is another file.
const PACE: Duration = Duration::from_secs(1);

/// The certificates that the proxy orders itself.
pub(super) struct Orders {
    challenges: Arc<Challenges>,
    /// How the orders stand.
    pub(super) board: Arc<Board>,
    /// Those of the file of the start.
    first: Vec<(AcmeAccount, Keeper)>,
    keepers: Vec<Keeping>,
}

/// A keeper at work.
struct Keeping {
    account: AcmeAccount,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Orders {
    /// Reads what there is for the names of a file.
    pub(super) fn new(config: &Config, challenges: &Arc<Challenges>) -> Self {
        let mut orders = Self {
            challenges: Arc::clone(challenges),
            board: Arc::default(),
            first: Vec::new(),
            keepers: Vec::new(),
        };
        let keeper = |account: AcmeAccount| (account.clone(), orders.keeper(config, account)());
        let first = accounts(config).into_iter().map(keeper);
        orders.first = first.collect();
        orders
    }

    /// Orders what is missing or due, for the names of the file that runs.
    pub(super) async fn run(mut self, shared: Arc<Shared>, ending: CancellationToken) {
        for (account, keeper) in mem::take(&mut self.first) {
            self.begin(account, keeper, &shared, &ending);
        }
        let mut known = None;
        let mut tick = interval(PACE);
        while ending.run_until_cancelled(tick.tick()).await.is_some() {
            let config = Arc::clone(&shared.generation.load().config);
            let is_known = |known: &Arc<Config>| Arc::ptr_eq(known, &config);
            let is_at_work = self.keepers.iter().all(Keeping::is_at_work);
            if !is_at_work || !known.as_ref().is_some_and(is_known) {
                let following = self.follow(&config, &shared, &ending);
                let is_done = ending.run_until_cancelled(following).await;
                known = is_done.unwrap_or_default().then_some(config);
            }
        }
        for keeper in self.keepers {
            keeper.end().await;
        }
    }

    /// Has there be a keeper at work for each account of this file, and no other. Returns whether there is.
    async fn follow(
        &mut self,
        config: &Arc<Config>,
        shared: &Arc<Shared>,
        ending: &CancellationToken,
    ) -> bool {
        let wanted = accounts(config);
        let is_gone =
            |keeper: &mut Keeping| !keeper.is_at_work() || !wanted.contains(&keeper.account);
        let gone: Vec<_> = self.keepers.extract_if(.., is_gone).collect();
        for keeper in gone {
            let folder = keeper.account.folder.clone();
            // Another account may have its folder.
            keeper.end().await;
            self.board.forget(&folder);
        }
        let mut all = true;
        for account in wanted {
            if self.keepers.iter().any(|keeper| keeper.account == account) {
                continue;
            }
            match spawn_blocking(self.keeper(config, account.clone())).await {
                Ok(keeper) => self.begin(account, keeper, shared, ending),
                Err(error) => {
                    all = false;
                    tracing::error!(%error, "a task of the control plane failed");
                }
            }
        }
        all
    }

    /// What reads the folder of an account.
    fn keeper(&self, config: &Config, account: AcmeAccount) -> impl FnOnce() -> Keeper + use<> {
        let wanted = wanted(config, &account);
        let (challenges, board) = (Arc::clone(&self.challenges), Arc::clone(&self.board));
        move || Keeper::new(account, wanted, challenges, board)
    }

    fn begin(
        &mut self,
        account: AcmeAccount,
        keeper: Keeper,
        shared: &Arc<Shared>,
        ending: &CancellationToken,
    ) {
        let (process, ending) = (ending.clone(), ending.child_token());
        let wanted = {
            let (shared, account) = (Arc::clone(shared), account.clone());
            move || wanted(&shared.generation.load().config, &account)
        };
        self.keepers.push(Keeping {
            account,
            ending: ending.clone(),
            task: tokio::spawn(keeper.run(wanted, ending, process)),
        });
    }
}

impl Keeping {
    fn is_at_work(&self) -> bool {
        !self.task.is_finished()
    }

    /// Ends it. An order that is under way is broken off.
    async fn end(self) {
        self.ending.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a task of the control plane failed");
        }
    }
}

/// The accounts that listeners have.
fn accounts(config: &Config) -> Vec<AcmeAccount> {
    let mut accounts = Vec::new();
    for acme in config.listeners.iter().filter_map(acme_of) {
        if !accounts.contains(&acme.account) {
            accounts.push(acme.account.clone());
        }
    }
    accounts
}

/// What listeners want of an account.
fn wanted(config: &Config, account: &AcmeAccount) -> Wanted {
    let all = config.listeners.iter().filter_map(acme_of);
    let own = all.filter(|acme| acme.account == *account);
    Wanted {
        names: own.flat_map(|acme| config.names_to_order(acme)).collect(),
        ways: Ways::of(&config.listeners),
    }
}

fn acme_of(listener: &Listener) -> Option<&Acme> {
    listener.tls.as_ref()?.acme.as_ref()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{discovery::Directory, proxy::Generation, saved::Contents};

    #[tokio::test]
    async fn a_keeper_that_has_failed_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        // An authority that is not reached.
        let text = "[[listen]]\naddress = \"127.0.0.1:443\"\n[listen.tls.acme]\n\
            domains = [\"a.example.com\"]\nfolder = \"acme\"\n\
            directory = \"https://127.0.0.1:1/directory\"\n\
            [[route]]\nservice = \"a\"\n[service.a]\nendpoints = [\"127.0.0.1:1\"]\n";
        let config = Arc::new(Config::parse(text, folder.path()).unwrap());
        let directory = Directory::start(&config, BTreeMap::new(), &Contents::default()).unwrap();
        let generation = Generation::new(Arc::clone(&config), directory);
        let shared = Arc::new(Shared::new(generation, Arc::default()));
        let ending = CancellationToken::new();
        let mut orders = Orders::new(&config, &Arc::default());
        let task = tokio::spawn(async {});
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        orders.keepers.push(Keeping {
            account: accounts(&config).remove(0),
            ending: ending.child_token(),
            task,
        });
        assert!(orders.follow(&config, &shared, &ending).await);
        assert!(orders.keepers.len() == 1 && orders.keepers[0].is_at_work());
        ending.cancel();
        for keeper in orders.keepers {
            keeper.end().await;
        }
    }
}
