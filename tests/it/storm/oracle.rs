//! What must hold: what an endpoint sees is the one request that was made, each client gets its own
//! answer or an error that has a cause, and nothing that may not be repeated comes twice.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    draw::Planner,
    plan::{
        Answer, Break, Framing, How, Id, Moment, PIPELINED, Passage, Request, Route, Trouble,
        Tunnel, is_http2,
    },
    shown,
    spoil::Spoilt,
};
use crate::support::strict::Head;

/// What came for a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Received),
    /// The connection ended like this before a whole head, of which so much was there.
    Nothing(String, Vec<u8>),
    /// The client did not wait for its end.
    Left,
    /// It did not come to its end, and its connection neither; this was there.
    Silence(String),
}

#[derive(Debug)]
pub(super) struct Received {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Head,
    pub(super) end: End,
    /// Its connection broke while the client wrote: a reset is told once, and who reads sees an end.
    pub(super) doubtful: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    Cut(String),
}

impl Outcome {
    pub(super) fn is_whole(&self) -> bool {
        matches!(
            self,
            Self::Answer(Received {
                end: End::Whole,
                ..
            })
        )
    }

    /// Whether the answer says that its connection ends with it.
    pub(super) fn says_end(&self, request: &Request) -> bool {
        let Self::Answer(Received { head, .. }) = self else {
            return false;
        };
        let is_bodyless = request.method == "HEAD" || [204, 304].contains(&status(head));
        let until_close =
            head.value("content-length").is_none() && head.value("transfer-encoding").is_none();
        let http10 = head.start.starts_with("HTTP/1.0") || request.http10;
        head.says("connection", "close")
            || until_close && !is_bodyless
            || http10 && !head.says("connection", "keep-alive")
    }
}

fn status(head: &Head) -> u16 {
    let status = head.start.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_default()
}

/// A request that an endpoint has got, at least its head.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    service: &'static str,
    endpoint: SocketAddr,
    whole: bool,
    at: Instant,
    /// Its connection was broken by what another request had its endpoint do.
    hurt: bool,
    /// Its endpoint has said that it does not process it.
    left_out: bool,
    /// When its answer was written, as far as it was.
    answered: Option<Instant>,
}

impl Arrival {
    /// Whether the machine gave its endpoint no time to answer.
    fn was_held_up(&self) -> bool {
        let until = self.answered.unwrap_or_else(Instant::now);
        until.duration_since(self.at) > HELD_UP
    }
}

#[derive(Debug)]
struct Case {
    begun: Instant,
    arrivals: Vec<Arrival>,
    /// How often it has come to a connection that had left it out before.
    missed: usize,
    /// Its client has sent all that it has to say in a tunnel.
    passed: bool,
}

/// How long a request is remembered.
const MEMORY: Duration = Duration::from_secs(60);
/// How long before or after a request's time an endpoint's doing may be the cause of its failure.
const NEARBY: Duration = Duration::from_millis(500);
/// That of `retried`.
const TRY_TIMEOUT: Duration = Duration::from_millis(250);
/// An endpoint whose answer took longer has no part in that: a sound one is far quicker, and the proxy waits
/// for twice as long.
const HELD_UP: Duration = Duration::from_millis(2_500);
/// So many faults of one kind are told in full.
const TOLD: usize = 3;

#[derive(Default)]
struct State {
    cases: HashMap<Id, Case>,
    order: VecDeque<Id>,
    /// Endpoints that did what may fail any request of theirs.
    upsets: VecDeque<Doing>,
    /// Endpoints that have left requests out of those that they go on with.
    leaves: VecDeque<Doing>,
    counts: BTreeMap<String, usize>,
    faults: usize,
    /// The same, by what they begin with.
    kinds: BTreeMap<String, usize>,
    /// How much later than it was to be a short sleep ended of late, at the most, and when that was.
    stall: Option<(Instant, Duration)>,
}

