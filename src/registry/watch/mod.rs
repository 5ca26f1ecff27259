//! The supervision of every watcher, written once: pace, back off, compare, report. Knows nothing
//! of any registry or of who takes what it publishes.

mod status;

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{RegistryError, Source, State, pace::Bucket};
use crate::backoff::{Backoff, Digests, Lines};

pub use status::{WatchSnapshot, WatchStatus};

/// Single changes are never delayed, and one watcher asks no more than this for long.
const BURST: u32 = 50;
const PER_SECOND: u32 = 20;

const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// A registry that is back is read again within two seconds.
const BACKOFF_CAP: Duration = Duration::from_millis(1500);

/// What a watcher has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// The first state, or one that differs from the last. The watcher keeps it as well.
    State(Arc<T>),
    /// An attempt failed: the last state stays.
    Failed,
    /// Attempts have failed for `max_staleness`: the last state is given up. Comes once, before
    /// the next state.
    Stale,
}

/// When a registry's last word is given up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staleness {
    /// Once attempts have failed for so long, counted from the first of them; `None` is never.
    pub max: Option<Duration>,
    /// An earlier watcher's word counts still, and is given up as this one's own is.
    pub has_earlier_word: bool,
}

/// Runs until it is dropped: publishes the source's first state, later ones where they differ
/// from the last, and that it has failed; neither errors nor panics of the source end it. Where
/// attempts have failed for too long, the last state is given up (go-kit's `InvalidateOnError`).
pub fn watch<T: State>(
    source: Box<dyn Source<T>>,
    status: Arc<WatchStatus>,
    staleness: Staleness,
    publish: impl FnMut(Event<T>) + Send,
) -> impl Future<Output = ()> + Send {
    supervise(source, status, staleness, publish, backoff)
}

/// The pace at which what failed is tried again; for a source of several parts too, one of which
/// may fail by itself.
pub(super) fn backoff() -> Backoff {
    Backoff::new(BACKOFF_BASE, BACKOFF_CAP, fastrand::Rng::new())
}

/// There is one of these for each service, most of which wait for a change, and nothing else: no
/// async function, which would hold its arguments twice, and what is seldom there is boxed.
fn supervise<T: State>(
    mut source: Box<dyn Source<T>>,
    status: Arc<WatchStatus>,
    mut staleness: Staleness,
    mut publish: impl FnMut(Event<T>) + Send,
    backoff: impl Fn() -> Backoff + Send,
) -> impl Future<Output = ()> + Send {
    let mut bucket = Bucket::new(BURST, PER_SECOND);
    let mut published: Option<Arc<T>> = None;
    let mut trouble: Option<Box<Trouble>> = None;
    async move {
        loop {
            let delay = trouble.as_ref().map(|trouble| trouble.delay);
            let said = match trouble.as_ref().and_then(|trouble| trouble.stale_at) {
                None => ask(&mut *source, &mut bucket, delay).await,
                Some(at) => {
                    let given_up = || {
                        if let Some(trouble) = &mut trouble {
                            trouble.stale_at = None;
                        }
                        let has_earlier_word = std::mem::take(&mut staleness.has_earlier_word);
                        if published.take().is_some() || has_earlier_word {
                            publish(Event::Stale);
                            status.gave_up();
                        }
                    };
                    let step = ask(&mut *source, &mut bucket, delay);
                    Box::pin(unless_stale(step, at, given_up)).await
                }
            };
            let error = match said {
                Ok(Ok(state)) => {
                    if let Some(trouble) = trouble.take() {
                        trouble.log_end(&status);
                    }
                    staleness.has_earlier_word = false;
                    let changed = take_over(&mut published, state, &mut publish);
                    // After publishing: a reader that sees `read` finds the state in its place.
                    status.succeeded(changed);
                    continue;
                }
                Ok(Err(error)) => error,
                Err(panic) => panicked(&*panic),
            };
            let trouble =
                trouble.get_or_insert_with(|| Box::new(Trouble::new(staleness.max, backoff())));
            trouble.note(&status, &error);
            status.failed(error);
            publish(Event::Failed);
        }
    }
}

/// What the source says next, be it after a pause; or what it panicked with.
async fn ask<T: State>(
    source: &mut dyn Source<T>,
    bucket: &mut Bucket,
    delay: Option<Duration>,
) -> Result<Result<T, RegistryError>, Box<dyn Any + Send>> {
    if let Some(delay) = delay {
        Box::pin(sleep(delay)).await;
    }
    bucket.take().await;
    let next = async { source.next().await };
    AssertUnwindSafe(next).catch_unwind().await
}

