//! ZooKeeper, as a [`Registry`]: each service is a node whose children are its instances. Owns
//! where services stand and when they are read again; sessions are in `session`, a node's watched
//! children in `folder`, their errors in `fault`, what they hold in `parse`. Knows nothing of
//! pacing or retrying, which [`watch`](super::watch) does for every registry.

mod fault;
mod folder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod parse;
mod session;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Catalog, Registry, RegistryError, ServiceQuery, Source};
use crate::{config, evidence::Mark, instance::InstanceSet};
use folder::{Data, Folder, child};

pub(crate) use fault::Fault;
pub(crate) use parse::PROTECTED;
pub(crate) use session::{Ensemble, Session};

/// A ZooKeeper ensemble.
#[derive(Debug)]
pub struct ZooKeeper {
    ensemble: Arc<Ensemble>,
    settings: config::ZooKeeper,
}

impl ZooKeeper {
    /// Prepares the one session of `[registry.NAME]`; connects to nothing yet.
    pub fn new(name: &str, settings: &config::ZooKeeper) -> Self {
        Self {
            ensemble: Arc::new(Ensemble::new(name, settings, settings.session_timeout)),
            settings: settings.clone(),
        }
    }
}

/// The node whose children are the services.
fn services(settings: &config::ZooKeeper) -> String {
    let path = settings.path.trim_end_matches('/');
    match format!("{}{path}", settings.chroot) {
        root if root.is_empty() => "/".to_owned(),
        path => path,
    }
}

/// The node whose children are this service's instances. A name that begins with a slash is a
/// path by itself.
pub(crate) fn node_of(settings: &config::ZooKeeper, service: &str) -> String {
    if service.starts_with('/') {
        return format!("{}{}", settings.chroot, service.trim_end_matches('/'));
    }
    child(&services(settings), service)
}

impl Registry for ZooKeeper {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        let name = query.name;
        let wanted = format!("cannot be asked for service `{name}`");
        if !query.tags.is_empty() {
            return Box::new(Unanswerable(self.ensemble.explain(&wanted, &Fault::Tags)));
        }
        let node = node_of(&self.settings, &name);
        let beside = (!name.starts_with('/')).then(|| (services(&self.settings), name));
        Box::new(Cursor {
            ensemble: self.ensemble.clone(),
            wanted,
            session: None,
            consistent: query.consistent,
            below: Folder::new(node, |_| true),
            beside: beside.map(|(folder, name)| {
                Folder::new(folder, move |node| parse::stands_beside(node, &name))
            }),
            parse: |below: &Folder, beside: Option<&Folder>| {
                let zxid = beside.map_or(0, Folder::zxid).max(below.zxid());
                let beside = beside.into_iter().flat_map(Folder::data);
                parse::instances(below.data().chain(beside)).with(Mark {
                    revision: Some(zxid),
                    ..Mark::default()
                })
            },
        })
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let node = services(&self.settings);
        let of_root = node == "/";
        Some(Box::new(Cursor {
            ensemble: self.ensemble.clone(),
            wanted: "cannot be asked for the catalog".to_owned(),
            session: None,
            consistent: false,
            below: Folder::new(node, |_| false),
            beside: None,
            parse: move |below: &Folder, _: Option<&Folder>| parse::catalog(below.names(), of_root),
        }))
    }
}

/// One or two watched folders, read again each time something in them changed.
struct Cursor<P> {
    ensemble: Arc<Ensemble>,
    /// What is wanted, for errors: "cannot be asked for service `cart`".
    wanted: String,
    /// `None` starts from the beginning.
    session: Option<Session>,
    /// Whether the server first catches up with the others.
    consistent: bool,
    below: Folder,
    /// Where else to look as long as nothing stands below.
    beside: Option<Folder>,
    parse: P,
}

impl<T, P> Source<T> for Cursor<P>
where
    T: 'static,
    P: Fn(&Folder, Option<&Folder>) -> T + Send + 'static,
{
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        Box::pin(async move {
            if let Err(fault) = self.step().await {
                self.session = None;
                self.below.forget();
                self.beside.iter_mut().for_each(Folder::forget);
                if fault.is_of_the_session() {
                    self.ensemble.doubt().await;
                }
                return Err(self.ensemble.explain(&self.wanted, &fault));
            }
            Ok((self.parse)(&self.below, self.beside.as_ref()))
        })
    }
}