impl State {
    /// Those of these doings that came while the request was made.
    fn nearby<'d>(
        &self,
        doings: &'d VecDeque<Doing>,
        id: Id,
    ) -> impl Iterator<Item = &'d Doing> + use<'d> {
        let begun = self.cases.get(&id).map(|case| case.begun);
        let is_near = move |doing: &&Doing| begun.is_some_and(|begun| doing.at + NEARBY >= begun);
        doings.iter().filter(is_near)
    }
}

/// What an endpoint did that may fail other requests than the one that it was told to fail.
#[derive(Clone, Copy, Debug)]
struct Doing {
    at: Instant,
    service: &'static str,
    endpoint: SocketAddr,
}

impl Doing {
    fn now(service: &'static str, endpoint: SocketAddr) -> Self {
        Self {
            at: Instant::now(),
            service,
            endpoint,
        }
    }
}

pub(super) struct Oracle {
    planner: Planner,
    state: Mutex<State>,
}

impl Oracle {
    pub(super) fn new(planner: Planner) -> Self {
        Self {
            planner,
            state: Mutex::default(),
        }
    }

    pub(super) fn faults(&self) -> usize {
        self.state.lock().unwrap().faults
    }

    /// A machine that stands still for seconds lets time-outs pass that have a part in no other fault: a fault says
    /// how long it stood still in the minute before.
    pub(super) async fn watch_the_clock(&self) {
        const NAP: Duration = Duration::from_millis(100);
        loop {
            let began = Instant::now();
            tokio::time::sleep(NAP).await;
            let late = began.elapsed() - NAP;
            let mut state = self.state.lock().unwrap();
            if state
                .stall
                .is_none_or(|(at, longest)| at.elapsed() > MEMORY || late > longest)
            {
                state.stall = Some((Instant::now(), late));
            }
        }
    }

    /// How often which fault was found.
    pub(super) fn kinds(&self) -> BTreeMap<String, usize> {
        self.state.lock().unwrap().kinds.clone()
    }

    /// How often what came out.
    pub(super) fn counts(&self) -> String {
        let state = self.state.lock().unwrap();
        let counts: Vec<_> = state
            .counts
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        counts.join(", ")
    }

