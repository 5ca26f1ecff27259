//! What stands between a server and its client, and parts them when it is told to. Knows nothing of
//! what they say.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::server::free_ports;

pub(crate) struct Relay {
    address: SocketAddr,
    open: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        // One that it finds again after it was closed.
        let [port] = free_ports();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let listener = TcpListener::bind(address).await.unwrap();
        let (open, opened) = watch::channel(true);
        let way = Way {
            server,
            open: opened,
            connections: Arc::default(),
        };
        Self {
            address,
            open,
            connections: Arc::clone(&way.connections),
            task: tokio::spawn(way.relay(listener)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, and refuses those that come from now on.
    pub(crate) fn part(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections pass again.
    pub(crate) fn join(&self) {
        self.open.send_replace(true);
    }

    /// Connections that it has taken.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Way {
    server: SocketAddr,
    /// Its sender lives as long as the relay does.
    open: watch::Receiver<bool>,
    connections: Arc<AtomicUsize>,
}

impl Way {
    async fn relay(self, mut listener: TcpListener) {
        let address = listener.local_addr().unwrap();
        loop {
            tokio::select! {
                () = self.clone().closed() => {}
                () = self.accept(&listener) => {}
            }
            drop(listener);
            let joined = self.open.clone().wait_for(|open| *open).await.is_ok();
            if !joined {
                return;
            }
            listener = TcpListener::bind(address).await.unwrap();
        }
    }

    async fn accept(&self, listener: &TcpListener) {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            self.connections.fetch_add(1, Relaxed);
            let way = self.clone();
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = way.clone().closed() => {}
                    _ = async {
                        // Whatever ends it ends both sides.
                        let mut server = TcpStream::connect(way.server).await?;
                        copy_bidirectional(&mut client, &mut server).await
                    } => {}
                }
            });
        }
    }

    async fn closed(mut self) {
        // The relay's end is one, too.
        let _ = self.open.wait_for(|open| !open).await;
    }
}
