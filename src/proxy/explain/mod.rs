//! What would become of a request: which route takes it, where it goes, what an endpoint would get, and
//! what would be tried again. Every question is asked of what a request itself asks; nothing is counted,
//! taken or claimed by it.

mod account;
mod question;
mod routes;
mod text;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::join_all;
use http::StatusCode;
use tokio::time::Instant;

pub(crate) use account::Explanation;
pub(crate) use question::{Invalid, Question};

use super::{
    Client, ClientAddress, Generation, Goal, Own, Scheme, Target, Worker,
    admit::{self, Head},
    found_in,
    local_reply::LocalReply,
    name,
    outgoing::{Asking, Outgoing, has_no_endpoint},
    route,
};
use crate::{
    config::{self, Subset},
    discovery::Lookup,
    instance::Address,
    route::Match,
    service::{
        CallError, CallPolicy, EndpointProspect, Event, FollowUp, LimitsProspect, Outlook,
        Overridden, Prospect, RequestShape, Service, Then, Undelivered, prospect,
    },
    upstream,
};
use account::{
    AnswerAccount, Destination, EndpointAccount, FollowUpAccount, LimitsAccount, RateAccount,
    RequestAccount, RetryAccount,
};
use question::Announced;

/// So many endpoints of a service are named.
const MOST_ENDPOINTS: usize = 100;

/// What is said of a request that asks to go over to what `upgrades` does not name.
const NO_UPGRADE: &str = "none: `upgrades` does not name it. By HTTP/1.1 the request goes on as a plain one, and by HTTP/2 it is answered 501";

/// Explains what becomes of a request now. What it leads to that was never read is waited for, but not
/// for longer than `limit` twice.
pub(crate) async fn explain_once_read(
    worker: &Arc<Worker>,
    question: &Question,
    limit: Duration,
) -> Explanation {
    let mut explanation = explain(worker, question);
    if explanation.unlisted.is_some() {
        worker.shared.directory().wait_for_catalogs(limit).await;
        explanation = explain(worker, question);
    }
    let unread = explanation.destinations.iter().filter(|one| !one.is_read);
    let directory = worker.shared.directory();
    let unread = unread.filter_map(|one| directory.service(&one.service));
    let unread: Vec<_> = unread.collect();
    if unread.is_empty() {
        return explanation;
    }
    let read = unread.iter().map(|service| service.wait_until_read(limit));
    join_all(read).await;
    explain(worker, question)
}

/// Explains what becomes of a request now, by what is known.
fn explain(worker: &Arc<Worker>, question: &Question) -> Explanation {
    let generation = worker.shared.generation.load_full();
    let listener = question.listener(&generation.config.listeners);
    let scheme = match listener.tls {
        Some(_) => Scheme::Https,
        None => Scheme::Http,
    };
    let address = ClientAddress {
        address: SocketAddr::new(question.client, 0),
        trusted: listener.trusts(question.client),
        named: true,
    };
    let listener = Arc::new(listener.clone());
    let version = question.version();
    let client = Client::new(worker, &listener, address, scheme, version, None);
    let mut explanation = Explanation {
        request: request(question, &client),
        ..Explanation::default()
    };
    let (mut parts, body) = (question.parts(), question.body);
    let refused = match admit::head_of(&client, &mut parts, &body) {
        Ok(head) => Explaining {
            generation: &generation,
            client: &client,
            head,
            body,
            now: Instant::now(),
        }
        .go_through(&mut explanation),
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = refused {
        // What is answered first is answered.
        explanation.answer.get_or_insert_with(|| answer(&refusal));
    }
    explanation
}

fn request(question: &Question, client: &Client) -> RequestAccount {
    RequestAccount {
        method: question.method.to_string(),
        host: question.host(),
        target: question.target.to_string(),
        client: question.client.to_string(),
        asker: client.asker(&question.headers).to_string(),
        listener: client.listener.address.to_string(),
    }
}

fn answer(refusal: &LocalReply) -> AnswerAccount {
    AnswerAccount {
        status: refusal.status().as_u16(),
        why: refusal.message(),
    }
}

/// A request on its way, which it goes in thought.
struct Explaining<'a> {
    generation: &'a Generation,
    client: &'a Client,
    head: Head<'a>,
    body: Announced,
    now: Instant,
}

