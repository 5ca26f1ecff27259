//! One order, from its beginning to the certificate (RFC 8555 7.4): the authority names what it wants proved,
//! asks the listeners for it, and gives a certificate for a key that is made here.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{
    challenges::Proof,
    client::again,
    failure::{Concern, Failure, refuses_replacing},
    stage::Stage,
    store::{Issued, Pending, issued},
};

/// How long the authority may take to look at the proof, and to give the certificate.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

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
    held: Option<&Issued>,
    stage: &Stage,
) -> Result<String, Failure> {
    let failed = |error| Failure::of(&error);
    if let Some(pem) = resume(account, name, held, stage).await? {
        return Ok(pem);
    }
    let mut order = begin(account, name, replaces).await.map_err(failed)?;
    prove(&mut order, name, by, stage).await?;
    if order.state().status != OrderStatus::Ready {
        match again!(order.poll_ready(&PATIENCE)) {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(refusal(&mut order, name, by, None).await),
            Err(error) => return Err(refusal(&mut order, name, by, Some(error)).await),
        }
    }
    let key = KeyPair::generate().map_err(|error| no_key(&error))?;
    let request = request(name, &key)?;
    let key = key.serialize_pem();
    let pending = Pending {
        account: account.id().to_owned(),
        order: order.url().to_owned(),
        key: key.clone(),
    };
    stage.keep_key(name, pending).await?;
    again!(order.finalize_csr(&request)).map_err(failed)?;
    let chain = again!(order.poll_certificate(&PATIENCE)).map_err(failed)?;
    let pem = with_key(&chain, &key);
    match issued(pem.as_bytes(), name) {
        Ok(_) => Ok(pem),
        Err(error) => Err(Failure::new(format!(
            "what the authority has given cannot be used: {error}"
        ))),
    }
}

/// The certificate of an earlier order, which was not written when the process ended, or when the disk took
/// nothing; `None` where another is to be ordered. Authorities count those that are issued, and not those that
/// are fetched.
///
/// # Errors
/// Why that cannot be told now.
async fn resume(
    account: &Account,
    name: &str,
    held: Option<&Issued>,
    stage: &Stage,
) -> Result<Option<String>, Failure> {
    let pending = stage.pending(name).await;
    let Some(pending) = pending.filter(|pending| pending.account == account.id()) else {
        return Ok(None);
    };
    match again!(fetch(account, name, &pending)) {
        Ok(Some(chain)) => {
            let pem = with_key(&chain, &pending.key);
            let issued = issued(pem.as_bytes(), name).ok();
            let is_new = issued.is_some_and(|new| held.is_none_or(|held| held.der != new.der));
            Ok(is_new.then_some(pem))
        }
        Ok(None) => Ok(None),
        Err(error) => {
            let failure = Failure::of(&error);
            let is_open = matches!(error, Error::Timeout(_)) || failure.concerns != Concern::Name;
            if is_open { Err(failure) } else { Ok(None) }
        }
    }
}

/// Asks for the certificate of an order, which is made for its key where the proof was given.
async fn fetch(account: &Account, name: &str, pending: &Pending) -> Result<Option<String>, Error> {
    let mut order = account.order(pending.order.clone()).await?;
    match order.state().status {
        OrderStatus::Valid | OrderStatus::Processing => {}
        OrderStatus::Ready => {
            let key = KeyPair::from_pem(&pending.key).ok();
            let Some(Ok(request)) = key.map(|key| request(name, &key)) else {
                return Ok(None);
            };
            again!(order.finalize_csr(&request))?;
        }
        OrderStatus::Pending | OrderStatus::Invalid => return Ok(None),
    }
    let chain = again!(order.poll_certificate(&PATIENCE))?;
    Ok(Some(chain))
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

/// A chain of certificates with its key, in PEM form.
fn with_key(chain: &str, key: &str) -> String {
    format!("{}\n{key}", chain.trim_end())
}

/// The request to certify a key.
fn request(name: &str, key: &KeyPair) -> Result<Vec<u8>, Failure> {
    let made = || {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(key)?;
        Ok(request.der().to_vec())
    };
    made().map_err(|error| no_key(&error))
}

fn no_key(error: &rcgen::Error) -> Failure {
    Failure::new(format!("no key can be made: {error}"))
}
