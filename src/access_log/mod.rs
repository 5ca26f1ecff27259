//! The access log, off the way of requests: each worker collects its lines, and hands them over in
//! pieces to a thread that writes them. Where that cannot keep up lines are lost and counted; no request
//! waits. Knows nothing of how a line comes about.

mod copied;
mod line;
mod logs;
mod outlet;
mod queue;
mod sink;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http::{StatusCode, request::Parts};
use parking_lot::Mutex;

pub(crate) use copied::Copied;
pub(crate) use line::Line;
pub(crate) use logs::{AccessLogs, PreparedLog, Writing};

use crate::config;
use copied::Wanted;
use outlet::Outlet;
use queue::Piece;

/// A worker hands over what it has from so many bytes on.
const PIECE: usize = 16 * 1024;

/// What is the same for all workers.
#[derive(Debug)]
pub(crate) struct AccessLog {
    /// What the file says of it.
    settings: config::AccessLog,
    /// Fields of a request's head that its lines have.
    wanted: Wanted,
    outlet: Arc<Outlet>,
}

impl AccessLog {
    fn of(settings: config::AccessLog, outlet: Arc<Outlet>) -> Self {
        Self {
            wanted: Wanted::by(&settings.format),
            settings,
            outlet,
        }
    }

    /// Whether a request is a line: each by chance, and some in any case.
    fn takes(&self, line: &Line<'_>) -> bool {
        let always = &self.settings.always;
        let is_slow = || always.slower_than.is_some_and(|limit| line.took > limit);
        let is_such =
            || StatusCode::from_u16(line.status).is_ok_and(|status| always.status.contains(status));
        self.settings.sample == config::MILLION
            || fastrand::u32(..config::MILLION) < self.settings.sample
            || is_slow()
            || is_such()
    }
}

/// The lines of one worker. The lock is the worker's alone but for its own tick, and for a reload.
#[derive(Debug)]
pub(crate) struct Lines {
    log: Arc<AccessLog>,
    piece: Mutex<Piece>,
    /// New requests go by another log: no tick hands over what comes still.
    is_retired: AtomicBool,
}

