//! The access log, off the way of requests: each worker collects its lines, and hands them over in
//! pieces to a thread that writes them. Where that cannot keep up lines are lost and counted; no request
//! waits. Knows nothing of how a line comes about.

mod copied;
mod line;
mod queue;
mod sink;

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use http::{Request, StatusCode};
use parking_lot::Mutex;

pub(crate) use copied::Copied;
pub(crate) use line::Line;

use crate::{config, metrics::Counter};
use copied::Wanted;
use queue::{Piece, Queue};
use sink::Sink;

/// A worker hands over what it has from so many bytes on.
const PIECE: usize = 16 * 1024;
/// How long the end of the process waits for what is not written.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is the same for all workers.
#[derive(Debug)]
pub(crate) struct AccessLog {
    /// What the file says of it.
    settings: config::AccessLog,
    /// Fields of a request's head that its lines have.
    wanted: Wanted,
    queue: Arc<Queue>,
    /// Those of its workers.
    lines: Mutex<Vec<Weak<Lines>>>,
}

/// The end of a process's access log: dropped, what was handed over is written first.
#[derive(Debug)]
pub(crate) struct Writing(Arc<AccessLog>);

impl AccessLog {
    /// Begins one, whose lines go where the file says.
    ///
    /// # Errors
    /// Where nothing can be written there.
    pub(crate) fn start(settings: config::AccessLog) -> io::Result<(Arc<Self>, Writing)> {
        let sink = Sink::open(&settings.to)?;
        let queue = Arc::new(Queue::default());
        let from = Arc::clone(&queue);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&from, sink))?;
        let log = Arc::new(Self::of(settings, queue));
        Ok((Arc::clone(&log), Writing(log)))
    }

    fn of(settings: config::AccessLog, queue: Arc<Queue>) -> Self {
        Self {
            wanted: Wanted::by(&settings.format),
            settings,
            queue,
            lines: Mutex::default(),
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

    /// Lines that were written nowhere, since more came than could be written.
    pub(crate) fn overflowed(&self) -> u64 {
        self.queue.overflowed.value()
    }

    /// Lines that were written nowhere, since writing failed.
    pub(crate) fn failed(&self) -> u64 {
        self.queue.failed.value()
    }

    /// Whether it goes to a file.
    pub(crate) fn has_file(&self) -> bool {
        matches!(self.settings.to, config::LogTarget::File(_))
    }

    /// Has its file opened anew, for tools that have moved it.
    pub(crate) fn reopen(&self) {
        self.queue.reopen();
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        for lines in self.0.lines.lock().iter().filter_map(Weak::upgrade) {
            lines.flush();
        }
        if !self.0.queue.end(PATIENCE) {
            tracing::warn!("the access log took no more at the end: lines are lost");
        }
    }
}

fn write_all(queue: &Queue, mut sink: Sink) {
    let mut is_failing = false;
    loop {
        let due = queue.next();
        if due.reopen {
            reopen(&mut sink);
        }
        for piece in due.pieces {
            let lost = sink.write(&piece);
            match lost {
                Ok(()) => is_failing = false,
                Err(failure) => {
                    queue.failed.add(failure.lines);
                    if !is_failing {
                        let error = failure.error;
                        tracing::warn!(%error, "the access log cannot be written: lines are lost");
                    }
                    is_failing = true;
                }
            }
        }
        if due.is_last {
            queue.ended();
            return;
        }
    }
}

fn reopen(sink: &mut Sink) {
    match sink.reopen() {
        Ok(()) => tracing::info!("the access log is opened anew"),
        Err(error) => {
            tracing::warn!(%error, "the access log cannot be opened anew, and goes on where it was");
        }
    }
}

/// The lines of one worker. The lock is the worker's alone but for its own tick.
#[derive(Debug)]
pub(crate) struct Lines {
    log: Arc<AccessLog>,
    piece: Mutex<Piece>,
    /// Lines that were made.
    pub made: Counter,
}

impl Lines {
    /// None yet.
    pub(crate) fn new(log: &Arc<AccessLog>) -> Arc<Self> {
        let lines = Arc::new(Self {
            log: Arc::clone(log),
            piece: Mutex::default(),
            made: Counter::default(),
        });
        log.lines.lock().push(Arc::downgrade(&lines));
        lines
    }

    /// What a line has of this request's head.
    pub(crate) fn copied<B>(&self, request: &Request<B>) -> Copied {
        Copied::of(request, &self.log.wanted, &self.log.settings)
    }

    /// Adds one, if such a request is a line.
    pub(crate) fn add(&self, line: &Line<'_>) {
        if !self.log.takes(line) {
            return;
        }
        self.made.add_one();
        let mut piece = self.piece.lock();
        line.write(
            &self.log.settings.format,
            &self.log.wanted,
            &mut piece.bytes,
        );
        piece.bytes.push(b'\n');
        piece.lines += 1;
        if piece.bytes.len() >= PIECE {
            self.log.queue.hand_over(std::mem::take(&mut *piece));
        }
    }

    /// Hands over what there is.
    pub(crate) fn flush(&self) {
        let mut piece = self.piece.lock();
        if piece.lines > 0 {
            self.log.queue.hand_over(std::mem::take(&mut *piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{IpAddr, Ipv4Addr},
        os::unix::net::UnixDatagram,
        time::SystemTime,
    };

    use http::{Method, Version};

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
        let copied = lines.copied(&Request::get(PATH).body(()).unwrap());
        lines.add(&line(&copied));
    }

    #[test]
    fn lines_of_all_workers_are_in_the_file_before_the_process_ends() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("access.log");
        let (log, writing) = AccessLog::start(settings(LogTarget::File(file.clone()))).unwrap();
        let workers = [Lines::new(&log), Lines::new(&log)];
        for lines in &workers {
            for _ in 0..5_000 {
                add(lines);
            }
            lines.flush();
        }
        drop(writing);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("{PATH}\n").repeat(10_000));
        assert_eq!((log.overflowed(), log.failed()), (0, 0));
    }

    #[test]
    fn a_file_that_was_moved_is_begun_anew_when_that_is_asked() {
        let folder = tempfile::TempDir::new().unwrap();
        let [file, moved] = ["access.log", "access.log.1"].map(|name| folder.path().join(name));
        let (log, writing) = AccessLog::start(settings(LogTarget::File(file.clone()))).unwrap();
        let lines = &Lines::new(&log);
        fs::rename(&file, &moved).unwrap();
        log.reopen();
        add(lines);
        lines.flush();
        drop(writing);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{PATH}\n"));
        assert_eq!(fs::read_to_string(&moved).unwrap(), "");
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
        assert!(AccessLog::start(settings(LogTarget::File(path))).is_err());
    }

    #[test]
    fn a_file_whose_last_line_has_no_end_goes_on_with_a_new_one() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("access.log");
        fs::write(&file, "/to").unwrap();
        let (log, writing) = AccessLog::start(settings(LogTarget::File(file.clone()))).unwrap();
        let lines = &Lines::new(&log);
        add(lines);
        drop(writing);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("/to\n{PATH}\n"));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_a_folder_that_is_missing_is_no_place() {
        let missing = LogTarget::File("/nowhere/access.log".into());
        assert!(AccessLog::start(settings(missing)).is_err());
        let full = LogTarget::File("/dev/full".into());
        let (log, writing) = AccessLog::start(settings(full)).unwrap();
        let lines = &Lines::new(&log);
        add(lines);
        add(lines);
        lines.flush();
        drop(writing);
        assert_eq!((log.failed(), lines.made.value()), (2, 2));
    }

    #[test]
    fn a_syslog_of_this_machine_gets_each_line_as_a_message() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log");
        let syslog = UnixDatagram::bind(&path).unwrap();
        let (log, writing) = AccessLog::start(settings(LogTarget::SyslogSocket(path))).unwrap();
        let lines = &Lines::new(&log);
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
        let due = log.queue.next();
        let written: u64 = due.pieces.iter().map(|piece| piece.lines).sum();
        let bytes: usize = due.pieces.iter().map(|piece| piece.bytes.len()).sum();
        let held = lines.piece.lock().lines;
        assert!(log.overflowed() > 0 && bytes <= queue::MOST);
        assert_eq!(written + held + log.overflowed(), 600_000);
    }
}