    /// A client begins to send it.
    pub(super) fn begins(&self, request: &Request) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        *state.counts.entry("sent".to_owned()).or_default() += 1;
        if request.http2 {
            let count = state.counts.entry("sent by HTTP/2".to_owned());
            *count.or_default() += 1;
        }
        state.cases.insert(
            request.id,
            Case {
                begun: now,
                arrivals: Vec::new(),
                missed: 0,
                passed: false,
            },
        );
        state.order.push_back(request.id);
        let is_old = |begun: Instant| now.duration_since(begun) > MEMORY;
        while state
            .order
            .front()
            .is_some_and(|id| is_old(state.cases[id].begun))
        {
            let id = state.order.pop_front();
            state.cases.remove(&id.expect("there is a front"));
        }
        for doings in [&mut state.upsets, &mut state.leaves] {
            while doings.front().is_some_and(|doing| is_old(doing.at)) {
                doings.pop_front();
            }
        }
    }

    pub(super) fn has_begun(&self, id: Id) -> bool {
        self.state.lock().unwrap().cases.contains_key(&id)
    }

    /// An endpoint of this service does what may fail any of its requests.
    pub(super) fn upset(&self, service: &'static str, endpoint: SocketAddr) {
        let doing = Doing::now(service, endpoint);
        self.state.lock().unwrap().upsets.push_back(doing);
    }

    /// An endpoint has read its head. Returns how many arrivals were before.
    pub(super) fn arrives(
        &self,
        request: &Request,
        service: &'static str,
        endpoint: SocketAddr,
    ) -> usize {
        let before = {
            let mut state = self.state.lock().unwrap();
            let case = state.cases.get_mut(&request.id).expect("it has begun");
            case.arrivals.push(Arrival {
                service,
                endpoint,
                whole: false,
                hurt: false,
                left_out: false,
                at: Instant::now(),
                answered: None,
            });
            let before = &case.arrivals[..case.arrivals.len() - 1];
            (before.len(), before.iter().all(|one| one.left_out))
        };
        let (before, were_left_out) = before;
        if !request.route.services().contains(&service) {
            self.fault(
                Some(request),
                &format!("a request of {:?} at `{service}`", request.route),
            );
        }
        if request.spoilt.is_some_and(|spoilt| spoilt.is_in_head()) {
            let spoilt = request.spoilt;
            self.fault(
                Some(request),
                &format!("not sound HTTP, and passed on ({spoilt:?})"),
            );
        }
        if !were_left_out && !request.is_repeatable() {
            self.fault(Some(request), "what may not be repeated came twice");
        }
        before
    }

    /// It has come to a connection that had left it out before, and counts as not arrived.
    pub(super) fn misses(&self, id: Id) {
        let mut state = self.state.lock().unwrap();
        if let Some(case) = state.cases.get_mut(&id) {
            case.missed += 1;
        }
    }

    /// Its client has sent all that it has to say in a tunnel, and is about to say its end.
    pub(super) fn passes(&self, id: Id) {
        let mut state = self.state.lock().unwrap();
        if let Some(case) = state.cases.get_mut(&id) {
            case.passed = true;
        }
    }

    /// Whether its client has: it leaves before where it does so amid the answer to another request.
    pub(super) fn has_passed(&self, id: Id) -> bool {
        let state = self.state.lock().unwrap();
        state.cases.get(&id).is_some_and(|case| case.passed)
    }

    /// What its endpoint does to the connection may fail it.
    pub(super) fn hurts(&self, id: Id, arrival: usize) {
        let mut state = self.state.lock().unwrap();
        if let Some(case) = state.cases.get_mut(&id) {
            case.arrivals[arrival].hurt = true;
        }
    }

    /// Its endpoint is about to say that it does not process it: so it may come again.
    pub(super) fn leaves_out(&self, request: &Request, arrival: usize) {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        if let Some(case) = state.cases.get_mut(&request.id) {
            let arrival = &mut case.arrivals[arrival];
            arrival.left_out = true;
            let doing = Doing::now(arrival.service, arrival.endpoint);
            state.leaves.push_back(doing);
        }
    }

    /// An endpoint leaves requests out that it need not have seen.
    pub(super) fn leaves_some_out(&self, service: &'static str, endpoint: SocketAddr) {
        let doing = Doing::now(service, endpoint);
        self.state.lock().unwrap().leaves.push_back(doing);
    }

    /// An endpoint has read it to its end, and it is as it was to be.
    pub(super) fn is_whole(&self, request: &Request, arrival: usize) {
        let mut state = self.state.lock().unwrap();
        if let Some(case) = state.cases.get_mut(&request.id) {
            case.arrivals[arrival].whole = true;
        }
    }

    /// An endpoint has written its answer.
    pub(super) fn is_answered(&self, request: &Request, arrival: usize) {
        let mut state = self.state.lock().unwrap();
        if let Some(case) = state.cases.get_mut(&request.id) {
            case.arrivals[arrival].answered = Some(Instant::now());
        }
    }

    /// Whether the machine gave its endpoint no time to answer.
    pub(super) fn was_held_up(&self, request: &Request, arrival: usize) -> bool {
        let arrivals = self.arrivals(request.id);
        arrivals.get(arrival).is_some_and(Arrival::was_held_up)
    }

    /// Judges what came for a request. `before`: what came on its connection before it. `excused`:
    /// the client has ended the connection itself.
    pub(super) fn judge(&self, request: &Request, before: &str, outcome: &Outcome, excused: bool) {
        let (verdict, kind) = match outcome {
            Outcome::Left => (Ok(()), "left".to_owned()),
            Outcome::Silence(_) if excused => (Ok(()), "silence".to_owned()),
            Outcome::Silence(so_far) => {
                let why = format!("no end, behind {so_far}; before: {before}");
                (Err(why), "silence".to_owned())
            }
            Outcome::Nothing(..) if request.spoilt.is_some_and(Spoilt::is_of_length) => {
                (Ok(()), "reset".to_owned())
            }
            Outcome::Nothing(how, begun) => {
                let why = match before {
                    "" => "no answer",
                    _ => "no answer on a connection whose end was not said",
                };
                let verdict = match excused {
                    true => Ok(()),
                    false => Err(format!(
                        "{why}: {how}, behind {}; before: {before}",
                        shown(begun)
                    )),
                };
                (verdict, "without an answer".to_owned())
            }
            Outcome::Answer(received) => self.judge_answer(request, received, excused),
        };
        *self.state.lock().unwrap().counts.entry(kind).or_default() += 1;
        if let Err(why) = verdict {
            self.fault(Some(request), &why);
        }
    }

    fn judge_answer(
        &self,
        request: &Request,
        received: &Received,
        excused: bool,
    ) -> (Result<(), String>, String) {
        let Received {
            head, body, end, ..
        } = received;
        let text = || format!("{head:?} {} {end:?}", shown(body));
        let status = status(head);
        let Some(origin) = head.value("x-storm-answer") else {
            let verdict = self.may_refuse(request, status, end, excused);
            return (
                verdict.map_err(|why| format!("{why}: {}", text())),
                format!("own {status}"),
            );
        };
        let verdict = self.compare(request, received, origin, excused);
        let kind = match end {
            End::Whole if status == 101 => "tunnelled",
            End::Whole => "answered",
            End::Cut(_) => "cut",
        };
        (
            verdict.map_err(|why| format!("{why}: {}", text())),
            kind.to_owned(),
        )
    }

    fn arrivals(&self, id: Id) -> Vec<Arrival> {
        let state = self.state.lock().unwrap();
        state
            .cases
            .get(&id)
            .map_or(Vec::new(), |case| case.arrivals.clone())
    }

    /// An endpoint's answer is the one that it gave last to this request.
    fn compare(
        &self,
        request: &Request,
        received: &Received,
        origin: &str,
        excused: bool,
    ) -> Result<(), String> {
        let arrivals = self.arrivals(request.id);
        let (id, arrival) = origin.split_once('.').unwrap_or_default();
        if Id::parse(id) != Some(request.id) {
            return Err("another request's answer".to_owned());
        }
        let arrival: usize = arrival.parse().map_err(|_| "no arrival")?;
        if arrival + 1 != arrivals.len()
            && !self.may_come_late(request.id, &arrivals[arrival + 1..])
        {
            return Err(format!(
                "the answer {arrival} of {} arrivals",
                arrivals.len()
            ));
        }
        let service = arrivals[arrival].service;
        let plan = self.planner.answer(request, arrival, service);
        let Received {
            head,
            body,
            trailers,
            end,
            ..
        } = received;
        if status(head) != plan.status {
            return Err("another status".to_owned());
        }
        if head.value("x-hop").is_some() {
            return Err("a field of the endpoint's connection".to_owned());
        }
        if let (Some(tunnel), Some(passage)) = (&plan.tunnel, &request.passage) {
            return compare_tunnel(tunnel, passage, received);
        }
        let whole: &[u8] = if plan.has_body(request) {
            &plan.body
        } else {
            &[]
        };
        // What is not sound is so at its end, or one byte before it.
        let sound = match plan.trouble {
            Some(Trouble::Garbled(_)) => body.strip_suffix(b"a").unwrap_or(body),
            _ => body,
        };
        if !whole.starts_with(sound) {
            return Err("other bytes".to_owned());
        }
        let is_unsaid =
            head.value("content-length").is_none() && head.value("transfer-encoding").is_none();
        match end {
            End::Whole if received.doubtful && is_unsaid => Ok(()),
            End::Whole if body.len() < whole.len() && !may_end_early(&plan, service) => {
                Err("a part is taken for the whole".to_owned())
            }
            End::Whole if never_ends(&plan, request, service) => {
                let trouble = plan.trouble;
                Err(format!(
                    "an answer that broke off is taken for whole ({trouble:?})"
                ))
            }
            End::Whole => match trailers
                .fields
                .iter()
                .all(|field| has_trailer(&plan, field))
            {
                true => Ok(()),
                false => Err("other trailers".to_owned()),
            },
            End::Cut(_) if excused || request.spoilt.is_some() => Ok(()),
            End::Cut(_) if is_unsure(&plan, service) || arrivals[arrival].hurt => Ok(()),
            // Connections of HTTP/1.1 are one request's each.
            End::Cut(_) if !is_http2(service) && self.was_upset(request.id, service) => Ok(()),
            End::Cut(_) if self.may_be_reset_behind(request.id) => Ok(()),
            End::Cut(_) => Err("a sound answer broke off".to_owned()),
        }
    }

    /// Whether these, which were read last, may have been sent before: an attempt that is late is followed by
    /// another, and a machine with much to do has its endpoint read it behind that one.
    fn may_come_late(&self, id: Id, arrivals: &[Arrival]) -> bool {
        let state = self.state.lock().unwrap();
        let Some(case) = state.cases.get(&id) else {
            return false;
        };
        let is_late = |one: &Arrival| one.at.duration_since(case.begun) > TRY_TIMEOUT;
        let mut arrivals = arrivals.iter();
        arrivals.all(|one| one.service == "retried" && is_late(one))
    }

    /// Whether the proxy may answer itself, and so.
    fn may_refuse(
        &self,
        request: &Request,
        status: u16,
        end: &End,
        excused: bool,
    ) -> Result<(), String> {
        // A body that is not as long as its head says has its stream reset, whatever was answered by then.
        let is_reset = request.spoilt.is_some_and(Spoilt::is_of_length);
        if *end != End::Whole && !excused && !is_reset {
            return Err("the proxy's own answer broke off".to_owned());
        }
        if excused {
            return Ok(());
        }
        if let Some(spoilt) = request.spoilt {
            // What is spoilt behind the head may be seen too late.
            if spoilt.statuses().contains(&status) {
                return Ok(());
            }
            if spoilt.is_in_head() {
                return Err(format!(
                    "{spoilt:?} is not answered {:?}",
                    spoilt.statuses()
                ));
            }
        }
        let arrivals = self.arrivals(request.id);
        let causes = arrivals.iter().enumerate();
        let causes: Vec<_> = causes
            .map(|(place, arrival)| self.planner.answer(request, place, arrival.service))
            .collect();
        let was_seen = arrivals.iter().any(|arrival| !arrival.left_out);
        let upset = |service: &&'static str| {
            // A request that has come there is one whose part in it is known.
            let is_known = is_http2(service) && was_seen;
            !is_known && self.was_upset(request.id, service)
        };
        let is_expected = match (request.route, status) {
            (Route::Nowhere, 404)
            | (Route::Gone, 503)
            | (Route::Rated, 429)
            | (Route::Limited, 503) => true,
            (_, 502) if arrivals.iter().any(|arrival| arrival.hurt) => true,
            (_, 502) if causes.iter().any(fails) => true,
            (_, 502) if !was_seen && self.may_be_left_out_for_good(request) => true,
            (_, 502) => request.route.services().iter().any(upset),
            // What an endpoint says too much may come when its connection is another request's.
            (Route::Edgy, 200) => upset(&"edgy"),
            (_, 504) => {
                let is_silent = |plan: &Answer| plan.trouble == Some(Trouble::Silence);
                causes.iter().any(is_silent) || arrivals.iter().any(Arrival::was_held_up)
            }
            _ => false,
        };
        if !is_expected {
            return Err(format!("{status} without a cause"));
        }
        self.gave_up_too_early(request, status, &causes)
    }

    /// A request that may be repeated is given up only where three endpoints have failed it.
    fn gave_up_too_early(
        &self,
        request: &Request,
        status: u16,
        causes: &[Answer],
    ) -> Result<(), String> {
        let left_out =
            |plan: &Answer| matches!(plan.trouble, Some(Trouble::Refuses | Trouble::LeavesOut));
        let broke = |plan: &Answer| {
            left_out(plan) || matches!(plan.trouble, Some(Trouble::Breaks(Break { at: 0, .. })))
        };
        let has_others = matches!(
            request.route,
            Route::Plain | Route::Retried | Route::Streams | Route::Sealed
        );
        let may_go_on = request.is_repeatable() || causes.iter().all(left_out);
        let is_sure = status == 502 && is_small(request) && has_others && may_go_on;
        let missed = {
            let state = self.state.lock().unwrap();
            state.cases.get(&request.id).map_or(0, |case| case.missed)
        };
        // Where none has arrived, its connection broke before.
        if is_sure
            && !causes.is_empty()
            && causes.len() + missed < 3
            && causes.iter().all(broke)
            && !self.may_be_lost_elsewhere(request)
        {
            return Err(format!("given up after {} attempts", causes.len()));
        }
        Ok(())
    }

    /// Whether one of the requests that may have been sent behind it is of HTTP/1.0: where the answer to
    /// that one breaks off, it ends in a reset, which takes what was not read of the answers before.
    fn may_be_reset_behind(&self, id: Id) -> bool {
        let mut behind = (1..=PIPELINED).map(|places| self.planner.request(id.behind(places)));
        behind.any(|request| request.http10)
    }

    /// Whether something happened to this service while the request was made.
    fn was_upset(&self, id: Id, service: &str) -> bool {
        let state = self.state.lock().unwrap();
        let is_of = |upset: &Doing| upset.service == service;
        state.nearby(&state.upsets, id).any(is_of)
    }

    /// Whether an endpoint to which it has not come did what fails requests that have not, while it was made: it may
    /// have been on its way there, over a connection that ended first.
    fn may_be_lost_elsewhere(&self, request: &Request) -> bool {
        let arrivals = self.arrivals(request.id);
        let state = self.state.lock().unwrap();
        let is_elsewhere = |doing: &Doing| {
            let is_there = |arrival: &Arrival| arrival.endpoint == doing.endpoint;
            request.route.services().contains(&doing.service) && !arrivals.iter().any(is_there)
        };
        let doings = [&state.upsets, &state.leaves];
        let mut doings = doings.map(|of| state.nearby(of, request.id)).into_iter();
        doings.any(|mut of| of.any(is_elsewhere))
    }

    /// Whether a connection that it was sent on may have left it out, some of whose body was sent by then, and not
    /// kept for another one. An endpoint that ends the connection with others need not see it.
    fn may_be_left_out_for_good(&self, request: &Request) -> bool {
        let state = self.state.lock().unwrap();
        let is_of = |leave: &Doing| request.route.services().contains(&leave.service);
        !is_small(request) && state.nearby(&state.leaves, request.id).any(is_of)
    }

    /// Says what is wrong, with all that makes it happen again.
    pub(super) fn fault(&self, request: Option<&Request>, why: &str) {
        let (number, alike, stall) = {
            let mut state = self.state.lock().unwrap();
            state.faults += 1;
            let kind = why.split(':').next().unwrap_or_default();
            let alike = state.kinds.entry(kind.to_owned()).or_default();
            *alike += 1;
            let alike = *alike;
            let stall = state.stall.map_or(0, |(_, stall)| stall.as_millis());
            (state.faults, alike, stall)
        };
        if alike > TOLD {
            return;
        }
        let seed = self.planner.seed;
        let mut text = format!(
            "FAULT {number}, seed {seed}: {why}\n  the machine stood still for {stall} ms\n"
        );
        if let Some(request) = request {
            let state = self.state.lock().unwrap();
            let age = state
                .cases
                .get(&request.id)
                .map(|case| case.begun.elapsed());
            drop(state);
            text += &format!("  begun {age:?} ago\n");
            text += &format!("  request {} {request:?}\n", request.id);
            text += &format!("  its bytes: {}\n", shown(&request.wire().0));
            for (place, arrival) in self.arrivals(request.id).iter().enumerate() {
                let plan = self.planner.answer(request, place, arrival.service);
                let Arrival {
                    service,
                    endpoint,
                    whole,
                    ..
                } = arrival;
                let got = if *whole { "whole" } else { "in part" };
                text += &format!("  {got} at `{service}` {endpoint}: {plan:?}\n");
                text += &format!("  its bytes: {}\n", shown(&plan.wire(request).0));
            }
        }
        println!("{text}");
    }
}