impl Lines {
    /// None yet.
    fn new(log: &Arc<AccessLog>) -> Self {
        Self {
            log: Arc::clone(log),
            piece: Mutex::default(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// What a line has of this request's head.
    pub(crate) fn copied(&self, request: &Parts) -> Copied {
        Copied::of(request, &self.log.wanted, &self.log.settings)
    }

    /// Adds one, if such a request is a line. Returns whether it is.
    pub(crate) fn add(&self, line: &Line<'_>) -> bool {
        if !self.log.takes(line) {
            return false;
        }
        let mut piece = self.piece.lock();
        line.write(
            &self.log.settings.format,
            &self.log.wanted,
            &mut piece.bytes,
        );
        piece.bytes.push(b'\n');
        piece.lines += 1;
        if piece.bytes.len() >= PIECE || self.is_retired.load(Relaxed) {
            self.hand_over(&mut piece);
        }
        true
    }

    /// Hands over what there is.
    pub(crate) fn flush(&self) {
        let mut piece = self.piece.lock();
        if piece.lines > 0 {
            self.hand_over(&mut piece);
        }
    }

    /// Hands over what there is, and from now on whatever comes: of requests that are under way.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Relaxed);
        self.flush();
    }

    fn hand_over(&self, piece: &mut Piece) {
        self.log.outlet.queue.hand_over(std::mem::take(piece));
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        net::{IpAddr, Ipv4Addr},
        os::unix::net::UnixDatagram,
        time::{Duration, SystemTime},
    };

    use http::{Method, Request, Version};

    use super::*;
    use crate::config::{Always, LineFormat, LogField, LogTarget, MILLION, Part, Statuses};

    const PATH: &str = "/cart?a=b";

    fn settings(to: LogTarget) -> config::AccessLog {
        config::AccessLog {
            to,
            format: LineFormat::Text(vec![Part::Field(LogField::Path)]),
            query: true,
            masked: Default::default(),
            sample: MILLION,
            always: Always::default(),
        }
    }

    /// A request that was answered well.
    pub(super) fn line(copied: &Copied) -> Line<'_> {
        Line {
            copied,
            at: SystemTime::UNIX_EPOCH,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            scheme: "http",
            version: Version::HTTP_11,
            method: &Method::GET,
            status: 200,
            grpc_status: None,
            bytes: 4,
            is_whole: true,
            took: Duration::from_micros(1_500),
            first_byte: None,
            queue: None,
            connect: None,
            route: None,
            service: None,
            endpoint: None,
            attempts: 1,
            request_id: None,
            tls_version: None,
            tls_cipher: None,
            sni: None,
        }
    }

    /// Adds a request for [`PATH`].
    fn add(lines: &Lines) {
        let (request, ()) = Request::get(PATH).body(()).unwrap().into_parts();
        let copied = lines.copied(&request);
        assert!(lines.add(&line(&copied)));
    }

    /// A log that goes there, and what has its lines written when it is dropped.
    fn start(to: LogTarget) -> io::Result<(Arc<AccessLogs>, Writing)> {
        let logs = Arc::new(AccessLogs::start(Some(&settings(to)))?);
        Ok((Arc::clone(&logs), Writing(logs)))
    }

    fn lost(logs: &AccessLogs) -> (u64, u64) {
        let losses = logs.losses();
        (losses.overflowed.value(), losses.failed.value())
    }

    #[test]
    fn lines_of_all_workers_are_in_the_file_before_the_process_ends() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("access.log");
        let (logs, writing) = start(LogTarget::File(file.clone())).unwrap();
        let workers = [logs.lines().unwrap(), logs.lines().unwrap()];
        for lines in &workers {
            for _ in 0..5_000 {
                add(lines);
            }
            lines.flush();
        }
        drop(writing);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("{PATH}\n").repeat(10_000));
        assert_eq!(lost(&logs), (0, 0));
    }

    #[test]
    fn a_file_that_was_moved_is_begun_anew_when_that_is_asked() {
        let folder = tempfile::TempDir::new().unwrap();
        let [file, moved] = ["access.log", "access.log.1"].map(|name| folder.path().join(name));
        let (logs, writing) = start(LogTarget::File(file.clone())).unwrap();
        let lines = &logs.lines().unwrap();
        fs::rename(&file, &moved).unwrap();
        assert!(logs.reopen());
        add(lines);
        lines.flush();
        drop(writing);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{PATH}\n"));
        assert_eq!(fs::read_to_string(&moved).unwrap(), "");
    }

    #[test]
    fn the_file_of_a_log_before_is_begun_anew_while_requests_go_by_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let [file, moved] = ["access.log", "access.log.1"].map(|name| folder.path().join(name));
        let (logs, writing) = start(LogTarget::File(file.clone())).unwrap();
        let lines = logs.lines().unwrap();
        let next = logs.prepare(Some(&settings(LogTarget::Stdout))).unwrap();
        assert!(logs.change(next));
        fs::rename(&file, &moved).unwrap();
        assert!(logs.reopen());
        add(&lines);
        drop(lines);
        drop(writing);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{PATH}\n"));
        assert!(!logs.reopen());
    }

    #[test]
    fn a_sample_has_its_share_and_all_that_are_slow_or_of_such_a_status() {
        let mut settings = settings(LogTarget::Stdout);
        settings.sample = MILLION / 10;
        settings.always = Always {
            status: Statuses::class(5),
            slower_than: Some(Duration::from_secs(1)),
        };
        let log = AccessLog::of(settings, Arc::default());
        let copied = Copied::default();
        let taken = (0..10_000).filter(|_| log.takes(&line(&copied))).count();
        assert!((700..1_300).contains(&taken), "{taken}");
        let slow = Line {
            took: Duration::from_millis(1_001),
            ..line(&copied)
        };
        assert!((0..1_000).all(|_| log.takes(&slow)));
        let ill = Line {
            status: 503,
            ..line(&copied)
        };
        assert!((0..1_000).all(|_| log.takes(&ill)));
    }

    #[test]
    fn a_pipe_that_is_not_read_is_no_place_and_stops_no_start() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let to = LogTarget::File(path);
        assert!(start(to.clone()).is_err());
        // A dry run does not open it: a reader would take that for the end.
        let (logs, _writing) = start(LogTarget::Stdout).unwrap();
        assert!(logs.try_to_begin(Some(&settings(to))).is_ok());
    }

    #[test]
    fn a_log_that_does_not_take_over_leaves_no_file_that_is_new() {
        let folder = tempfile::TempDir::new().unwrap();
        let [new, old] = ["new.log", "old.log"].map(|name| folder.path().join(name));
        fs::write(&old, "").unwrap();
        let (logs, _writing) = start(LogTarget::Stdout).unwrap();
        for (file, is_there) in [(&new, false), (&old, true)] {
            let next = logs.prepare(Some(&settings(LogTarget::File(file.clone()))));
            drop(next.unwrap());
            assert_eq!(file.exists(), is_there, "{file:?}");
        }
        let next = logs.prepare(Some(&settings(LogTarget::File(new.clone()))));
        assert!(logs.change(next.unwrap()) && new.exists());
    }

    #[test]
    fn a_file_whose_last_line_has_no_end_goes_on_with_a_new_one() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("access.log");
        fs::write(&file, "/to").unwrap();
        let (logs, writing) = start(LogTarget::File(file.clone())).unwrap();
        let lines = &logs.lines().unwrap();
        add(lines);
        drop(writing);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("/to\n{PATH}\n"));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_a_folder_that_is_missing_is_no_place() {
        let missing = LogTarget::File("/nowhere/access.log".into());
        assert!(start(missing).is_err());
        let full = LogTarget::File("/dev/full".into());
        let (logs, writing) = start(full).unwrap();
        let lines = &logs.lines().unwrap();
        add(lines);
        add(lines);
        lines.flush();
        drop(writing);
        assert_eq!(lost(&logs), (0, 2));
    }

    #[test]
    fn a_syslog_of_this_machine_gets_each_line_as_a_message() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log");
        let syslog = UnixDatagram::bind(&path).unwrap();
        let (logs, writing) = start(LogTarget::SyslogSocket(path)).unwrap();
        let lines = &logs.lines().unwrap();
        add(lines);
        add(lines);
        lines.flush();
        drop(writing);
        for _ in 0..2 {
            let mut bytes = [0; 200];
            let length = syslog.recv(&mut bytes).unwrap();
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            assert!(text.starts_with("<190>"), "{text}");
            assert!(text.ends_with(" callboard: /cart?a=b"), "{text}");
        }
    }

    #[test]
    fn where_nothing_is_written_lines_are_lost_and_counted_and_memory_is_bounded() {
        let log = Arc::new(AccessLog::of(settings(LogTarget::Stdout), Arc::default()));
        let lines = &Lines::new(&log);
        for _ in 0..600_000 {
            add(lines);
        }
        let due = log.outlet.queue.next();
        let written: u64 = due.pieces.iter().map(|piece| piece.lines).sum();
        let bytes: usize = due.pieces.iter().map(|piece| piece.bytes.len()).sum();
        let held = lines.piece.lock().lines;
        let overflowed = log.outlet.queue.losses.overflowed.value();
        assert!(overflowed > 0 && bytes <= queue::MOST);
        assert_eq!(written + held + overflowed, 600_000);
    }

    #[test]
    fn lines_of_requests_that_are_under_way_at_a_change_go_where_they_would_have_gone() {
        let folder = tempfile::TempDir::new().unwrap();
        let [first, second] = ["first.log", "second.log"].map(|name| folder.path().join(name));
        let (logs, writing) = start(LogTarget::File(first.clone())).unwrap();
        let before = logs.lines().unwrap();
        add(&before);
        let same = logs.prepare(Some(&settings(LogTarget::File(first.clone()))));
        assert!(!logs.change(same.unwrap()));
        let other = logs.prepare(Some(&settings(LogTarget::File(second.clone()))));
        assert!(logs.change(other.unwrap()));
        before.retire();
        let after = logs.lines().unwrap();
        add(&after);
        add(&before);
        let none = logs.prepare(None).unwrap();
        assert!(logs.change(none) && logs.lines().is_none());
        after.retire();
        add(&after);
        drop((before, after));
        drop(writing);
        let twice = format!("{PATH}\n").repeat(2);
        for file in [first, second] {
            assert_eq!(fs::read_to_string(&file).unwrap(), twice);
        }
    }

    #[test]
    fn a_log_with_other_lines_at_the_same_place_keeps_their_order() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("access.log");
        let (logs, writing) = start(LogTarget::File(file.clone())).unwrap();
        let before = logs.lines().unwrap();
        add(&before);
        let mut next = settings(LogTarget::File(file.clone()));
        next.format = LineFormat::Text(vec![Part::Field(LogField::Status)]);
        let next = logs.prepare(Some(&next)).unwrap();
        assert!(logs.change(next));
        before.retire();
        add(&logs.lines().unwrap());
        drop(writing);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{PATH}\n200\n"));
    }
}
