//! An account at an authority, and the HTTP client by which it is asked: directly, and no longer than it
//! takes.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{Account, BodyWrapper, BytesResponse, Error, HttpClient, NewAccount};
use parking_lot::Mutex;

use super::{
    failure::Failure,
    store::{KeptAccount, Store},
};
use crate::{
    config::{AcmeAccount, ClientTls},
    error::with_causes,
    tls::client_config,
};

const CONNECT: Duration = Duration::from_secs(10);
/// For an answer with its body.
const ANSWER: Duration = Duration::from_secs(60);
/// Bytes of an answer. A chain of certificates has some thousands.
const LONGEST: usize = 1 << 20;

/// How often a step is made again for a nonce that the authority does not take, beside the library's own
/// attempts.
pub(super) const AGAIN: usize = 5;

/// Makes a step, again where the authority wants no more than another nonce (RFC 8555 6.5).
macro_rules! again {
    ($step:expr) => {{
        let mut left = $crate::acme::client::AGAIN;
        loop {
            match $step.await {
                Err(error) if left > 0 && $crate::acme::failure::is_bad_nonce(&error) => left -= 1,
                done => break done,
            }
        }
    }};
}
pub(super) use again;

/// An account that orders can be made by.
pub(super) struct Client {
    pub(super) account: Account,
    http: Http,
    /// What the folder has not taken yet.
    unwritten: Option<KeptAccount>,
}

impl Client {
    /// The account that the folder has, else a new one, which is to be [written](Self::write).
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn open(settings: &AcmeAccount, store: &Store) -> Result<Self, Failure> {
        let http = Http::new(settings)?;
        let failed = |error| Failure::of_opening(&error);
        let (account, unwritten) = match read(settings, store)? {
            Some(kept) => {
                let builder = Account::builder_with_http(Box::new(http.clone()));
                let opened = builder.from_credentials(kept.credentials).await;
                let account = opened.map_err(failed)?;
                let is_told = kept.email != settings.email && tell(&account, settings).await;
                let known = is_told.then(|| read(settings, store)).transpose()?;
                let known = known.flatten().map(|kept| KeptAccount {
                    email: settings.email.clone(),
                    ..kept
                });
                (account, known)
            }
            None => {
                let (account, new) = create(settings, &http).await.map_err(failed)?;
                (account, Some(new))
            }
        };
        Ok(Self {
            account,
            http,
            unwritten,
        })
    }

    /// Writes a new account to the folder. One that cannot be written stays in memory and is written later:
    /// authorities allow few accounts, so that it is not made again.
    ///
    /// # Errors
    /// Where the disk takes none.
    pub(super) fn write(&mut self, store: &Store) -> Result<(), Failure> {
        let Some(new) = &self.unwritten else {
            return Ok(());
        };
        store.keep_account(new).map_err(|error| {
            Failure::of_folder(format!(
                "the account cannot be written to {}: {error}",
                store.folder.display()
            ))
        })?;
        self.unwritten = None;
        Ok(())
    }

    /// Whether the folder has the account. One that it has can be opened anew.
    pub(super) fn is_written(&self) -> bool {
        self.unwritten.is_none()
    }

    /// How long the last answer that asked for it would have this client stay away, in seconds.
    pub(super) fn asked_to_wait(&self) -> Option<i64> {
        self.http.wait.lock().take()
    }
}

/// The account that the folder has of this directory.
fn read(settings: &AcmeAccount, store: &Store) -> Result<Option<KeptAccount>, Failure> {
    let kept = store.account(&settings.directory);
    kept.map_err(|error| {
        let folder = store.folder.display();
        Failure::of_folder(format!("the account in {folder} cannot be read: {error}"))
    })
}

/// Tells the authority another mailbox. Returns whether it takes that; where it does not, certificates are
/// ordered all the same.
async fn tell(account: &Account, settings: &AcmeAccount) -> bool {
    let contact = contact(settings);
    let contact: Vec<_> = contact.iter().map(String::as_str).collect();
    match again!(account.update_contacts(&contact)) {
        Ok(()) => true,
        Err(error) => {
            let error = Failure::of(&error).words;
            tracing::warn!(error, "the authority does not take another mailbox");
            false
        }
    }
}

fn contact(settings: &AcmeAccount) -> Option<String> {
    let email = settings.email.as_ref();
    email.map(|email| format!("mailto:{email}"))
}

async fn create(settings: &AcmeAccount, http: &Http) -> Result<(Account, KeptAccount), Error> {
    let contact = contact(settings);
    let contact: Vec<_> = contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        // Who names an authority in the file agrees to its terms, as the documentation says.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = &settings.directory;
    let created = again!(Account::builder_with_http(Box::new(http.clone())).create(
        &new,
        directory.clone(),
        None
    ));
    let (account, credentials) = created?;
    tracing::info!(
        directory,
        "an account was made at an authority of certificates"
    );
    let kept = KeptAccount {
        directory: directory.clone(),
        email: settings.email.clone(),
        credentials,
    };
    Ok((account, kept))
}

/// The client.
#[derive(Clone)]
struct Http {
    client: reqwest::Client,
    wait: Arc<Mutex<Option<i64>>>,
}

impl Http {
    fn new(settings: &AcmeAccount) -> Result<Self, Failure> {
        let tls = ClientTls {
            ca: settings.ca.clone(),
            ..ClientTls::default()
        };
        let tls = client_config(&tls).map_err(|error| Failure::new(error.to_string()))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|error| Failure::new(with_causes(&error)))?;
        let wait = Arc::default();
        Ok(Self { client, wait })
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let request = self.client.request(head.method, head.uri.to_string());
        let answer = request.headers(head.headers).body(body).send().await;
        let mut answer = answer.map_err(other)?;
        let mut response = http::Response::new(());
        *response.status_mut() = answer.status();
        response.headers_mut().clone_from(answer.headers());
        if let Some(seconds) = asked_to_wait(answer.status(), answer.headers()) {
            *self.wait.lock() = Some(seconds);
        }
        let mut read = BytesMut::new();
        while let Some(piece) = answer.chunk().await.map_err(other)? {
            if read.len() + piece.len() > LONGEST {
                return Err(Error::Str("an answer that ends"));
            }
            read.extend_from_slice(&piece);
        }
        Ok(response.map(|()| Full::new(read.freeze())).into())
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}

fn other(error: reqwest::Error) -> Error {
    Error::Other(Box::new(error))
}

/// In seconds; the form with a date is left to the pauses of this side.
fn asked_to_wait(status: StatusCode, headers: &HeaderMap) -> Option<i64> {
    let is_busy = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = seconds.trim().parse().ok()?;
    is_busy.then_some(seconds)
}