/// Publishes a state where it differs from the last one. Returns whether it does.
fn take_over<T: State>(
    published: &mut Option<Arc<T>>,
    mut state: T,
    publish: impl FnOnce(Event<T>),
) -> bool {
    let changed = published.as_deref() != Some(&state);
    if let Some(before) = published {
        state.follow(before);
    }
    // Also a state that is equal: the next one follows this one.
    let state = published.insert(Arc::new(state));
    if changed {
        publish(Event::State(Arc::clone(state)));
    }
    changed
}

/// Does something; where the last state gets too old meanwhile, says so and goes on.
async fn unless_stale<O>(
    something: impl Future<Output = O>,
    at: Instant,
    stale: impl FnOnce(),
) -> O {
    let mut something = pin!(something);
    tokio::select! {
        done = &mut something => return done,
        () = sleep_until(at) => {}
    }
    stale();
    something.await
}

fn panicked(panic: &(dyn Any + Send)) -> RegistryError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("for no reason given");
    RegistryError::new(format!("the watcher panicked: {text}"))
}

/// By registry: where one is away all of its watchers say so, which is one line with a count.
static AWAY: LazyLock<Digests<Arc<str>>> = LazyLock::new(Digests::default);
static BACK: LazyLock<Digests<Arc<str>>> = LazyLock::new(Digests::default);
const AT_ONCE: u32 = 1;

/// A row of failures, logged when it begins, at a slowing pace, and when it is over.
struct Trouble {
    since: Instant,
    failures: u64,
    lines: Lines,
    backoff: Backoff,
    /// Until the next attempt.
    delay: Duration,
    /// When the last state is given up; `None` where it never is, or was already.
    stale_at: Option<Instant>,
}

impl Trouble {
    fn new(max_staleness: Option<Duration>, backoff: Backoff) -> Self {
        let now = Instant::now();
        Self {
            stale_at: max_staleness.map(|limit| now + limit),
            since: now,
            failures: 0,
            lines: Lines::new(),
            backoff,
            delay: Duration::ZERO,
        }
    }

    /// Counts a failure, and says so where a line about it is due.
    fn note(&mut self, status: &WatchStatus, error: &RegistryError) {
        self.failures += 1;
        self.delay = self.backoff.delay() + error.retry_after.unwrap_or_default();
        if self.lines.is_due() {
            self.log(status, &error.message);
        }
    }

    fn log(&self, status: &WatchStatus, error: &str) {
        let (registry, service) = status.names();
        let (failures, error) = (self.failures, error.to_owned());
        let digest = AWAY.of(Arc::clone(&registry));
        digest.note(AT_ONCE, move |times| {
            warn!(
                registry = &*registry,
                service = service.as_deref(),
                failures,
                error,
                times,
                "a registry cannot be read; what it said last stays"
            );
        });
    }