impl<'e> Explaining<'e> {
    fn go_through(mut self, found: &mut Explanation) -> Result<(), LocalReply> {
        let (status, why) = match Own::answer_to(self.client, &self.head) {
            None => return self.forward(found),
            Some(Own::Refusal(refusal)) => return Err(refusal),
            Some(Own::Redirect(location)) => {
                (StatusCode::PERMANENT_REDIRECT, format!("to {location}"))
            }
            Some(Own::Health) => self.health(),
            Some(Own::Proof(_)) => (
                StatusCode::OK,
                "the proof that an authority of certificates asks for".to_owned(),
            ),
            Some(Own::Options) => (
                StatusCode::NO_CONTENT,
                "it asks about the proxy itself".to_owned(),
            ),
        };
        found.answer = Some(AnswerAccount {
            status: status.as_u16(),
            why,
        });
        Ok(())
    }

    fn health(&self) -> (StatusCode, String) {
        let (status, is_ready) = match self.client.worker.shared.ready.load(Relaxed) {
            true => (StatusCode::OK, "is ready"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "is not ready"),
        };
        let why = format!("the listener's health_path, while the proxy {is_ready}");
        (status, why)
    }

    fn forward(&mut self, found: &mut Explanation) -> Result<(), LocalReply> {
        let generation = self.generation;
        let matched = route(generation, self.client, &self.head);
        let (takes, passed_over) = routes::accounts(generation, &self.head);
        (found.route, found.passed_over) = (takes, passed_over);
        let matched = matched.inspect_err(|refusal| {
            if matches!(refusal, LocalReply::NoRoute) {
                found.near_misses = routes::near_misses(generation, &self.head);
            }
        })?;
        let (index, strip_of) = (matched.route, matched.prefix_len);
        let target = &generation.targets[index];
        found.rate = self.rate(target);
        if found.rate.as_ref().is_some_and(|rate| rate.left == 0) {
            found.answer = Some(AnswerAccount {
                status: StatusCode::TOO_MANY_REQUESTS.as_u16(),
                why: "too many requests for now".to_owned(),
            });
        }
        let services = match &target.goal {
            Goal::Template { by_host } => self.named(&matched, *by_host, found)?,
            Goal::Service(service) => vec![Goes::to(service)],
            Goal::Split(split) => {
                let weights = split.weights();
                let sum: u32 = weights.iter().sum();
                let shares = std::iter::zip(split.shares(), weights);
                let part = |weight| f64::from(weight) / f64::from(sum.max(1));
                let shares = shares.filter(|(_, weight)| *weight > 0);
                shares
                    .map(|(share, weight)| Goes {
                        chance: part(weight),
                        ..Goes::to(&share.service)
                    })
                    .collect()
            }
        };
        let strip = target.strip.bytes(strip_of);
        for Goes {
            service,
            chance,
            is_watched,
        } in services
        {
            let destination = self.destination(target, strip, &service, chance);
            found.destinations.push(Destination {
                is_watched,
                ..destination
            });
        }
        Ok(())
    }

    /// The service that a template's request names.
    fn named(
        &self,
        matched: &Match<'_>,
        by_host: bool,
        found: &mut Explanation,
    ) -> Result<Vec<Goes>, LocalReply> {
        let name = name(matched.service.unwrap_or_default(), by_host);
        match self.generation.directory.peek(&name) {
            Ok(Lookup::NotRead) => {
                found.unlisted = Some(name.into_owned());
                Ok(Vec::new())
            }
            Ok(lookup) => Ok(vec![Goes::to(&found_in(lookup, &name)?)]),
            Err(unwatched) => Ok(vec![Goes {
                is_watched: false,
                ..Goes::to(&unwatched)
            }]),
        }
    }

    fn rate(&self, target: &Target) -> Option<RateAccount> {
        let rate = target.rate.as_ref()?;
        let config::Rate {
            requests,
            per,
            burst,
            by,
            ..
        } = rate.rule();
        Some(RateAccount {
            requests: *requests,
            per_seconds: per.as_secs_f64(),
            burst: *burst,
            by: by.as_ref().map(ToString::to_string),
            left: rate.left(&Asking(self.client, &self.head), self.now),
        })
    }

    /// The service that is called, with the subset of it that the route wants: the route's own, or its
    /// fallback.
    fn called<'s>(&self, target: &'s Target, service: &'s Arc<Service>) -> Called<'s>
    where
        Self: 's,
    {
        let own = Called {
            service,
            subset: target.subset.as_ref(),
            instead_of: None,
        };
        let other = match own.is_empty() {
            true => self.generation.fallback(target, service),
            false => None,
        };
        other.map_or(own, |other| Called {
            service: other,
            subset: None,
            instead_of: Some(service),
        })
    }

