//! What was measured in the last quarter of an hour, a sample each five seconds: of the proxy, of each
//! service, and of each endpoint that was called. Bounded, whatever the registries list. Knows nothing
//! of how it is shown.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use crate::{
    metrics::HistogramSum,
    service::{EndpointId, EndpointTotals, Service, StatusClass, endpoint_totals},
};

/// From one sample to the next.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// As many samples are there at most: a quarter of an hour.
const SAMPLES: usize = 180;
/// A minute: what is said to be so now is so of this time.
const RECENT: usize = 12;
/// A rate is that of so many samples: few, so that it follows.
const RATE: usize = 2;
/// As many services and endpoints have a series. Those that come once there are so many have none.
const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 5_000;

/// The series.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Samples that were taken.
    taken: u64,
    /// Whether there was no room for a series the last time. What one counts that begins then, it has
    /// counted for long.
    was_full: bool,
    whole: VecDeque<Sample>,
    services: HashMap<Arc<str>, ServiceSeries>,
}

/// What a service has counted until now, and how busy it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    requests: u64,
    errors: u64,
    retries: u64,
    tunnels: u64,
    durations: HistogramSum,
    endpoints: Vec<(EndpointId, EndpointTotals)>,
}

#[derive(Debug, Default)]
struct ServiceSeries {
    /// By which it is known whether there still is such a service.
    taken: u64,
    before: Measured,
    samples: VecDeque<Sample>,
    endpoints: HashMap<EndpointId, EndpointSeries>,
}

#[derive(Debug, Default)]
struct EndpointSeries {
    taken: u64,
    before: EndpointTotals,
    samples: VecDeque<EndpointSample>,
}

/// What happened in five seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    requests: u32,
    errors: u32,
    retries: u32,
    in_flight: u32,
    tunnels: u32,
    /// In seconds: p50, p90 and p99. `None` without an answer.
    latency: Option<[f32; 3]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct EndpointSample {
    attempts: u32,
    errors: u32,
    failures: u32,
}

/// How it goes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Recent {
    pub(super) requests_per_second: f32,
    pub(super) retries_per_second: f32,
    /// The share of the last minute's requests that ended in a 5xx; `None` without a request.
    pub(super) errors: Option<f32>,
    pub(super) p50_seconds: Option<f32>,
    pub(super) p90_seconds: Option<f32>,
    pub(super) p99_seconds: Option<f32>,
    /// Of the last minute.
    #[serde(skip)]
    pub(super) requests: u64,
}

/// How it goes with an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct RecentOfEndpoint {
    pub(super) requests_per_second: f32,
    /// The share of the last minute's attempts that brought a 5xx or nothing.
    pub(super) errors: Option<f32>,
    #[serde(skip)]
    pub(super) attempts: u64,
    /// Of the last minute's attempts, those that brought nothing.
    #[serde(skip)]
    pub(super) failures: u64,
}

/// A series, the earliest sample first.
#[derive(Debug, Serialize)]
pub(super) struct SeriesShown {
    requests_per_second: Vec<f32>,
    retries_per_second: Vec<f32>,
    errors: Vec<Option<f32>>,
    in_flight: Vec<u32>,
    tunnels: Vec<u32>,
    p50_seconds: Vec<Option<f32>>,
    p90_seconds: Vec<Option<f32>>,
    p99_seconds: Vec<Option<f32>>,
}

/// An endpoint's.
#[derive(Debug, Serialize)]
pub(super) struct EndpointSeriesShown {
    instance: Arc<str>,
    address: String,
    requests_per_second: Vec<f32>,
    errors: Vec<Option<f32>>,
}

impl Measured {
    /// What there is of a service; `None` where it was never called.
    pub(super) fn of(service: &Service) -> Option<Self> {
        service.all_stats().next()?;
        let mut measured = Self::default();
        for stats in service.all_stats() {
            measured.requests += stats.requests.value();
            measured.retries += stats.retries.value();
            measured.tunnels += stats.tunnels.open.value();
            measured.errors += stats.failed.value() + stats.answers[StatusClass::COUNT - 1].value();
            stats.duration.add_to(&mut measured.durations);
        }
        measured.endpoints = endpoint_totals(service);
        Some(measured)
    }
}

