//! TLS of the listeners that speak it: opened once for each table, and followed from then on. A reload
//! goes on with what it has alike.

use std::{iter::zip, sync::Arc};

use crate::{
    acme::{Challenges, certificate_file},
    config::{Config, ListenProtocol, ListenTls, Listener},
    listen::Tls,
    tls::{Ordered, Server, TlsError},
};

/// TLS of a listener. The addresses of one table share it.
#[derive(Clone)]
pub(super) struct ListenerTls {
    settings: Arc<ListenTls>,
    protocol: ListenProtocol,
    pub(super) server: Arc<Server>,
    pub(super) tls: Arc<Tls>,
}

impl ListenerTls {
    /// Reads the files of each listener that has them; `before` is what the listeners have now in whose
    /// places they come. Authorities of certificates are answered by `challenges`.
    ///
    /// # Errors
    /// Where a file cannot be used.
    pub(super) fn open_all(
        config: &Config,
        before: &[Option<Self>],
        challenges: &Arc<Challenges>,
    ) -> Result<Vec<Option<Self>>, TlsError> {
        let listeners = &config.listeners;
        let mut all = Vec::<Option<Self>>::new();
        for listener in listeners {
            let opened = listener.tls.as_ref().map(|settings| {
                let is_of = |one: &&Self| Arc::ptr_eq(&one.settings, settings);
                if let Some(shared) = all.iter().flatten().find(is_of) {
                    return Ok(shared.clone());
                }
                // What any address of the table had. Of a table that was split, the first part goes on with it:
                // each has orders and bounds of its own.
                let is_free = |was: &&Self| {
                    let taken = all.iter().flatten();
                    !taken
                        .into_iter()
                        .any(|one| Arc::ptr_eq(&one.server, &was.server))
                };
                let had = zip(listeners, before).filter(|(one, _)| has(one, settings));
                let had: Vec<_> = had
                    .filter_map(|(_, was)| was.as_ref())
                    .filter(is_free)
                    .collect();
                if let Some(was) = had.iter().find(|was| was.is_alike(listener)) {
                    return Ok(Self {
                        settings: Arc::clone(settings),
                        ..(*was).clone()
                    });
                }
                let ordered = ordered(settings, config);
                let server = Server::open(settings, ordered, listener.protocol)?;
                let mut had = had.into_iter();
                let was = had.find(|was| was.is_left_by_all(settings, listeners, before));
                Ok(Self::new(listener, settings, server, was, challenges))
            });
            all.push(opened.transpose()?);
        }
        Ok(all)
    }

    /// Counts on where another one has.
    fn new(
        listener: &Listener,
        settings: &Arc<ListenTls>,
        mut server: Server,
        before: Option<&Self>,
        challenges: &Arc<Challenges>,
    ) -> Self {
        if let Some(before) = before {
            server = server.in_place_of(&before.server);
        }
        let server = Arc::new(server);
        let (most, challenges) = (listener.limits.handshakes, Arc::clone(challenges));
        let mut tls = Tls::new(Arc::clone(&server), challenges, most);
        if let Some(before) = before {
            tls = tls.in_place_of(&before.tls);
        }
        Self {
            settings: Arc::clone(settings),
            protocol: listener.protocol,
            tls: Arc::new(tls),
            server,
        }
    }

    /// Has it show the certificates that are ordered for the names of this file.
    pub(super) fn follow_orders(&self, config: &Config) {
        self.server.order(ordered(&self.settings, config));
    }

    /// Whether it does for a listener. Which certificates are ordered may change while it runs.
    fn is_alike(&self, listener: &Listener) -> bool {
        let without_orders = |settings: &ListenTls| ListenTls {
            acme: None,
            ..settings.clone()
        };
        let settings = listener.tls.as_deref().map(without_orders);
        self.protocol == listener.protocol && settings == Some(without_orders(&self.settings))
    }

