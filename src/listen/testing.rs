//! What the tests of this folder share.

use std::sync::Arc;

use http::Version;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{Addresses, Connection, Room, permits::Permits, socket::Socket};
use crate::{
    config::{self, ListenProtocol, ListenTls, TlsVersion, UnknownName},
    proxy::{Client, ClientAddress, Scheme, Worker},
    tls::{Folder, Server},
};

/// A client, its connection, and the socket at the proxy's side.
pub(super) async fn connected() -> (TcpStream, Arc<Connection>, TcpStream) {
    connected_by(TcpSocket::new_v4().unwrap()).await
}

async fn connected_by(client: TcpSocket) -> (TcpStream, Arc<Connection>, TcpStream) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client.connect(socket.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, socket.accept());
    let (stream, peer) = accepted.unwrap();
    let (worker, listener) = (Worker::without_services(), config::Listener::default());
    let (permits, addresses) = (Arc::new(Permits::new(1)), Arc::new(Addresses::new(1)));
    let room = Room::of(&permits, &addresses);
    let connection = Connection::new(worker, Arc::new(listener), peer, Arc::default(), room);
    (client.unwrap(), Arc::new(connection), stream)
}

/// Who a connection's client is, in HTTP/1.1 and without a certificate.
pub(super) fn client_of(connection: &Connection, scheme: Scheme) -> Client {
    let (worker, listener) = (&connection.worker, &connection.listener);
    let address = ClientAddress {
        address: connection.address,
        trusted: false,
        named: true,
    };
    Client::new(worker, listener, address, scheme, Version::HTTP_11, None)
}

/// TLS of a listener, with a certificate for `localhost`.
pub(super) fn server() -> Arc<Server> {
    opened(&Folder::new())
}

fn opened(folder: &Folder) -> Arc<Server> {
    let settings = ListenTls {
        certificates: vec![folder.write("site", &["localhost"])],
        acme: None,
        unknown_name: UnknownName::Default,
        min_version: TlsVersion::Tls12,
        client: None,
        tickets: None,
        hsts: None,
    };
    Arc::new(Server::open(&Arc::new(settings), Vec::new(), ListenProtocol::Auto).unwrap())
}

/// A client whose handshake is done, and its connection.
pub(super) struct Secured {
    pub(super) client: client::TlsStream<TcpStream>,
    pub(super) connection: Arc<Connection>,
    pub(super) stream: server::TlsStream<Socket>,
    /// The socket below `stream`, for what goes past TLS.
    pub(super) socket: std::net::TcpStream,
}

/// One whose kernel keeps little for it.
pub(super) async fn secured() -> Secured {
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    let (socket, connection, stream) = connected_by(client).await;
    SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
    let stream = stream.into_std().unwrap();
    let below = stream.try_clone().unwrap();
    let mut stream = Socket::new(TcpStream::from_std(stream).unwrap());
    stream.follow_records();
    let folder = Folder::new();
    let acceptor = TlsAcceptor::from(opened(&folder).current());
    let mut roots = RootCertStore::empty();
    let shown = CertificateDer::from_pem_file(folder.file("site.pem")).unwrap();
    roots.add(shown).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let (client, stream) = tokio::join!(connector.connect(name, socket), acceptor.accept(stream),);
    Secured {
        client: client.unwrap(),
        connection,
        stream: stream.unwrap(),
        socket: below,
    }
}