impl History {
    /// Takes a sample of the services that were called. Series of others end.
    pub(super) fn sample(&mut self, services: impl Iterator<Item = (Arc<str>, Measured)>) {
        self.taken += 1;
        let room = SERVICES.saturating_sub(self.services.len());
        let of_endpoints = self.services.values().map(|series| series.endpoints.len());
        let mut room = Room {
            services: room,
            endpoints: ENDPOINTS.saturating_sub(of_endpoints.sum()),
            was_full: self.was_full,
            is_full: false,
        };
        let (mut whole, mut durations) = (Sample::default(), HistogramSum::default());
        for (name, measured) in services {
            let Some(series) = entry(&mut self.services, name, &mut room.services) else {
                room.is_full = true;
                continue;
            };
            let (sample, took) = series.take(measured, self.taken, &mut room);
            whole.add(&sample);
            durations.add(&took);
        }
        whole.latency = latency(&durations);
        push(&mut self.whole, whole);
        self.was_full = room.is_full;
        let taken = self.taken;
        self.services.retain(|_, series| series.taken == taken);
    }

    /// How it goes with all services together.
    pub(super) fn recent(&self) -> Recent {
        Recent::of(&self.whole)
    }

    /// How it goes with a service.
    pub(super) fn recent_of(&self, service: &str) -> Recent {
        let series = self.services.get(service);
        series.map_or_else(Recent::default, |series| Recent::of(&series.samples))
    }

    /// How it goes with an endpoint of it.
    pub(super) fn recent_of_endpoint(&self, service: &str, id: &EndpointId) -> RecentOfEndpoint {
        let series = self.services.get(service);
        let series = series.and_then(|series| series.endpoints.get(id));
        series.map_or_else(RecentOfEndpoint::default, |series| {
            RecentOfEndpoint::of(&series.samples)
        })
    }

    /// The series of all services together.
    pub(super) fn whole(&self) -> SeriesShown {
        SeriesShown::of(&self.whole)
    }

    /// The series of a service, if it has one.
    pub(super) fn of(&self, service: &str) -> Option<SeriesShown> {
        let series = self.services.get(service)?;
        Some(SeriesShown::of(&series.samples))
    }

    /// Those of its endpoints.
    pub(super) fn of_endpoints(&self, service: &str) -> Vec<EndpointSeriesShown> {
        let series = self.services.get(service).into_iter();
        let endpoints = series.flat_map(|series| &series.endpoints);
        endpoints
            .map(|(id, series)| EndpointSeriesShown::of(id, &series.samples))
            .collect()
    }
}

/// As many series can begin.
struct Room {
    services: usize,
    endpoints: usize,
    was_full: bool,
    is_full: bool,
}

/// The series with this name, which begins where there is room for it.
fn entry<'s, K: Clone + Eq + Hash, S: Default>(
    all: &'s mut HashMap<K, S>,
    name: K,
    room: &mut usize,
) -> Option<&'s mut S> {
    if !all.contains_key(&name) {
        *room = room.checked_sub(1)?;
        all.insert(name.clone(), S::default());
    }
    all.get_mut(&name)
}