    fn log_end(&self, status: &WatchStatus) {
        let (registry, service) = status.names();
        let (failures, seconds) = (self.failures, self.since.elapsed().as_secs());
        let digest = BACK.of(Arc::clone(&registry));
        digest.note(AT_ONCE, move |times| {
            info!(
                registry = &*registry,
                service = service.as_deref(),
                failures,
                seconds,
                times,
                "a registry can be read again"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::{collections::VecDeque, sync::Mutex};

    use futures_util::future::BoxFuture;
    use tokio::task::JoinHandle;

    impl super::State for &'static str {}

    enum Step {
        State(&'static str),
        Error(Option<Duration>),
        Panic,
        Pause(Duration),
    }
    use Step::{Error, Panic, Pause, State};

    /// Plays its steps, then waits for ever, as a registry where nothing changes.
    struct Script {
        steps: VecDeque<Step>,
        asked: Arc<Mutex<Vec<Instant>>>,
    }

    impl Source<&'static str> for Script {
        fn next(&mut self) -> BoxFuture<'_, Result<&'static str, RegistryError>> {
            self.asked.lock().unwrap().push(Instant::now());
            Box::pin(async {
                loop {
                    match self.steps.pop_front() {
                        Some(State(state)) => return Ok(state),
                        Some(Error(retry_after)) => {
                            return Err(RegistryError {
                                message: "no".to_owned(),
                                retry_after,
                                refused: false,
                            });
                        }
                        Some(Panic) => panic!("a defect"),
                        Some(Pause(time)) => sleep(time).await,
                        None => std::future::pending().await,
                    }
                }
            })
        }
    }

    struct Run {
        status: Arc<WatchStatus>,
        published: Arc<Mutex<Vec<&'static str>>>,
        asked: Arc<Mutex<Vec<Instant>>>,
        start: Instant,
        task: JoinHandle<()>,
    }

    impl Run {
        fn start(steps: impl IntoIterator<Item = Step>) -> Self {
            Self::start_with(steps, None)
        }

        fn start_with(steps: impl IntoIterator<Item = Step>, max: Option<Duration>) -> Self {
            let staleness = Staleness {
                max,
                ..Staleness::default()
            };
            Self::start_after(steps, staleness)
        }

        fn start_after(steps: impl IntoIterator<Item = Step>, staleness: Staleness) -> Self {
            let status = Arc::new(WatchStatus::new("main", Some("cart".into())));
            let published = Arc::<Mutex<Vec<_>>>::default();
            let asked = Arc::<Mutex<Vec<_>>>::default();
            let source = Box::new(Script {
                steps: steps.into_iter().collect(),
                asked: asked.clone(),
            });
            let publish = {
                let published = published.clone();
                move |event| match event {
                    Event::State(state) => published.lock().unwrap().push(*state),
                    Event::Stale => published.lock().unwrap().push("stale"),
                    Event::Failed => {}
                }
            };
            let start = Instant::now();
            let rng = fastrand::Rng::with_seed(4);
            let backoff = move || Backoff::new(BACKOFF_BASE, BACKOFF_CAP, rng.clone());
            let watching = supervise(source, status.clone(), staleness, publish, backoff);
            let task = tokio::spawn(watching);
            Self {
                status,
                published,
                asked,
                start,
                task,
            }
        }

        /// With the clock paused this passes once the watcher has nothing to do before.
        async fn after(&self, time: Duration) -> WatchSnapshot {
            sleep(time).await;
            assert!(!self.task.is_finished(), "nothing ends a watcher");
            self.status.snapshot()
        }

        fn published(&self) -> Vec<&'static str> {
            self.published.lock().unwrap().clone()
        }

        fn asked(&self) -> Vec<Duration> {
            let asked = self.asked.lock().unwrap();
            asked.iter().map(|at| *at - self.start).collect()
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    /// There is one for each service of a large registry, and a task has 100 bytes of its own.
    #[test]
    fn a_watcher_is_small() {
        let source = Box::new(Script {
            steps: VecDeque::new(),
            asked: Arc::default(),
        });
        let status = Arc::new(WatchStatus::new("main", None));
        let watching = watch(source, status, Staleness::default(), |_| {});
        assert!(size_of_val(&watching) <= 256, "{}", size_of_val(&watching));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_differs_is_published_and_the_first_always() {
        let run = Run::start(["", "", "a", "a", "", "a"].map(State));
        let status = run.after(Duration::from_secs(5)).await;
        assert_eq!(run.published(), ["", "a", "", "a"]);
        assert_eq!((status.updates, status.failures), (4, 0));
        assert!(status.read && status.healthy && status.last_change.is_some());
        assert_eq!(status.age, Some(Duration::from_secs(5)));
        assert!(
            run.after(HOUR).await.healthy,
            "waiting for a change is no failure"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_publishes_nothing_and_the_next_success_recovers() {
        let run = Run::start([
            State("a"),
            Error(None),
            Error(None),
            Pause(HOUR),
            State("a"),
            Pause(HOUR),
            State("b"),
        ]);
        let status = run.after(HOUR / 2).await;
        assert!(status.read && !status.healthy);
        assert_eq!((status.error.as_deref(), status.failures), (Some("no"), 2));
        assert!(
            status.age >= Some(HOUR / 2),
            "since the last answer, not the last error"
        );
        let status = run.after(HOUR).await;
        assert!(status.healthy && status.error.is_none());
        assert_eq!(run.published(), ["a"], "what came back is what was there");
        run.after(HOUR).await;
        assert_eq!(run.published(), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_word_of_a_watcher_before_is_given_up_by_one_that_reads_nothing() {
        let staleness = Staleness {
            max: Some(Duration::from_secs(60)),
            has_earlier_word: true,
        };
        let run = Run::start_after([Error(None), Error(None), Pause(HOUR)], staleness);
        run.after(Duration::from_secs(59)).await;
        assert_eq!(run.published(), [""; 0]);
        run.after(HOUR * 2).await;
        assert_eq!(run.published(), ["stale"]);
        let run = Run::start_after([State("a"), Error(None), Pause(HOUR)], staleness);
        run.after(HOUR * 2).await;
        assert_eq!(run.published(), ["a", "stale"], "it comes once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_given_up_once_that_long_after_the_first_error() {
        let minute = Duration::from_secs(60);
        let steps = [
            State("a"),
            Pause(HOUR),
            Error(None),
            Pause(minute / 2),
            Error(None),
            Pause(HOUR),
            Error(None),
            State("a"),
        ];
        let run = Run::start_with(steps, Some(minute));
        let status = run.after(HOUR + minute - Duration::from_secs(1)).await;
        assert!(!status.given_up, "the last state stays for a while");
        assert_eq!(run.published(), ["a"]);
        let status = run.after(Duration::from_secs(2)).await;
        assert!(
            status.given_up && status.read,
            "a later error starts no new clock"
        );
        assert_eq!(run.published(), ["a", "stale"]);
        let status = run.after(HOUR * 2).await;
        assert!(!status.given_up, "the next success recovers");
        assert_eq!(run.published(), ["a", "stale", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_stops_the_clock_of_staleness() {
        let minute = Duration::from_secs(60);
        let steps = (0..10).flat_map(|_| [State("a"), Error(None), Pause(minute / 2)]);
        let run = Run::start_with(steps.chain([State("a")]), Some(minute));
        run.after(HOUR).await;
        assert_eq!(run.published(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_first_answer_nothing_is_known() {
        let run = Run::start([]);
        let status = run.after(HOUR).await;
        assert!(!status.read && !status.healthy);
        assert_eq!(
            (status.age, status.last_change, status.error),
            (None, None, None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_like_any_other() {
        let run = Run::start([State("a"), Panic, Panic, Pause(HOUR), State("b")]);
        let status = run.after(HOUR / 2).await;
        assert_eq!(status.failures, 2);
        assert_eq!(
            status.error.as_deref(),
            Some("the watcher panicked: a defect")
        );
        run.after(HOUR).await;
        assert_eq!(run.published(), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_back_off_up_to_the_cap() {
        let run = Run::start((0..1000).map(|_| Error(None)));
        run.after(HOUR / 6).await;
        let asked = run.asked();
        // Full jitter waits half the cap on average: 800 in ten minutes, and a few to get there.
        assert!((700..900).contains(&asked.len()), "{}", asked.len());
        let gaps = asked.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.max().unwrap() <= BACKOFF_CAP + Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_between_errors_starts_the_backoff_again() {
        let steps = (0..20).flat_map(|_| [Error(None), State("a")]);
        let run = Run::start(steps);
        run.after(HOUR).await;
        // 20 first delays, not one row of 20.
        assert!(run.asked()[40] < BACKOFF_BASE * 21, "{:?}", run.asked()[40]);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honoured() {
        let short = Duration::from_secs(30);
        let run = Run::start([Error(Some(short)), State("a")]);
        run.after(HOUR).await;
        let asked = run.asked();
        let first = asked[1] - asked[0];
        assert!(
            first >= short && first < short + BACKOFF_BASE * 2,
            "{first:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_always_answers_at_once_is_not_hammered() {
        let run = Run::start((0..10_000).map(|_| State("a")));
        run.after(Duration::from_secs(60)).await;
        let most = BURST + PER_SECOND * 60;
        let asked = u32::try_from(run.asked().len()).unwrap();
        assert!((most - 2..=most + 2).contains(&asked), "{asked}");
        assert_eq!(run.published(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_snapshot_reads_well_as_json() {
        let run = Run::start([State("a")]);
        run.status.note_state(
            1,
            vec![crate::instance::Skipped {
                id: "n1/x".to_owned(),
                reason: "port 0 cannot be called".to_owned(),
            }],
        );
        let status = serde_json::to_value(run.after(Duration::from_millis(1500)).await).unwrap();
        assert_eq!(status["registry"], "main");
        assert_eq!(status["service"], "cart");
        assert_eq!(status["age_seconds"], 1.5);
        assert!(status["last_change"].as_f64().unwrap() > 1.7e9);
        assert_eq!(status["entries"], 1);
        assert_eq!(status["skipped"][0]["id"], "n1/x");
    }
}