/// Whether the proxy can send it again.
fn is_small(request: &Request) -> bool {
    request.body.len() <= 64 * 1024 && request.trailers().is_empty()
}

/// What came through a tunnel is what was sent, and all of it where both sides came to their ends.
fn compare_tunnel(tunnel: &Tunnel, passage: &Passage, received: &Received) -> Result<(), String> {
    let whole = tunnel.whole(passage);
    if !whole.starts_with(&received.body) {
        return Err("other bytes in a tunnel".to_owned());
    }
    match received.end {
        _ if !tunnel.is_sound(passage) => Ok(()),
        End::Whole if received.body.len() == whole.len() => Ok(()),
        End::Whole => Err("the end of a tunnel before its bytes".to_owned()),
        End::Cut(_) => Err("a sound tunnel broke off".to_owned()),
    }
}

/// Whether an endpoint that does so may be the cause of a 502.
fn fails(plan: &Answer) -> bool {
    match plan.trouble {
        Some(Trouble::Breaks(_) | Trouble::Leaves | Trouble::Malformed(_)) => true,
        Some(Trouble::Refuses | Trouble::LeavesOut) => true,
        // It closes with bytes unread, which is a reset.
        Some(Trouble::Garbled(garbled)) => garbled.is_in_head() || plan.moment != Moment::AtEnd,
        Some(Trouble::Silence) => false,
        None => plan.moment != Moment::AtEnd && (plan.closes || plan.closes_unsaid),
    }
}

