//! One order, from its beginning to the certificate (RFC 8555 7.4): the authority names what it wants proved,
//! asks the listeners for it, and gives a certificate for a key that is made here.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    challenges::{Challenges, Proof},
    client::again,
    failure::{Failure, refuses_replacing},
    store::{Store, issued},
};

/// How long the authority may take to look at the proof, and to give the certificate.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// How long the other proxies of a folder may take to have its proofs: they look every second, and the
/// authority may ask any of them.
const SHARED: Duration = Duration::from_millis(1500);

/// Where the proofs of an account are given.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) store: Store,
    pub(super) challenges: Arc<Challenges>,
}

impl Stage {
    /// Has the listeners of all proxies of the folder give these proofs, and no others.
    ///
    /// # Errors
    /// Where the disk takes none.
    pub(super) async fn show(&self, proofs: Vec<Proof>) -> Result<(), Failure> {
        let stage = self.clone();
        let is_any = !proofs.is_empty();
        let shown = spawn_blocking(move || {
            stage.challenges.show(&stage.store.folder, proofs.clone());
            stage.store.share(&proofs)
        });
        match shown.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let folder = self.store.folder.display();
                let words = format!("nothing can be written to {folder}: {error}");
                return Err(Failure::new(words));
            }
            Err(error) => return Err(Failure::new(error.to_string())),
        }
        if is_any {
            sleep(SHARED).await;
        }
        Ok(())
    }
}

/// Orders a certificate for a name, which the authority is to ask for in this way. Returned are the
/// certificate with its chain, and its key, in PEM form.
///
/// # Errors
/// Why there is none.
pub(super) async fn order(
    account: &Account,
    name: &str,
    by: &ChallengeType,
    replaces: Option<CertificateIdentifier<'static>>,
    stage: &Stage,
) -> Result<String, Failure> {
    let failed = |error| Failure::of(&error);
    let mut order = begin(account, name, replaces).await.map_err(failed)?;
    prove(&mut order, name, by, stage).await?;
    if order.state().status != OrderStatus::Ready {
        match again!(order.poll_ready(&PATIENCE)) {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(refusal(&mut order, name, by, None).await),
            Err(error) => return Err(refusal(&mut order, name, by, Some(error)).await),
        }
    }
    let (key, request) = request(name)?;
    again!(order.finalize_csr(&request)).map_err(failed)?;
    let chain = again!(order.poll_certificate(&PATIENCE)).map_err(failed)?;
    let pem = format!("{}\n{key}", chain.trim_end());
    match issued(pem.as_bytes(), name) {
        Ok(_) => Ok(pem),
        Err(error) => Err(Failure::new(format!(
            "what the authority has given cannot be used: {error}"
        ))),
    }
}

/// Begins an order. That it replaces a certificate has it count less (RFC 9773 5), and where the authority
/// does not take that, it is one like any other.
async fn begin(
    account: &Account,
    name: &str,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    let names = [Identifier::Dns(name.to_owned())];
    if let Some(before) = replaces {
        let order = NewOrder::new(&names).replaces(before);
        match again!(account.new_order(&order)) {
            Ok(order) => return Ok(order),
            Err(error) if refuses_replacing(&error) => {
                tracing::debug!(name, %error, "an order that replaces none is made");
            }
            Err(error) => return Err(error),
        }
    }
    let order = NewOrder::new(&names);
    again!(account.new_order(&order))
}

/// Gives the proofs that an order wants, and tells the authority so.
async fn prove(
    order: &mut Order,
    name: &str,
    by: &ChallengeType,
    stage: &Stage,
) -> Result<(), Failure> {
    let failed = |error| Failure::of(&error);
    again!(read(order)).map_err(failed)?;
    let mut proofs = Vec::new();
    let mut wanted = order.authorizations();
    while let Some(one) = wanted.next().await {
        let mut one = one.map_err(failed)?;
        if one.status == AuthorizationStatus::Pending {
            let Some(challenge) = one.challenge(by.clone()) else {
                let words = format!("the authority does not ask for {name} in the way of {by:?}");
                return Err(Failure::new(words));
            };
            proofs.push(Proof {
                name: name.to_owned(),
                token: challenge.token.clone(),
                answer: challenge.key_authorization().as_str().to_owned(),
            });
        }
    }
    if proofs.is_empty() {
        return Ok(());
    }
    stage.show(proofs).await?;
    let mut wanted = order.authorizations();
    while let Some(one) = wanted.next().await {
        let mut one = one.map_err(failed)?;
        if one.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = one.challenge(by.clone())
        {
            again!(challenge.set_ready()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Reads what an order wants proved, each once.
async fn read(order: &mut Order) -> Result<(), Error> {
    let mut wanted = order.authorizations();
    while let Some(one) = wanted.next().await {
        one?;
    }
    Ok(())
}

/// Why an order came to nothing: what the authority says of the proof, else of the order.
async fn refusal(
    order: &mut Order,
    name: &str,
    by: &ChallengeType,
    error: Option<Error>,
) -> Failure {
    match again!(problem(order)) {
        Ok(Some((by, problem))) => Failure::of_challenge(name, &by, &problem),
        _ => match error {
            Some(error) => Failure::of(&error),
            None => Failure::new(format!(
                "the authority has refused the proof for {name} ({by:?})"
            )),
        },
    }
}

/// What the authority says of the proofs that it has looked at.
async fn problem(order: &mut Order) -> Result<Option<(ChallengeType, Problem)>, Error> {
    let mut wanted = order.authorizations();
    while let Some(one) = wanted.next().await {
        let mut one = one?;
        let now = one.refresh().await?;
        let mut challenges = now.challenges.iter();
        let refused = challenges.find_map(|one| Some((one.r#type.clone(), one.error.clone()?)));
        if refused.is_some() {
            return Ok(refused);
        }
    }
    Ok(None)
}

/// A new key in PEM form, and the request to certify it.
fn request(name: &str) -> Result<(String, Vec<u8>), Failure> {
    let made = || {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?;
        Ok((key.serialize_pem(), request.der().to_vec()))
    };
    made().map_err(|error: rcgen::Error| Failure::new(format!("no key can be made: {error}")))
}