fn push<S>(samples: &mut VecDeque<S>, sample: S) {
    if samples.capacity() == 0 {
        samples.reserve_exact(SAMPLES);
    }
    if samples.len() == SAMPLES {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// What was counted since then. What a sample cannot hold, no one proxy does in five seconds.
fn since(now: u64, before: u64) -> u32 {
    u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX)
}

fn latency(durations: &HistogramSum) -> Option<[f32; 3]> {
    let part = |part| durations.quantile(part).map(|seconds| seconds as f32);
    Some([part(0.5)?, part(0.9)?, part(0.99)?])
}

fn share(part: u64, of: u64) -> Option<f32> {
    (of > 0).then(|| (part as f64 / of as f64).min(1.0) as f32)
}

fn per_second(count: u64, samples: usize) -> f32 {
    (count as f64 / (EVERY.as_secs_f64() * samples.max(1) as f64)) as f32
}

impl ServiceSeries {
    fn take(&mut self, now: Measured, taken: u64, room: &mut Room) -> (Sample, HistogramSum) {
        self.taken = taken;
        if self.samples.is_empty() && room.was_full {
            self.before = now.clone();
        }
        let before = std::mem::take(&mut self.before);
        let took = now.durations.since(&before.durations);
        let in_flight: u64 = now.endpoints.iter().map(|(_, one)| one.in_flight).sum();
        let sample = Sample {
            requests: since(now.requests, before.requests),
            errors: since(now.errors, before.errors),
            retries: since(now.retries, before.retries),
            in_flight: since(in_flight, 0),
            tunnels: since(now.tunnels, 0),
            latency: latency(&took),
        };
        push(&mut self.samples, sample);
        for (id, totals) in &now.endpoints {
            match entry(&mut self.endpoints, id.clone(), &mut room.endpoints) {
                Some(series) => series.take(*totals, taken, room.was_full),
                None => room.is_full = true,
            }
        }
        self.endpoints.retain(|_, series| series.taken == taken);
        self.before = Measured {
            endpoints: Vec::new(),
            ..now
        };
        (sample, took)
    }
}

impl EndpointSeries {
    fn take(&mut self, now: EndpointTotals, taken: u64, was_full: bool) {
        self.taken = taken;
        if self.samples.is_empty() && was_full {
            self.before = now;
        }
        let sample = EndpointSample {
            attempts: since(now.attempts, self.before.attempts),
            errors: since(now.errors, self.before.errors),
            failures: since(now.failures, self.before.failures),
        };
        push(&mut self.samples, sample);
        self.before = now;
    }
}

impl Sample {
    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.retries, other.retries),
            (&mut self.in_flight, other.in_flight),
            (&mut self.tunnels, other.tunnels),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Recent {
    fn of(samples: &VecDeque<Sample>) -> Self {
        let last = |count: usize| samples.iter().rev().take(count);
        let sum = |count, of: fn(&Sample) -> u32| last(count).map(of).map(u64::from).sum::<u64>();
        let rate = |of| per_second(sum(RATE, of), samples.len().min(RATE));
        let requests = sum(RECENT, |sample| sample.requests);
        let latency = last(RECENT).find_map(|sample| sample.latency);
        let part = |part: usize| latency.map(|latency| latency[part]);
        Self {
            requests_per_second: rate(|sample| sample.requests),
            retries_per_second: rate(|sample| sample.retries),
            errors: share(sum(RECENT, |sample| sample.errors), requests),
            p50_seconds: part(0),
            p90_seconds: part(1),
            p99_seconds: part(2),
            requests,
        }
    }
}

impl RecentOfEndpoint {
    fn of(samples: &VecDeque<EndpointSample>) -> Self {
        let last = |count: usize| samples.iter().rev().take(count);
        let sum =
            |count, of: fn(&EndpointSample) -> u32| last(count).map(of).map(u64::from).sum::<u64>();
        let attempts = sum(RECENT, |sample| sample.attempts);
        let failures = sum(RECENT, |sample| sample.failures);
        let errors = failures + sum(RECENT, |sample| sample.errors);
        let rate = sum(RATE, |sample| sample.attempts);
        Self {
            requests_per_second: per_second(rate, samples.len().min(RATE)),
            errors: share(errors, attempts),
            attempts,
            failures,
        }
    }
}

impl SeriesShown {
    fn of(samples: &VecDeque<Sample>) -> Self {
        fn each<T>(samples: &VecDeque<Sample>, of: impl Fn(&Sample) -> T) -> Vec<T> {
            samples.iter().map(of).collect()
        }
        let latency = |part: usize| each(samples, |one| one.latency.map(|latency| latency[part]));
        Self {
            requests_per_second: each(samples, |one| per_second(one.requests.into(), 1)),
            retries_per_second: each(samples, |one| per_second(one.retries.into(), 1)),
            errors: each(samples, |one| share(one.errors.into(), one.requests.into())),
            in_flight: each(samples, |one| one.in_flight),
            tunnels: each(samples, |one| one.tunnels),
            p50_seconds: latency(0),
            p90_seconds: latency(1),
            p99_seconds: latency(2),
        }
    }
}

impl EndpointSeriesShown {
    fn of(id: &EndpointId, samples: &VecDeque<EndpointSample>) -> Self {
        let bad = |one: &EndpointSample| u64::from(one.errors) + u64::from(one.failures);
        Self {
            instance: Arc::clone(&id.instance),
            address: id.address.to_string(),
            requests_per_second: samples
                .iter()
                .map(|one| per_second(one.attempts.into(), 1))
                .collect(),
            errors: samples
                .iter()
                .map(|one| share(bad(one), one.attempts.into()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Address;

    fn id(port: usize) -> EndpointId {
        EndpointId {
            instance: format!("i{port}").into(),
            address: Address::new("10.0.0.1", 1 + port as i64 % 60_000).unwrap(),
        }
    }

    fn measured(requests: u64, errors: u64, endpoints: &[usize]) -> Measured {
        let totals = EndpointTotals {
            attempts: requests,
            errors,
            failures: 0,
            in_flight: 1,
        };
        Measured {
            requests,
            errors,
            endpoints: endpoints.iter().map(|port| (id(*port), totals)).collect(),
            ..Measured::default()
        }
    }

    fn take(history: &mut History, requests: u64, errors: u64) {
        let cart = ("cart".into(), measured(requests, errors, &[1]));
        history.sample(std::iter::once(cart));
    }

    #[test]
    fn a_sample_is_what_was_counted_since_the_one_before() {
        let mut history = History::default();
        for (requests, errors) in [(100, 0), (200, 50), (300, 50)] {
            take(&mut history, requests, errors);
        }
        let shown = history.of("cart").unwrap();
        assert_eq!(shown.requests_per_second, [20.0, 20.0, 20.0]);
        assert_eq!(shown.errors, [Some(0.0), Some(0.5), Some(0.0)]);
        assert_eq!(shown.in_flight, [1, 1, 1]);
        assert_eq!(shown.p50_seconds, [None, None, None]);
        assert_eq!(history.whole().requests_per_second, [20.0, 20.0, 20.0]);
        let recent = history.recent_of("cart");
        assert_eq!((recent.requests, recent.requests_per_second), (300, 20.0));
        assert_eq!(history.recent_of_endpoint("cart", &id(1)).attempts, 300);
        let endpoints = history.of_endpoints("cart");
        assert_eq!(endpoints[0].errors, [Some(0.0), Some(0.5), Some(0.0)]);
        // A service that was made anew begins to count at 0.
        take(&mut history, 10, 0);
        assert_eq!(history.of("cart").unwrap().requests_per_second[3], 0.0);
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept_and_series_end_with_what_they_are_of() {
        let mut history = History::default();
        for number in 0..SAMPLES as u64 + 20 {
            take(&mut history, 10 * number, 0);
        }
        let shown = history.of("cart").unwrap();
        assert_eq!(shown.requests_per_second.len(), SAMPLES);
        assert_eq!(shown.requests_per_second[0], 2.0);
        let other = ("cart".into(), measured(9_999, 0, &[2]));
        history.sample(std::iter::once(other));
        assert_eq!(history.of_endpoints("cart").len(), 1);
        assert_eq!(&*history.of_endpoints("cart")[0].instance, "i2");
        history.sample(std::iter::empty());
        assert!(history.of("cart").is_none());
        assert_eq!(history.whole().requests_per_second.len(), SAMPLES);
    }

    #[test]
    fn series_are_bounded_whatever_is_called() {
        let mut history = History::default();
        let ports: Vec<_> = (0..ENDPOINTS + 10).collect();
        let services = (0..SERVICES + 10).map(|number| {
            let ports = if number == 0 { &ports[..] } else { &[] };
            (format!("s{number}").into(), measured(1, 0, ports))
        });
        history.sample(services);
        assert_eq!(history.services.len(), SERVICES);
        assert_eq!(history.services["s0"].endpoints.len(), ENDPOINTS);
        // What begins once there is room again has counted for long.
        history.sample(std::iter::once(("s1".into(), measured(2, 0, &[]))));
        let services = ["s1", "new"].map(|name| (name.into(), measured(500, 0, &[])));
        history.was_full = true;
        history.sample(services.into_iter());
        assert_eq!(history.recent_of("new").requests, 0);
        assert_eq!(history.recent_of("s1").requests, 500);
    }
}
