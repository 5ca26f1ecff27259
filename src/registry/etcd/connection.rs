//! One connection to one member: single calls, the token that they carry, and whether who answers
//! is still who answered before. Knows nothing of watches.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};
use tonic::{
    Request, Response, Streaming,
    client::Grpc,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use tonic_prost::ProstCodec;

use super::{
    fault::{Failure, Fault},
    keys::Keys,
    member::Member,
    message::{
        AuthenticateRequest, AuthenticateResponse, Header, KeyValue, RangeRequest, RangeResponse,
    },
};
use crate::{config::Secret, registry::RegistryError};

/// How long a connection may take to be made, its TLS included.
const CONNECT: Duration = Duration::from_secs(3);

/// How long an answer may take. A little more than etcd itself takes to say that it has no
/// majority (7 s), so that it can say so.
pub(super) const EXCHANGE: Duration = Duration::from_secs(8);

/// The largest answer that is read: some 500,000 keys.
const MAX_MESSAGE: usize = 64 << 20;

/// Ranges that are read at once, by however many watches: each may be of that size.
const RANGES: usize = 2;

const RANGE: &str = "/etcdserverpb.KV/Range";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// What a user is known by for a while; `None` where etcd wants no user.
pub(super) type Token = Option<MetadataValue<Ascii>>;

/// Who we are, to etcd.
#[derive(Debug)]
pub(super) struct User {
    pub(super) registry: String,
    pub(super) credentials: Option<(String, Secret)>,
}

/// A connection to one member.
#[derive(Debug)]
pub(crate) struct Connection {
    user: Arc<User>,
    /// The member's URL.
    pub(super) member: String,
    channel: Channel,
    token: Mutex<Token>,
    /// Whether anything was ever answered here.
    answered: AtomicBool,
    /// Why it is not to be used for anything new.
    broken: OnceLock<Fault>,
    /// The cluster that answers here.
    cluster: OnceLock<u64>,
    /// The latest revision that it has told.
    seen: AtomicI64,
    ranges: Semaphore,
}

/// All that stood in a range at one revision.
pub(crate) struct Read {
    pub(super) revision: i64,
    pub(crate) entries: Vec<KeyValue>,
}

impl Connection {
    /// Connects, and shows who we are.
    pub(super) async fn open(user: &Arc<User>, member: &Member) -> Result<Self, Fault> {
        let channel = timeout(CONNECT, member.connect())
            .await
            .map_err(|_| Fault::Silent(CONNECT))?
            .map_err(|error| Fault::connection(&error))?;
        let connection = Self {
            user: Arc::clone(user),
            member: member.address.clone(),
            channel,
            token: Mutex::default(),
            answered: AtomicBool::default(),
            ranges: Semaphore::new(RANGES),
            broken: OnceLock::new(),
            cluster: OnceLock::new(),
            seen: AtomicI64::default(),
        };
        connection.renew(&None).await?;
        Ok(connection)
    }

    /// What is wrong with the connection itself, if anything is.
    pub(super) fn broken(&self) -> Option<&Fault> {
        self.broken.get()
    }

    /// Notes where the connection itself is at fault: the next to ask gets another.
    pub(crate) fn note(&self, fault: Fault) -> Fault {
        let fault = match fault {
            // The last that one sees of an etcd that did not get the certificate it asks for.
            Fault::Connection(cause)
                if self.member.starts_with("https://") && !self.answered.load(Relaxed) =>
            {
                Fault::BrokenOff(cause)
            }
            fault => fault,
        };
        if fault.is_the_members() {
            // The first tells most.
            let _ = self.broken.set(fault.clone());
        }
        fault
    }

    pub(super) async fn token(&self) -> Token {
        self.token.lock().await.clone()
    }

    /// Gets a new token in the place of this one, unless another call has done so.
    pub(super) async fn renew(&self, old: &Token) -> Result<(), Fault> {
        let Some((name, password)) = &self.user.credentials else {
            return Ok(());
        };
        let mut token = self.token.lock().await;
        if *token == *old {
            *token = self.authenticate(name, password).await?;
        }
        Ok(())
    }

    async fn authenticate(&self, name: &str, password: &Secret) -> Result<Token, Fault> {
        let request = AuthenticateRequest {
            name: name.to_owned(),
            password: password.read_aside().await.map_err(Fault::Password)?,
        };
        let answered = self.exchange(AUTHENTICATE, request, None).await;
        let AuthenticateResponse { token } = match answered {
            // A user and a password may be set here before etcd's authentication is enabled.
            Err(Fault::Refused { text, .. }) if text.contains("is not enabled") => return Ok(None),
            answered => answered.map_err(|fault| self.note(fault))?,
        };
        let garbage = |_| Fault::Password("etcd's token is not one line of plain text".to_owned());
        let mut token: MetadataValue<Ascii> = token.parse().map_err(garbage)?;
        token.set_sensitive(true);
        Ok(Some(token))
    }

    /// One call; with a new token where the old one is no longer good.
    pub(crate) async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let token = self.token().await;
        let answered = match self.exchange(method, request.clone(), token.clone()).await {
            Err(fault) if fault.is_stale_token() && self.user.credentials.is_some() => {
                self.renew(&token).await?;
                self.exchange(method, request, self.token().await).await
            }
            answered => answered,
        };
        answered.map_err(|fault| self.note(fault))
    }

    async fn exchange<Q, A>(
        &self,
        method: &'static str,
        request: Q,
        token: Token,
    ) -> Result<A, Fault>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        // A single call is a stream of one message each way.
        let requests = futures_util::stream::iter([request]);
        let exchange = async {
            let mut answers = self.stream(method, requests, token).await?;
            let answer = answers.message().await.map_err(|s| Fault::call(&s))?;
            // Read to its end: what is dropped before is taken for a change of mind.
            answers.trailers().await.map_err(|s| Fault::call(&s))?;
            answer.ok_or_else(|| Fault::Connection("the answer broke off".to_owned()))
        };
        let answered = timeout(EXCHANGE, exchange).await;
        let answered = answered.unwrap_or(Err(Fault::Silent(EXCHANGE)));
        if matches!(answered, Ok(_) | Err(Fault::Refused { .. })) {
            self.answered.store(true, Relaxed);
        }
        answered
    }

    /// A call with a message each way whenever there is one to send.
    pub(super) async fn stream<Q, A>(
        &self,
        method: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
        token: Token,
    ) -> Result<Streaming<A>, Fault>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = Request::new(requests);
        // A member that has lost the others says so, rather than to say nothing.
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = token {
            request.metadata_mut().insert("token", token);
        }
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready()
            .await
            .map_err(|error| Fault::connection(&error))?;
        let codec = ProstCodec::<Q, A>::default();
        grpc.streaming(request, PathAndQuery::from_static(method), codec)
            .await
            .map(Response::into_inner)
            .map_err(|status| Fault::call(&status))
    }

    /// All that stands in a range, read so that nothing that anyone was told before is missing.
    pub(crate) async fn range(&self, keys: &Keys, keys_only: bool) -> Result<Read, Fault> {
        let turn = self.ranges.acquire().await;
        let _turn = turn.expect("it is never closed");
        self.read(keys, keys_only, 0).await
    }

    /// Whether a range can be read here, and who answers is still the same with the same data.
    pub(super) async fn probe(&self, keys: &Keys) -> Result<(), Fault> {
        self.read(keys, true, 1).await.map(drop)
    }

    async fn read(&self, keys: &Keys, keys_only: bool, limit: i64) -> Result<Read, Fault> {
        let request = RangeRequest {
            key: keys.start.clone(),
            range_end: keys.end.clone(),
            limit,
            keys_only,
        };
        let before = self.seen.load(Relaxed);
        let answer: RangeResponse = self.call(RANGE, request).await?;
        let header = answer.header.unwrap_or_default();
        self.recognise(&header, before)?;
        self.seen.fetch_max(header.revision, Relaxed);
        Ok(Read {
            revision: header.revision,
            entries: answer.kvs,
        })
    }

    /// The cluster that answers here, once it has.
    pub(super) fn cluster(&self) -> u64 {
        self.cluster.get().copied().unwrap_or_default()
    }

    /// An answer to what was asked after this revision was known must not be older.
    pub(super) fn recognise(&self, header: &Header, known: i64) -> Result<(), Fault> {
        let Header {
            cluster_id,
            revision,
        } = *header;
        let cluster = *self.cluster.get_or_init(|| cluster_id);
        let how = if cluster_id != cluster {
            format!("cluster {cluster_id:x} answers in the place of {cluster:x}")
        } else if revision < known {
            format!("it is at revision {revision}, and was at {known}")
        } else {
            return Ok(());
        };
        Err(self.note(Fault::Replaced(how)))
    }

    /// The error for what went wrong here.
    pub(crate) fn explain(&self, fault: Fault, subject: &str) -> RegistryError {
        let failure = Failure(vec![(self.member.clone(), fault)]);
        failure.explain(&self.user.registry, subject)
    }
}
