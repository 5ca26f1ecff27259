//! What is said of a request that is explained, as JSON has it. Knows nothing of how it is found out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What becomes of a request, and why.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// The request, as it was taken.
    pub(crate) request: RequestAccount,
    /// What the proxy answers itself; `None` where the request is forwarded.
    pub(crate) answer: Option<AnswerAccount>,
    /// The route that takes it.
    pub(crate) route: Option<RouteAccount>,
    /// Routes that stand before that one, with the reason why each does not take it.
    pub(crate) passed_over: Vec<RouteAccount>,
    /// Where no route takes it: some that nearly do, with what does not fit.
    pub(crate) near_misses: Vec<RouteAccount>,
    /// How many requests its client may make.
    pub(crate) rate: Option<RateAccount>,
    /// Where it goes: to one service, or to one of several.
    pub(crate) destinations: Vec<Destination>,
    /// The service that it names, where the list of services was not read: whether there is such a
    /// service is not known.
    pub(crate) unlisted: Option<String>,
    /// Registries whose tags make routes that are not known, since their lists were not read.
    pub(crate) unread_tags: Vec<String>,
}

/// A request that is not made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RequestAccount {
    pub(crate) method: String,
    pub(crate) host: Option<String>,
    pub(crate) target: String,
    /// Who sends it.
    pub(crate) client: String,
    /// Who is taken to have asked: another one where the client is a trusted proxy.
    pub(crate) asker: String,
    /// The listener whose settings count.
    pub(crate) listener: String,
}

/// An answer of the proxy's own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnswerAccount {
    pub(crate) status: u16,
    pub(crate) why: String,
}

/// A route.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RouteAccount {
    /// `None` for any.
    pub(crate) host: Option<String>,
    pub(crate) path: String,
    /// What else it asks of a request, in words.
    pub(crate) conditions: Option<String>,
    /// Its line in the file; none of a route that tags have made.
    pub(crate) line: Option<usize>,
    /// The file in which that is, where it is one that is included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// Why it does not take the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// How many requests a client may make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RateAccount {
    pub(crate) requests: u32,
    pub(crate) per_seconds: f64,
    pub(crate) burst: u32,
    /// Where the key stands; none where all are counted together.
    pub(crate) by: Option<String>,
    /// How many this client may make at once now; with none left it is answered 429.
    pub(crate) left: u32,
}

/// A service that the request goes to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Destination {
    pub(crate) service: String,
    /// The service in whose place it is called, as its fallback.
    pub(crate) instead_of: Option<String>,
    /// How probably the request goes there: less than 1 where a route is split.
    pub(crate) chance: f64,
    /// None where its endpoints stand in the file.
    pub(crate) registries: Vec<String>,
    /// Its name in its registries.
    pub(crate) registered_name: String,
    /// Whether its endpoints are watched: not those of a service that a template's route leads to and that no
    /// request has named yet.
    pub(crate) is_watched: bool,
    /// Whether its endpoints are known.
    pub(crate) is_read: bool,
    /// What is answered, since no endpoint can be called, or has room.
    pub(crate) answer: Option<AnswerAccount>,
    /// What its connection, or its stream, may go over to, in words; null where it asks for nothing.
    pub(crate) goes_over: Option<String>,
    /// How an endpoint is picked.
    pub(crate) balance: String,
    /// Which of them the route wants, in words; none where it wants all.
    pub(crate) subset: Option<String>,
    /// The set of the journal that the service is pinned to.
    pub(crate) pinned_to: Option<u64>,
    /// In the order of their chances, and so many at most.
    pub(crate) endpoints: Vec<EndpointAccount>,
    /// How many more there are.
    pub(crate) more_endpoints: usize,
    /// The request's head as the endpoint gets it, as HTTP/1.1 writes it.
    pub(crate) head: String,
    pub(crate) retry: RetryAccount,
    /// In seconds; null for none.
    pub(crate) timeout: BTreeMap<String, Option<f64>>,
    pub(crate) limits: Option<LimitsAccount>,
}

/// An endpoint that may have the request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndpointAccount {
    pub(crate) instance: String,
    pub(crate) address: String,
    pub(crate) state: String,
    /// How probably it has the request first, 0 to 1.
    pub(crate) chance: f64,
    /// What stands in its way.
    pub(crate) why: Option<String>,
}

/// What follows an attempt that fails.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RetryAccount {
    /// The most endpoints that are asked.
    pub(crate) attempts: u32,
    /// Retries that the budget grants now.
    pub(crate) left: u64,
    pub(crate) follow_ups: Vec<FollowUpAccount>,
}

/// What follows one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FollowUpAccount {
    /// How it went.
    pub(crate) event: String,
    /// What comes of it.
    pub(crate) then: String,
}

/// How many requests a service works on at once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LimitsAccount {
    pub(crate) concurrent: Option<u32>,
    pub(crate) per_endpoint: Option<u32>,
    /// How many may wait.
    pub(crate) pending: u32,
    pub(crate) in_use: u32,
    pub(crate) waiting: u32,
    /// For how many seconds this request would wait at most; null where it need not, or may not.
    pub(crate) waits: Option<f64>,
}

impl Explanation {
    /// Whether an endpoint would be called, for all that is known.
    pub(crate) fn is_forwarded(&self) -> bool {
        let mut destinations = self.destinations.iter();
        match &self.answer {
            // A route that is not known may take it.
            Some(answer) => {
                answer.status == 404 && self.route.is_none() && !self.unread_tags.is_empty()
            }
            None => destinations.all(|one| one.answer.is_none()),
        }
    }
}