/// Whether its answer may break off though nothing else is wrong.
fn is_unsure(plan: &Answer, service: &str) -> bool {
    // A stream of HTTP/2 has an end of its own for either direction.
    let is_early = plan.moment != Moment::AtEnd && !is_http2(service);
    plan.trouble.is_some() || is_early
}

/// Whether what ends its answer early looks like its end: a body until close, and a close that is
/// no reset (and over TLS is said).
fn may_end_early(plan: &Answer, service: &str) -> bool {
    let is_close = matches!(
        plan.trouble,
        Some(Trouble::Breaks(Break {
            how: How::Close,
            ..
        }))
    );
    let is_said = service != "secure" || plan.takes_leave();
    plan.framing == Framing::UntilClose && is_close && is_said
}

/// Whether its answer can never be taken for whole.
fn never_ends(plan: &Answer, request: &Request, service: &str) -> bool {
    match plan.trouble {
        None | Some(Trouble::Silence | Trouble::Leaves) => false,
        Some(Trouble::Refuses | Trouble::LeavesOut) => true,
        Some(Trouble::Malformed(malformed)) => malformed.is_in_head() || plan.has_body(request),
        Some(Trouble::Breaks(cut)) if is_http2(service) => {
            // All that was said to come may be there, and its end is not.
            let is_part = cut.at < plan.body.len() || plan.framing != Framing::Length;
            is_part && plan.has_body(request)
        }
        Some(Trouble::Garbled(garbled)) => garbled.is_in_head() || plan.has_body(request),
        Some(Trouble::Breaks(cut)) => {
            let is_part = cut.at < plan.wire(request).0.len();
            is_part && plan.has_body(request) && !may_end_early(plan, service)
        }
    }
}

fn has_trailer(plan: &Answer, field: &(String, String)) -> bool {
    let Framing::Chunked { trailers, .. } = &plan.framing else {
        return false;
    };
    let is = |ours: &(String, String)| ours.0.eq_ignore_ascii_case(&field.0) && ours.1 == field.1;
    trailers.iter().any(is)
}