    /// Whether all listeners that have this go over to the same settings: its counts can go on once.
    fn is_left_by_all(
        &self,
        settings: &Arc<ListenTls>,
        listeners: &[Listener],
        before: &[Option<Self>],
    ) -> bool {
        let has_this = |one: &Option<Self>| {
            one.as_ref()
                .is_some_and(|one| Arc::ptr_eq(&one.server, &self.server))
        };
        let mut leaving = zip(listeners, before).filter(|(_, was)| has_this(was));
        leaving.all(|(listener, _)| listener.tls.is_none() || has(listener, settings))
    }
}

/// Whether these are the settings of a listener's table.
fn has(listener: &Listener, settings: &Arc<ListenTls>) -> bool {
    let its = listener.tls.as_ref();
    its.is_some_and(|its| Arc::ptr_eq(its, settings))
}

/// The certificates that are ordered for a listener.
fn ordered(settings: &ListenTls, config: &Config) -> Vec<Ordered> {
    let Some(acme) = &settings.acme else {
        return Vec::new();
    };
    let names = config.names_to_order(acme).into_iter();
    names
        .map(|host| Ordered {
            file: certificate_file(&acme.account.folder, &host),
            host,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(tls: &str) -> Config {
        let text = format!(
            "[[listen]]\naddress = \"127.0.0.1:443\"\ntls = {{ {tls} }}\n\
             [[route]]\nservice = \"a\"\n"
        );
        Config::parse(&text, Path::new(".")).unwrap()
    }

    #[tokio::test]
    async fn other_names_to_order_certificates_for_leave_the_keys_of_sessions_as_they_are() {
        let challenges = Arc::default();
        let open = |config: &Config, before: &[Option<ListenerTls>]| {
            ListenerTls::open_all(config, before, &challenges).unwrap()
        };
        let first = open(&config("acme = { domains = [\"a.b\"] }"), &[None]);
        let is_same = |next: &[Option<ListenerTls>]| {
            let server = |all: &[Option<ListenerTls>]| Arc::clone(&all[0].as_ref().unwrap().server);
            Arc::ptr_eq(&server(&first), &server(next))
        };
        let next = config("acme = { domains = \"routes\", email = \"ops@a.b\" }");
        assert!(is_same(&open(&next, &first)));
        let next = config("acme = { domains = [\"a.b\"] }, min_version = \"1.3\"");
        assert!(!is_same(&open(&next, &first)));
    }

    fn tables(tables: &[(&str, &str)]) -> Config {
        let table = |(addresses, tls): &(&str, &str)| {
            format!("[[listen]]\naddress = [{addresses}]\ntls = {{ {tls} }}\n")
        };
        let tables: String = tables.iter().map(table).collect();
        let text = format!("{tables}[[route]]\nservice = \"a\"\n");
        Config::parse(&text, Path::new(".")).unwrap()
    }

    #[tokio::test]
    async fn of_a_table_that_is_split_one_part_goes_on_and_a_new_address_changes_nothing() {
        let challenges = Arc::default();
        let open = |config: &Config, before: &[Option<ListenerTls>]| {
            ListenerTls::open_all(config, before, &challenges).unwrap()
        };
        let (a, b, c) = ("\"127.0.0.1:1\"", "\"127.0.0.1:2\"", "\"127.0.0.1:3\"");
        let (one, other) = (
            "acme = { domains = [\"a.b\"] }",
            "acme = { domains = [\"c.d\"] }",
        );
        let servers = |all: &[Option<ListenerTls>]| -> Vec<_> {
            let server = |one: &Option<ListenerTls>| Arc::as_ptr(&one.as_ref().unwrap().server);
            all.iter().map(server).collect()
        };
        let whole = open(&tables(&[(&format!("{a}, {b}"), one)]), &[None, None]);
        let was = servers(&whole);
        assert_eq!(was[0], was[1]);
        let split = open(&tables(&[(a, one), (b, other)]), &whole);
        let is = servers(&split);
        assert!(is[0] == was[0] && is[1] != was[0], "{is:?} after {was:?}");
        let before = [None, whole[0].clone(), whole[1].clone()];
        let more = open(&tables(&[(&format!("{c}, {a}, {b}"), one)]), &before);
        assert_eq!(servers(&more), [was[0]; 3]);
    }
}
