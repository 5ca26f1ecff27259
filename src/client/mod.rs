//! Client-side discovery: a Rust program that calls services by their names, with no proxy in
//! between. The same registries, watchers, balancers, retries and endpoint state as the proxy's,
//! by the same tables of proxy.toml (none of `[[route]]` is needed). Knows nothing of listeners or
//! routes.
//!
//! go-kit's words: an [`Instancer`] says what a registry knows of a service, an [`Endpointer`] what
//! can be called, and with what state, a [`Balancer`] who is next. A [`Caller`] is all of it for
//! HTTP: a [`tower::Service`] for one service's name.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//!
//! use bytes::Bytes;
//! use callboard::{
//!     client::{AnsweredBy, Client},
//!     config::{Config, Embedded, RegistryKind},
//!     embedded,
//!     instance::Address,
//!     register::{self, Provider, Registrar},
//! };
//! use http::Request;
//! use http_body_util::{BodyExt as _, Empty};
//! use tokio_util::sync::CancellationToken;
//!
//! // A registry, for the example: the embedded one, on a port of its own.
//! let folder = tempfile::tempdir()?;
//! let mut settings = Embedded {
//!     address: "127.0.0.1:0".parse()?,
//!     data: folder.path().to_owned(),
//!     token: None,
//!     hosts: Vec::new(),
//! };
//! let server = embedded::Server::bind(&settings).await?;
//! settings.address = server.address();
//! let closing = CancellationToken::new();
//! let served = tokio::spawn(server.run(closing.clone()));
//!
//! // A provider of the service `cart`, which signs in there.
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let port = listener.local_addr()?.port();
//! let app = axum::Router::new().route("/items", axum::routing::get(|| async { "three apples" }));
//! tokio::spawn(async move { axum::serve(listener, app).await });
//! let provider = Provider::new("cart", Address::new("127.0.0.1", port.into())?);
//! let registry = RegistryKind::Embedded(settings.clone());
//! let registrar = Registrar::start(register::entry("embedded", &registry, provider)?);
//! registrar.registered().await;
//!
//! // And this is all that a consumer needs.
//! let text = format!("[registry.embedded]\naddress = \"{}\"\n", settings.address);
//! let client = Client::start(Config::parse_for_client(&text, Path::new("."))?)?;
//! let cart = client.service("cart")?;
//!
//! let request = Request::get("/items").body(Empty::<Bytes>::new())?;
//! let response = cart.send(request).await?;
//! assert_eq!(response.status(), 200);
//! let by = response.extensions().get::<AnsweredBy>().expect("each answer has it");
//! assert_eq!((by.endpoint.port(), by.attempts), (port, 1));
//! let body = response.into_body().collect().await?.to_bytes();
//! assert_eq!(&body[..], b"three apples");
//!
//! client.close().await;
//! # registrar.deregister().await?;
//! # closing.cancel();
//! # served.await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What may be repeated
//!
//! The same as in the proxy. A request of which no byte went out is always tried elsewhere. One
//! that may have been processed is tried again only if its method is idempotent, and its body was
//! not longer than 64 KiB as far as it was read. Retries beyond a first few are a part of the
//! requests (`retry.budget`).
//!
//! # Runtimes and threads
//!
//! A [`Client`] is of the tokio runtime in which it was started, and its connections are driven
//! there: call it from tasks of that runtime, on as many threads as it has. Dropped with its last
//! handle it ends its watchers.

mod balancer;
mod caller;
mod endpointer;
mod error;
mod held;
mod instancer;
mod outgoing;
mod start;

pub use balancer::{Balancer, Picked};
pub use caller::{AnsweredBy, Caller, Response, ResponseBody};
pub use endpointer::Endpointer;
pub use error::{Error, SetupError};
pub use instancer::{Instancer, Known};
pub use start::Client;
