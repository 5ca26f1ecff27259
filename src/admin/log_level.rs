//! The level of the log, which is changed for a while and is then what it was. Knows nothing of who writes
//! the log, or of who asks for that.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    config::{self, Log},
    term::{Term, TermError},
};

/// The level of the process's log.
#[derive(Clone)]
pub struct LogLevel(Arc<Inner>);

struct Inner {
    /// Has the log go by other settings; `None` where the log is not the process's own.
    go_by: Option<Box<GoBy>>,
    state: Mutex<State>,
}

/// Has the log of the process go by other settings.
type GoBy = dyn Fn(&Log) + Send + Sync;

struct State {
    /// What the file says.
    file: Log,
    /// What holds for a while instead of the file's level.
    other: Option<Other>,
}

/// A level that holds for a while.
struct Other {
    level: String,
    term: Term,
}

/// The level of the log, as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogLevelStatus {
    /// What it goes by: a filter as in `log.level`.
    pub level: String,
    /// When it goes by `log.level` again, in seconds since 1970; `None` where it does.
    pub ends: Option<f64>,
}

/// Why the level stays what it is.
#[derive(Debug, thiserror::Error)]
pub enum LogLevelError {
    /// It would last for nothing or for ever.
    #[error(transparent)]
    Time(#[from] TermError),
    /// It is no filter.
    #[error("{0}")]
    Level(String),
    /// The log is not the process's own.
    #[error("this process does not write its log itself")]
    Fixed,
}

impl LogLevel {
    /// Of a log that is made to go by other settings in this way.
    pub fn new(file: &Log, go_by: impl Fn(&Log) + Send + Sync + 'static) -> Self {
        Self::of(file, Some(Box::new(go_by)))
    }

    /// Of a log that others write.
    pub fn fixed(file: &Log) -> Self {
        Self::of(file, None)
    }

    fn of(file: &Log, go_by: Option<Box<GoBy>>) -> Self {
        let state = State {
            file: file.clone(),
            other: None,
        };
        Self(Arc::new(Inner {
            go_by,
            state: Mutex::new(state),
        }))
    }

    /// What the log goes by.
    pub fn status(&self) -> LogLevelStatus {
        self.0.state.lock().status()
    }

    /// Has the log go by what the file says now. A level that holds for a while goes on until its time is over.
    pub fn follow(&self, file: &Log) {
        let mut state = self.0.state.lock();
        if state.file != *file {
            state.file = file.clone();
            self.0.apply(&state);
        }
    }

    /// Has the log go by another level for so long. Must be called on a runtime that goes on.
    ///
    /// # Errors
    /// Why not; then it goes by what it went by.
    pub fn change(&self, level: &str, time: Duration) -> Result<LogLevelStatus, LogLevelError> {
        let level = config::log_level(level).map_err(LogLevelError::Level)?;
        if self.0.go_by.is_none() {
            return Err(LogLevelError::Fixed);
        }
        let log = Arc::downgrade(&self.0);
        let term = Term::begin(time, move |began| expire(&log, began))?;
        let mut state = self.0.state.lock();
        let (seconds, goes_by) = (time.as_secs(), level.clone());
        let say = || {
            tracing::warn!(
                goes_by,
                seconds,
                "the log's level is another one for a while"
            );
        };
        state.other = Some(Other { level, term });
        said_by_either(say, || self.0.apply(&state));
        Ok(state.status())
    }

    /// Has it go by `log.level` again. Returns whether it went by another.
    pub fn restore(&self) -> bool {
        self.0.end(|_| true, false)
    }
}

impl Inner {
    fn end(&self, is_it: impl FnOnce(&Other) -> bool, expired: bool) -> bool {
        let mut state = self.state.lock();
        let Some(ended) = state.other.take_if(|other| is_it(other)) else {
            return false;
        };
        let goes_by = &state.file.level;
        let say = || {
            tracing::warn!(
                goes_by,
                expired,
                "the log's level is that of the file again"
            );
        };
        said_by_either(say, || self.apply(&state));
        drop(state);
        drop(ended);
        true
    }

    fn apply(&self, state: &State) {
        if let Some(go_by) = &self.go_by {
            go_by(&Log {
                format: state.file.format,
                level: state.status().level,
            });
        }
    }
}

impl State {
    fn status(&self) -> LogLevelStatus {
        let (level, ends) = match &self.other {
            Some(other) => (&other.level, Some(other.term.status().ends)),
            None => (&self.file.level, None),
        };
        LogLevelStatus {
            level: level.clone(),
            ends,
        }
    }
}

/// Says a line of `warn` before a change of the level, where the level then lets it through, or else behind it.
fn said_by_either(say: impl Fn(), change: impl FnOnce()) {
    let is_heard = tracing::enabled!(tracing::Level::WARN);
    if is_heard {
        say();
    }
    change();
    if !is_heard {
        say();
    }
}

fn expire(log: &Weak<Inner>, began: Instant) {
    if let Some(log) = log.upgrade() {
        // A later one has an end of its own.
        log.end(|other| other.term.is(began), true);
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::config::LogFormat;

    /// What `[log]` says with this level.
    pub(in crate::admin) fn file(level: &str) -> Log {
        Log {
            format: LogFormat::Text,
            level: level.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::file, *};
    use crate::config::LogFormat;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Of a log of `info`, and the levels that it was made to go by since.
    fn log() -> (LogLevel, Arc<Mutex<Vec<String>>>) {
        let set = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&set);
        let log = LogLevel::new(&file("info"), move |log| {
            into.lock().push(log.level.clone())
        });
        (log, set)
    }

    #[tokio::test(start_paused = true)]
    async fn another_level_ends_at_its_time_and_no_earlier_one_ends_a_later_one() {
        let (log, set) = log();
        log.change("debug", HOUR).unwrap();
        tokio::time::sleep(HOUR / 2).await;
        assert!(log.change("trace", HOUR).unwrap().ends.is_some());
        tokio::time::sleep(HOUR * 3 / 4).await;
        assert_eq!(log.status().level, "trace", "the second one holds");
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(
            (log.status().level, log.status().ends),
            ("info".to_owned(), None)
        );
        assert_eq!(*set.lock(), ["debug", "trace", "info"]);
        assert!(!log.restore());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_with_another_level_is_gone_by_once_the_time_of_another_is_over() {
        let (log, set) = log();
        log.follow(&file("warn"));
        log.change("debug", HOUR).unwrap();
        log.follow(&file("error"));
        assert_eq!(log.status().level, "debug");
        assert!(log.status().ends.is_some());
        let json = Log {
            format: LogFormat::Json,
            ..file("error")
        };
        log.follow(&json);
        log.follow(&json);
        tokio::time::sleep(HOUR * 2).await;
        assert_eq!(log.status().level, "error");
        assert_eq!(*set.lock(), ["warn", "debug", "debug", "debug", "error"]);
    }

    #[tokio::test]
    async fn what_is_no_level_or_lasts_too_long_changes_nothing() {
        let (log, set) = log();
        for (level, time) in [
            ("loud", HOUR),
            ("debug", HOUR * 25),
            ("debug", Duration::ZERO),
        ] {
            assert!(log.change(level, time).is_err(), "{level} {time:?}");
        }
        let fixed = LogLevel::fixed(&file("info")).change("debug", HOUR);
        assert!(matches!(fixed, Err(LogLevelError::Fixed)));
        assert_eq!(log.status().level, "info");
        assert!(set.lock().is_empty());
    }
}