    /// What becomes of it at a service, or at that one's fallback.
    fn destination(
        &mut self,
        target: &Target,
        strip: usize,
        service: &Arc<Service>,
        chance: f64,
    ) -> Destination {
        let called = self.called(target, service);
        let no_endpoint = called.answer(target);
        let Called {
            service,
            subset,
            instead_of,
        } = called;
        let (goes_over, refused) = self.upgrade(target, strip, service);
        let overrides = target.overrides.as_deref();
        let overridden = overrides.map(|own| Overridden::of(service, own));
        let policy = CallPolicy::of(service, subset, overridden.as_ref());
        let prospect = policy.as_ref().map(|policy| self.prospect(service, policy));
        let limits = prospect.as_ref().and_then(|it| it.limits);
        let shed = limits.and_then(|limits| match limits.outlook {
            Outlook::Shed(why) => Some(called.failed(target, CallError::Shed(why))),
            Outlook::Room | Outlook::Waits(_) => None,
        });
        let first = prospect.iter().flat_map(|it| &it.endpoints).next();
        let address = first.and_then(|first| Address::try_from(first.address.clone()).ok());
        let count = prospect.as_ref().map_or(0, |it| it.endpoints.len());
        let registries = service.policy().origin.registries().iter();
        Destination {
            service: service.name().to_string(),
            instead_of: instead_of.map(|service| service.name().to_string()),
            chance,
            registries: registries.map(ToString::to_string).collect(),
            registered_name: service.registered_name().to_owned(),
            is_watched: true,
            is_read: service.is_read(),
            answer: refused.or(no_endpoint).or(shed),
            goes_over,
            balance: policy
                .map_or("", |it| it.view.balance().as_str())
                .to_owned(),
            subset: subset
                .map(ToString::to_string)
                .filter(|words| !words.is_empty()),
            pinned_to: prospect.as_ref().and_then(|it| it.pinned_to),
            more_endpoints: count.saturating_sub(MOST_ENDPOINTS),
            endpoints: prospect.iter().flat_map(endpoints).collect(),
            head: self.text(target, strip, service, address),
            retry: retry(policy.as_ref(), prospect.as_ref()),
            timeout: policy
                .as_ref()
                .map(|policy| timeouts(policy, self.head.deadline))
                .unwrap_or_default(),
            limits: limits.map(limits_account),
        }
    }

    fn prospect(&self, service: &Service, policy: &CallPolicy<'_>) -> Prospect {
        let asking = Asking(self.client, &self.head);
        let shape = RequestShape {
            method: &self.head.parts.method,
            length: self.body.length(),
            is_body_withheld: self.expects_continue(),
        };
        prospect(service, policy, &asking, shape, self.now)
    }

    fn expects_continue(&self) -> bool {
        // Of expectations only one is admitted.
        self.head.parts.headers.contains_key("expect")
    }

    /// The head as this endpoint gets it.
    fn text(
        &mut self,
        target: &Target,
        strip: usize,
        service: &Service,
        endpoint: Option<Address>,
    ) -> String {
        let nowhere = || Address::new("endpoint", 80).expect("it is a name");
        let endpoint = endpoint.unwrap_or_else(nowhere);
        let expects_continue = self.expects_continue();
        let method = self.head.parts.method.clone();
        let request = upstream::Request::new(&method, self.body, expects_continue);
        request.text(&self.outgoing(target, strip, service), &endpoint)
    }

    /// What it asks this service to go over to, of what may be, where it asks for any of it; and what is answered
    /// where nothing is left of it without that.
    fn upgrade(
        &mut self,
        target: &Target,
        strip: usize,
        service: &Service,
    ) -> (Option<String>, Option<AnswerAccount>) {
        if !self.head.may_upgrade {
            return (None, None);
        }
        match upstream::Head::upgrade(&self.outgoing(target, strip, service)) {
            Some(upgrade) => {
                let protocols = String::from_utf8_lossy(upgrade.as_bytes());
                (Some(protocols.into_owned()), None)
            }
            None => {
                let is_refused = self.head.is_connect();
                let refused = is_refused.then(|| answer(&LocalReply::NoUpgrade));
                (Some(NO_UPGRADE.to_owned()), refused)
            }
        }
    }

    fn outgoing<'o>(
        &'o mut self,
        target: &'o Target,
        strip: usize,
        service: &'o Service,
    ) -> Outgoing<'o, 'e, 'o> {
        Outgoing {
            client: self.client,
            head: &mut self.head,
            service,
            access: None,
            target,
            strip,
        }
    }
}

/// Where a request goes.
struct Goes {
    service: Arc<Service>,
    chance: f64,
    /// Whether its endpoints are known, or will be.
    is_watched: bool,
}

