//! One scrape: everything at one moment, and the samples that are made of it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::{
    admin::{ReloadStatus, ready::Readiness, selection::Selection, view::Context},
    config,
    metrics::{BOUNDS, Counter, HistogramSum},
    proxy::{Rate, Worker},
    registry::{Watches, watch::WatchSnapshot},
    saved,
    service::{Difference, EndpointStatus, Service, ServiceStats, ServiceStatus, Split},
};

/// One line of the table.
pub struct Metric {
    /// As it is in every sample (but for a histogram's suffixes).
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The labels of each sample.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
    pub(super) collect: fn(&Scrape<'_>, &mut Samples<'_>) -> fmt::Result,
}

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever rises, but for a restart.
    Counter,
    /// Rises and falls.
    Gauge,
    /// How often a thing took how long.
    Histogram,
}

impl Metric {
    /// Writes its description and its samples.
    pub(super) fn encode(
        &self,
        scrape: &Scrape<'_>,
        encoder: &mut DescriptorEncoder<'_>,
        open_metrics: bool,
    ) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        // OpenMetrics calls a counter by its name without the suffix of its samples; the older
        // format knows no suffixes.
        let suffixed = open_metrics && self.kind == Kind::Counter;
        let name = match self.name.strip_suffix("_total") {
            Some(base) if suffixed => base,
            _ => self.name,
        };
        let mut samples = Samples {
            encoder: encoder.encode_descriptor(name, self.help, None, kind)?,
            labels: self.labels,
            suffixed,
        };
        (self.collect)(scrape, &mut samples)
    }
}

/// A route's host and path, and its line.
type RouteLabels = (String, String);

/// Everything at one moment.
pub(super) struct Scrape<'a> {
    pub(super) context: &'a Context,
    pub(super) readiness: Readiness,
    pub(super) services: Vec<(Arc<Service>, ServiceStatus)>,
    /// The catalogs' watchers, and how many services each lists.
    pub(super) catalogs: Vec<(WatchSnapshot, usize)>,
    /// The routes that have a limit.
    pub(super) rates: Vec<(RouteLabels, Arc<Rate>)>,
    /// The routes that are split.
    pub(super) splits: Vec<(RouteLabels, Arc<Split>)>,
    /// Of each registry that holds a limited number.
    pub(super) watches: Vec<(Arc<str>, Watches)>,
    pub(super) reload: ReloadStatus,
    /// `None` where nothing is kept on disk.
    pub(super) snapshot: Option<saved::Status>,
}

impl<'a> Scrape<'a> {
    pub(super) fn new(context: &'a Context, selection: &Selection) -> Self {
        let generation = context.view.shared.generation.load();
        let directory = &generation.directory;
        let services = selection.of(directory).services.into_iter();
        let catalogs = directory.catalogs();
        let routes = &generation.config.routes;
        let labels = |route: &config::Route| {
            let name = format!("{}{}", route.host, route.path);
            // Routes of several files may have the same line.
            let line = match &route.file {
                Some(file) => format!("{file}:{}", route.line),
                None => route.line.to_string(),
            };
            (name, line)
        };
        Self {
            context,
            readiness: Readiness::of(&context.view),
            services: services
                .map(|service| {
                    let status = ServiceStatus::of(&service);
                    (service, status)
                })
                .collect(),
            catalogs: catalogs
                .map(|(_, watch, listed)| (watch.snapshot(), listed.len()))
                .collect(),
            reload: context.view.reload.status(),
            snapshot: context.view.snapshot.as_ref().map(|store| store.status()),
            rates: std::iter::zip(routes, &generation.targets)
                .filter_map(|(route, target)| Some((labels(route), target.rate.clone()?)))
                .collect(),
            splits: directory
                .splits()
                .iter()
                .map(|(place, split)| (labels(&routes[*place]), Arc::clone(split)))
                .collect(),
            watches: directory
                .watches()
                .map(|(registry, watches)| (Arc::clone(registry), watches))
                .collect(),
        }
    }

    /// All watchers, the services' before the catalogs'.
    fn watchers(&self) -> impl Iterator<Item = &WatchSnapshot> {
        let services = self.services.iter().flat_map(|(_, status)| &status.watches);
        services.chain(self.catalogs.iter().map(|(watch, _)| watch))
    }
}

/// One metric's samples on their way out.
pub(super) struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    labels: &'static [&'static str],
    suffixed: bool,
}

pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl Samples<'_> {
    /// One sample; the values are those of the metric's labels, in their order.
    pub(super) fn add(&mut self, values: &[&str], value: impl Into<Value>) -> fmt::Result {
        let (suffixed, value) = (self.suffixed, value.into());
        self.with(values, |encoder| match value {
            Value::Whole(value) if suffixed => {
                encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
            }
            Value::Real(value) if suffixed => {
                encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
            }
            Value::Whole(value) => encoder.encode_gauge(&value),
            Value::Real(value) => encoder.encode_gauge(&value),
        })
    }

    pub(super) fn add_histogram(&mut self, values: &[&str], sum: &HistogramSum) -> fmt::Result {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(sum.buckets).collect();
        let count = sum.buckets.iter().sum();
        self.with(values, |encoder| {
            encoder.encode_histogram::<NoLabelSet>(sum.seconds, count, &buckets, None)
        })
    }

    fn with(
        &mut self,
        values: &[&str],
        encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let labels: Vec<_> = std::iter::zip(self.labels, values)
            .map(|(label, value)| (*label, *value))
            .collect();
        if labels.is_empty() {
            encode(&mut self.encoder)
        } else {
            encode(&mut self.encoder.encode_family(&labels)?)
        }
    }
}

impl Scrape<'_> {
    /// The services that had a request: of the others there is nothing but zeros to tell.
    pub(super) fn called(&self) -> impl Iterator<Item = &(Arc<Service>, ServiceStatus)> {
        let requests = |service: &Service| -> u64 {
            let stats = service.all_stats();
            stats.map(|stats| stats.requests.value()).sum()
        };
        let services = self.services.iter();
        services.filter(move |(service, _)| requests(service) > 0)
    }
}

/// For each service that had a request, the sum of what its workers counted.
pub(super) fn per_service(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    counter: fn(&ServiceStats) -> &Counter,
) -> fmt::Result {
    scrape.called().try_for_each(|(service, _)| {
        let sum: u64 = service
            .all_stats()
            .map(|stats| counter(stats).value())
            .sum();
        samples.add(&[service.name()], sum)
    })
}

/// For each service whose status has such a number.
pub(super) fn per_status<V: Into<Value>>(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    number: fn(&ServiceStatus) -> Option<V>,
) -> fmt::Result {
    scrape.services.iter().try_for_each(|(service, status)| {
        let number = number(status);
        number.map_or(Ok(()), |number| samples.add(&[service.name()], number))
    })
}

/// For each address of each service, the sum over its instances: one that left and came back
/// under another id has two for a while.
pub(super) fn per_endpoint(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    number: fn(&EndpointStatus) -> u64,
) -> fmt::Result {
    scrape.services.iter().try_for_each(|(service, status)| {
        let mut sums = BTreeMap::<_, u64>::new();
        // Of one that was never called there is nothing but zeros to tell.
        for endpoint in status.endpoints.iter().filter(|one| one.attempts > 0) {
            *sums.entry(&endpoint.address).or_default() += number(endpoint);
        }
        sums.into_iter()
            .try_for_each(|(address, sum)| samples.add(&[service.name(), address], sum))
    })
}

/// For each address of each service, what there were some of, by names.
pub(super) fn per_endpoint_and_name(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    counts: fn(&EndpointStatus) -> &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    scrape.services.iter().try_for_each(|(service, status)| {
        let mut sums = BTreeMap::<_, u64>::new();
        for endpoint in &status.endpoints {
            for (name, count) in counts(endpoint) {
                *sums.entry((&endpoint.address, *name)).or_default() += count;
            }
        }
        sums.into_iter().try_for_each(|((address, name), sum)| {
            samples.add(&[service.name(), address, name], sum)
        })
    })
}

/// For each watcher. A catalog's has no service.
pub(super) fn per_watch<V: Into<Value>>(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    number: fn(&WatchSnapshot) -> Option<V>,
) -> fmt::Result {
    scrape.watchers().try_for_each(|watch| {
        let Some(number) = number(watch) else {
            return Ok(());
        };
        let service = watch.service.as_deref().unwrap_or_default();
        samples.add(&[&watch.registry, service], number)
    })
}

/// For each registry that shadows another.
pub(super) fn per_shadow(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    endpoints: fn(&Difference) -> &Vec<String>,
) -> fmt::Result {
    scrape.services.iter().try_for_each(|(service, status)| {
        status.differences.iter().try_for_each(|shadow| {
            let labels = [&*shadow.registry, service.name()];
            samples.add(&labels, endpoints(shadow).len())
        })
    })
}

/// The sum of what all workers counted.
pub(super) fn over_workers(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    counter: fn(&Worker) -> &Counter,
) -> fmt::Result {
    let workers = scrape.context.view.workers.iter();
    let counts = workers.map(|worker| counter(worker).value());
    samples.add(&[], counts.sum::<u64>())
}
