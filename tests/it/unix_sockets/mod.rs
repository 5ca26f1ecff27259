//! Unix sockets, on both sides of the proxy, and several addresses of one listener.

mod addresses;
mod endpoints;
mod listening;

use std::{os::fd::OwnedFd, path::Path};

use http_body_util::BodyExt as _;
use tokio::net::{TcpStream, UnixStream};

use crate::support::{backend::Backend, raw::Wire};

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";

/// A route to a service that has this one endpoint.
fn text_of(endpoint: &str) -> String {
    format!(
        "[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [service.cart]\nendpoints = [\"{endpoint}\"]\n"
    )
}

/// A backend that answers with the head of the request.
async fn echoing() -> Backend {
    let backend = Backend::named("echo").answering(|request| async move {
        let fields = request.headers().iter().map(|(name, value)| {
            format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
        });
        let fields = fields.collect::<String>();
        // An answer before the body's end would end the connection.
        let _ = request.into_body().collect().await;
        fields
    });
    backend.start().await
}

/// A client of the socket at this path.
pub(crate) async fn connect(path: &Path) -> Wire {
    wire(UnixStream::connect(path).await.unwrap())
}

fn wire(stream: UnixStream) -> Wire {
    let stream = OwnedFd::from(stream.into_std().unwrap());
    Wire::over(TcpStream::from_std(stream.into()).unwrap())
}