impl Goes {
    fn to(service: &Arc<Service>) -> Self {
        Self {
            service: Arc::clone(service),
            chance: 1.0,
            is_watched: true,
        }
    }
}

/// A service that is called.
#[derive(Clone, Copy)]
struct Called<'s> {
    service: &'s Arc<Service>,
    subset: Option<&'s Arc<Subset>>,
    /// The service whose fallback it is.
    instead_of: Option<&'s Arc<Service>>,
}

impl Called<'_> {
    /// Whether it is known to have no endpoint to call.
    fn is_empty(&self) -> bool {
        has_no_endpoint(self.service, self.subset)
    }

    /// What is answered where it has none.
    fn answer(&self, target: &Target) -> Option<AnswerAccount> {
        let is_empty = self.is_empty();
        is_empty.then(|| self.failed(target, CallError::NoEndpoints))
    }

    fn failed(&self, target: &Target, error: CallError) -> AnswerAccount {
        let undelivered = Undelivered {
            service: self.service,
            instead_of: self.instead_of,
            error,
        };
        answer(&LocalReply::of(undelivered, target.subset.as_ref()))
    }
}

fn retry(policy: Option<&CallPolicy<'_>>, prospect: Option<&Prospect>) -> RetryAccount {
    let follow_ups = prospect.into_iter().flat_map(|it| &it.follow_ups);
    RetryAccount {
        attempts: policy.map_or(1, |policy| policy.retry.attempts),
        left: prospect.map_or(0, |it| it.retries_left),
        follow_ups: follow_ups.map(follow_up).collect(),
    }
}

fn endpoints(prospect: &Prospect) -> impl Iterator<Item = EndpointAccount> {
    let account = |one: &EndpointProspect| EndpointAccount {
        instance: one.instance.to_string(),
        address: one.address.clone(),
        state: one.state.as_str().to_owned(),
        chance: (one.chance * 1e6).round() / 1e6,
        why: one.why.clone(),
    };
    prospect.endpoints.iter().take(MOST_ENDPOINTS).map(account)
}

fn follow_up(follow_up: &FollowUp) -> FollowUpAccount {
    let event = match follow_up.event {
        Event::NoConnection => "the endpoint takes no connection",
        Event::ConnectTimeout => "no connection within timeout.connect",
        Event::DiedUnsent => "the connection ends before the request is sent",
        Event::DiedUnanswered => "the connection ends without an answer",
        Event::Unwanted => "the answer's status stands in retry.on",
        Event::UnwantedGrpc => "the answer's status of gRPC stands in retry.on",
        Event::TryTimeout => "no answer within retry.try_timeout",
        Event::Timeout => "no answer within timeout.response",
        Event::BrokeOff => "the answer breaks off",
    };
    let then = match (follow_up.then, follow_up.event) {
        (Then::Retry, _) => "another attempt",
        (Then::RetryIfShort, _) => "another attempt, if its body is short enough to be kept",
        (Then::PassOn, _) => "the answer is passed on",
        (Then::Fail, Event::BrokeOff) => "the client's answer breaks off",
        (Then::Fail, Event::ConnectTimeout | Event::TryTimeout | Event::Timeout) => "504",
        (Then::Fail, _) => "502",
    };
    FollowUpAccount {
        event: event.to_owned(),
        then: then.to_owned(),
    }
}

/// For how long it is tried; its client waits no longer than `deadline`.
fn timeouts(policy: &CallPolicy<'_>, deadline: Option<Duration>) -> BTreeMap<String, Option<f64>> {
    let config::Timeouts {
        connect,
        response,
        idle,
        total,
        tunnel,
    } = *policy.timeout;
    let all = [
        ("connect", Some(connect)),
        ("response", Some(response)),
        ("idle", Some(idle)),
        ("total", [total, deadline].into_iter().flatten().min()),
        ("tunnel", tunnel),
        ("try", policy.retry.try_timeout),
    ];
    let all = all.into_iter();
    all.map(|(name, limit)| (name.to_owned(), limit.map(|limit| limit.as_secs_f64())))
        .collect()
}

fn limits_account(limits: LimitsProspect) -> LimitsAccount {
    let LimitsProspect {
        status,
        pending,
        outlook,
    } = limits;
    LimitsAccount {
        concurrent: status.concurrent,
        per_endpoint: status.per_endpoint,
        pending,
        in_use: status.in_use,
        waiting: status.waiting,
        waits: match outlook {
            Outlook::Waits(limit) => Some(limit.as_secs_f64()),
            Outlook::Room | Outlook::Shed(_) => None,
        },
    }
}
