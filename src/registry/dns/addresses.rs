//! The addresses of a name: two questions, of which each may be answered without the other. Knows
//! nothing of services.

use std::{net::IpAddr, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use hickory_proto::rr::{Name, RecordType};
use tokio::time::timeout;

use super::{answer::Answer, fault::Failure, resolvers::Panel};

/// The addresses of a name as they were answered last; `None` where they never were.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    v4: Option<Vec<IpAddr>>,
    v6: Option<Vec<IpAddr>>,
}

impl Known {
    /// Of both families.
    pub(super) fn ips(&self) -> Vec<IpAddr> {
        let all = [&self.v4, &self.v6].into_iter().flatten();
        all.flatten().copied().collect()
    }
}

/// Asks for all addresses of a name; returns them, and how long they may be believed. What is
/// answered counts: where one family cannot be had it has the addresses that were `known`, and no
/// others. Not to know one family and to find nothing in the other is an error.
pub(super) async fn addresses(
    panel: &Panel<'_>,
    name: &Name,
    known: &Known,
) -> Result<(Known, Duration), Failure> {
    match both(panel, name).await {
        (Ok(v4), Ok(v6)) => {
            let ttl = v4.ttl.min(v6.ttl);
            let (v4, v6) = (Some(v4.ips()), Some(v6.ips()));
            Ok((Known { v4, v6 }, ttl))
        }
        (Ok(v4), Err(failure)) => {
            let ttl = v4.ttl;
            let v4 = alone(v4, known.v4.as_ref(), known.v6.as_ref(), failure)?;
            let v6 = known.v6.clone();
            Ok((Known { v4: Some(v4), v6 }, ttl))
        }
        (Err(failure), Ok(v6)) => {
            let ttl = v6.ttl;
            let v6 = alone(v6, known.v6.as_ref(), known.v4.as_ref(), failure)?;
            let v4 = known.v4.clone();
            Ok((Known { v4, v6: Some(v6) }, ttl))
        }
        (Err(failure), Err(_)) => Err(failure),
    }
}

/// The addresses of one family where the other could not be had. That a name has none of the one
/// says nothing of the other, unless either was answered before.
fn alone(
    answer: Answer,
    known: Option<&Vec<IpAddr>>,
    other: Option<&Vec<IpAddr>>,
    failure: Failure,
) -> Result<Vec<IpAddr>, Failure> {
    let ips = answer.ips();
    if ips.is_empty() && known.is_none() && other.is_none() {
        return Err(failure);
    }
    tracing::debug!(?failure, "one family of addresses cannot be looked up");
    Ok(ips)
}

/// The answers for A and for AAAA. Where the first of them has addresses the other is waited for
/// no longer than is reasonable: some resolvers never answer the one that they do not know.
async fn both(
    panel: &Panel<'_>,
    name: &Name,
) -> (Result<Answer, Failure>, Result<Answer, Failure>) {
    let v4 = pin!(panel.ask(name, RecordType::A));
    let v6 = pin!(panel.ask(name, RecordType::AAAA));
    match select(v4, v6).await {
        Either::Left((v4, v6)) => {
            let v6 = after(panel, &v4, v6).await;
            (v4, v6)
        }
        Either::Right((v6, v4)) => {
            let v4 = after(panel, &v6, v4).await;
            (v4, v6)
        }
    }
}

async fn after(
    panel: &Panel<'_>,
    first: &Result<Answer, Failure>,
    other: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    let serves = first.as_ref().is_ok_and(|first| !first.ips().is_empty());
    if !serves {
        return other.await;
    }
    // Time for one datagram that was lost.
    let limit = panel.limit() / 2;
    let late = timeout(limit, other).await;
    late.unwrap_or(Err(Failure::Late(limit)))
}