impl<P> Cursor<P> {
    /// Waits for a change, and reads what changed. Cancel-safe.
    async fn step(&mut self) -> Result<(), Fault> {
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(self.ensemble.shared().await?),
        };
        let client = session.client.clone();
        let (below, beside) = (&mut self.below, &mut self.beside);
        let consistent = self.consistent;
        let reading = async {
            if consistent {
                let caught_up = client.sync("/").await;
                caught_up.map_err(|error| (below.path().to_owned(), error))?;
            }
            let watched = beside.as_mut().filter(|_| is_bare(below));
            tokio::select! {
                () = below.changed() => {}
                () = changed(watched) => {}
            }
            below.read(&client).await?;
            match beside {
                Some(beside) if is_bare(below) => beside.read(&client).await,
                Some(beside) => {
                    beside.forget();
                    Ok(())
                }
                None => Ok(()),
            }
        };
        let read = session.during(reading).await?;
        read.map_err(|(path, error)| self.ensemble.fault(&path, error))?;
        self.all_hidden().map_or(Ok(()), |path| {
            Err(self.ensemble.fault(&path, zookeeper_client::Error::NoAuth))
        })
    }

    /// A node of a service that hides all of them: rights were lost, not instances.
    fn all_hidden(&self) -> Option<String> {
        let mut all = self.below.data();
        let (first, _) = all.clone().next()?;
        let hidden = all.all(|(_, data)| *data == Data::Denied);
        hidden.then(|| child(self.below.path(), first))
    }
}

/// Whether a service's node is there without anything in it, as those nodes are whose instances
/// stand beside them.
fn is_bare(below: &Folder) -> bool {
    below.exists() && below.names().next().is_none()
}

async fn changed(folder: Option<&mut Folder>) {
    match folder {
        Some(folder) => folder.changed().await,
        None => std::future::pending().await,
    }
}

/// Asked for what ZooKeeper does not have.
struct Unanswerable(RegistryError);

impl Source<InstanceSet> for Unanswerable {
    fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
        let error = self.0.clone();
        Box::pin(async move { Err(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use crate::instance::Address;

    fn settings(chroot: &str, path: &str) -> config::ZooKeeper {
        config::ZooKeeper {
            addresses: vec![Address::new("127.0.0.1", 2181).unwrap()],
            chroot: chroot.to_owned(),
            path: path.to_owned(),
            digest: None,
            session_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_service_stands_below_the_path_and_a_whole_path_by_itself() {
        for (chroot, path, service, node) in [
            ("", "/services", "cart", "/services/cart"),
            ("", "/services", "team/cart", "/services/team/cart"),
            ("", "/services", "/other/cart/", "/other/cart"),
            ("", "/", "cart", "/cart"),
            ("/prod", "/services", "cart", "/prod/services/cart"),
            ("/prod", "/", "cart", "/prod/cart"),
            ("/prod", "/services", "/other/cart", "/prod/other/cart"),
        ] {
            assert_eq!(node_of(&settings(chroot, path), service), node);
        }
        for (chroot, path, node) in [
            ("", "/", "/"),
            ("", "/a", "/a"),
            ("/p", "/", "/p"),
            ("/p", "/a", "/p/a"),
        ] {
            assert_eq!(services(&settings(chroot, path)), node);
        }
    }

    #[tokio::test]
    async fn who_asks_for_tags_is_told_that_there_are_none() {
        let registry = ZooKeeper::new("main", &settings("", "/services"));
        let error = registry
            .service(ServiceQuery {
                name: "cart".to_owned(),
                tags: vec!["v2".to_owned()],
                ..ServiceQuery::default()
            })
            .next()
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "main at 127.0.0.1:2181 cannot be asked for service `cart`: instances in ZooKeeper have no tags; take `tags` out of [service.NAME]"
        );
        assert!(error.retry_after.is_some(), "it stays that way");
    }
}
