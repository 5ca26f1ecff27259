//! The registry's state on disk: one file of JSON lines, a header and then every change in its
//! order, rewritten when it has grown. Knows nothing of who changes what, or why.
//!
//! A change is handed to the operating system before anyone is told of it, so it survives the
//! process (kill -9). It is not synced one by one: a power cut may cost the last moments, which
//! providers make good when they register or report again.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::state::{Change, State};
use crate::disk::{self, Replacement};

const FILE: &str = "registry.jsonl";
const FORMAT: u32 = 1;
/// A journal below this size is never rewritten while the registry runs.
const COMPACT_ABOVE: u64 = 1024 * 1024;
/// How many times its size after the last rewriting it reaches before the next.
const COMPACT_GROWTH: u64 = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// The node's id, made up when the file was first written.
    node: String,
    /// The least index that the state is at.
    index: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    index: u64,
    changes: Vec<Change>,
}

/// The open file. While it is open, this process holds the folder's lock.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    node: String,
    file: File,
    length: u64,
    compacted: u64,
    /// What a write that failed has left behind the last whole line could not be taken off.
    is_torn: bool,
    /// `None` once it was given up.
    lock: Option<File>,
}

/// Why the state on disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("another process uses it")]
    Locked,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Journal {
    /// As [`Self::open_as`], with a new id.
    #[cfg(test)]
    pub(super) fn open(folder: &Path) -> Result<(Self, State), OpenError> {
        Self::open_as(folder, None)
    }

    /// Opens the folder's state, making what is not there: with this node's id, else with a new one. What
    /// cannot be understood is set aside beside it, with a warning, and the state begins empty. The state's
    /// index is above every one that was ever handed out.
    pub(super) fn open_as(folder: &Path, node: Option<&str>) -> Result<(Self, State), OpenError> {
        fs::create_dir_all(folder)?;
        let lock = lock(folder)?;
        let path = folder.join(FILE);
        let anew = || {
            (
                node.map_or_else(new_node_id, str::to_owned),
                State::default(),
            )
        };
        let (node, mut state) = match fs::read(&path) {
            Ok(bytes) => match replay(&bytes) {
                Ok(found) => found.without_broken_line(&path),
                Err(reason) => {
                    set_aside(&path, &reason)?;
                    anew()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => anew(),
            Err(error) => return Err(error.into()),
        };
        // The clock makes up for changes that were lost: no client must meet an index again that
        // it knows with another content.
        state.open_at((state.index() + 1).max(unix_millis()));
        let written = Image::of(folder, &node, &state, 0).write()?;
        let (file, length) = written.put_in_place(None)?;
        let journal = Self {
            folder: folder.to_owned(),
            node,
            file,
            length,
            compacted: length,
            is_torn: false,
            lock: Some(lock),
        };
        Ok((journal, state))
    }

    /// Looks at what another process has in the folder, and takes nothing: no change can be written. A folder
    /// that holds nothing, or is not there, is one without content.
    pub(super) fn look(folder: &Path) -> Result<(Self, State), OpenError> {
        let path = folder.join(FILE);
        let (node, state, length, file) = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let nothing = File::open("/dev/null")?;
                (new_node_id(), State::default(), 0, nothing)
            }
            read => {
                let bytes = read?;
                let unreadable = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
                // A last line that is broken is being written: nothing is wrong with it.
                let Replayed { node, state, .. } = replay(&bytes).map_err(unreadable)?;
                (node, state, bytes.len() as u64, File::open(&path)?)
            }
        };
        let journal = Self {
            folder: folder.to_owned(),
            node,
            file,
            length,
            compacted: length,
            is_torn: false,
            lock: None,
        };
        Ok((journal, state))
    }

    /// The node's id, the same for as long as the folder lives.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Writes changes that share an index. After an error nothing of them counts: what of them is in
    /// the file is taken off, before anything else is written.
    pub(super) fn append(&mut self, index: u64, changes: &[Change]) -> io::Result<()> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            index: u64,
            changes: &'a [Change],
        }
        let mut line = serde_json::to_vec(&Borrowed { index, changes })?;
        line.push(b'\n');
        if self.is_torn {
            self.mend()?;
        }
        if let Err(error) = self.file.write_all(&line) {
            self.is_torn = true;
            // Where this fails too it is done before the next line: behind a broken one none counts.
            let _ = self.mend();
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Takes off what a write that failed has left.
    fn mend(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.is_torn = false;
        Ok(())
    }

    /// Lets another process have the folder. Nothing is written after this.
    pub(super) fn release(&mut self) {
        self.lock = None;
    }

    /// Whether the file has grown enough to be rewritten.
    pub(super) fn is_due(&self) -> bool {
        self.length > COMPACT_ABOVE.max(self.compacted * COMPACT_GROWTH)
    }

    /// What a rewritten file would hold. It is written apart, while changes go on being appended
    /// here, and then takes this one's place with [`Journal::adopt`].
    pub(super) fn snapshot(&self, state: &State) -> Image {
        Image::of(&self.folder, &self.node, state, self.length)
    }

    /// Puts a rewritten file in place of this one, with what was appended here meanwhile.
    pub(super) fn adopt(&mut self, written: Written) -> io::Result<()> {
        let compacted = written.length;
        let before = (&*self.folder.join(FILE), self.length);
        let (file, length) = written.put_in_place(Some(before))?;
        (self.file, self.length, self.compacted) = (file, length, compacted);
        self.is_torn = false;
        Ok(())
    }
}

/// The whole state at one moment, ready to be written.
pub(super) struct Image {
    folder: PathBuf,
    header: Header,
    contents: Vec<Vec<Change>>,
    /// How much of the journal it stands for.
    covers: u64,
}

/// A snapshot that is safely on disk, but not yet in its place.
pub(super) struct Written {
    file: Replacement,
    length: u64,
    covers: u64,
}

impl Image {
    fn of(folder: &Path, node: &str, state: &State, covers: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            header: Header {
                format: FORMAT,
                node: node.to_owned(),
                index: state.index(),
            },
            contents: state.contents(),
            covers,
        }
    }

    /// Writes the file beside the journal and syncs it. Takes as long as the disk takes.
    pub(super) fn write(self) -> io::Result<Written> {
        // Its owner's alone: the headers of a check may hold a secret.
        let mut file = Replacement::begin(&self.folder.join(FILE))?;
        let mut out = BufWriter::new(file.file());
        let covers = self.covers;
        self.write_to(&mut out)?;
        out.flush()?;
        drop(out);
        file.file().sync_all()?;
        let length = file.file().stream_position()?;
        Ok(Written {
            file,
            length,
            covers,
        })
    }

    fn write_to(self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut out, &self.header)?;
        out.write_all(b"\n")?;
        for changes in self.contents {
            let index = self.header.index;
            serde_json::to_writer(&mut out, &Record { index, changes })?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

impl Written {
    /// Appends what the journal at `before`, of this length, got since the snapshot, and renames.
    fn put_in_place(mut self, before: Option<(&Path, u64)>) -> io::Result<(File, u64)> {
        if let Some((before, length)) = before {
            let mut tail = File::open(before)?;
            tail.seek(SeekFrom::Start(self.covers))?;
            // Behind that there may be what a write that failed has left.
            let mut tail = tail.take(length - self.covers);
            self.length += io::copy(&mut tail, self.file.file())?;
        }
        Ok((self.file.place()?, self.length))
    }
}

/// Keeps the folder to one process, for as long as the file is open.
fn lock(folder: &Path) -> Result<File, OpenError> {
    disk::lock(&folder.join("lock")).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked,
        _ => error.into(),
    })
}

/// What a file says.
struct Replayed {
    node: String,
    state: State,
    /// The number of a last line that is broken, and what is wrong with it.
    broken: Option<(usize, String)>,
}

impl Replayed {
    /// What it says, where a line that is broken is dropped, and said.
    fn without_broken_line(self, path: &Path) -> (String, State) {
        if let Some((line, reason)) = self.broken {
            tracing::warn!(
                path = %path.display(), line, reason,
                "the registry's journal ends in a broken line, which is dropped"
            );
        }
        (self.node, self.state)
    }
}

/// Reads a file. Only the last line may be broken, by a crash in the middle of a write: no client was told
/// that this change is made.
fn replay(bytes: &[u8]) -> Result<Replayed, String> {
    let mut lines = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .enumerate()
        .peekable();
    let (_, first) = lines.next().ok_or("it is empty")?;
    let header: Header =
        serde_json::from_slice(first).map_err(|error| format!("its first line: {error}"))?;
    if header.format != FORMAT {
        return Err(format!("its format is {}, not {FORMAT}", header.format));
    }
    let (mut state, mut broken) = (State::default(), None);
    while let Some((number, line)) = lines.next() {
        let whole = line.ends_with(b"\n");
        match serde_json::from_slice::<Record>(line) {
            Ok(record) if whole => {
                state.apply(record.index, record.changes);
            }
            result if lines.peek().is_none() => {
                let reason = result
                    .err()
                    .map_or_else(|| "it has no end".to_owned(), |error| error.to_string());
                broken = Some((number + 1, reason));
            }
            Ok(_) => unreachable!("only the last line can lack its end"),
            Err(error) => return Err(format!("line {}: {error}", number + 1)),
        }
    }
    state.open_at(header.index);
    Ok(Replayed {
        node: header.node,
        state,
        broken,
    })
}

/// What was read of any bytes is read again from what is written of it.
#[cfg(any(test, fuzzing))]
pub(super) fn assert_read_as_written(bytes: &[u8]) {
    let written = |node: &str, state: &State| {
        let mut written = Vec::new();
        let snapshot = Image::of(Path::new(""), node, state, 0);
        snapshot.write_to(&mut written).expect("a Vec takes all");
        written
    };
    if let Ok(read) = replay(bytes) {
        let once = written(&read.node, &read.state);
        let again = replay(&once).expect("what was written can be read");
        assert!(again.broken.is_none());
        assert_eq!(written(&again.node, &again.state), once);
    }
}

fn set_aside(path: &Path, reason: &str) -> io::Result<()> {
    let aside = path.with_file_name(format!("{FILE}.corrupt-{}", unix_millis()));
    fs::rename(path, &aside)?;
    tracing::error!(
        path = %path.display(), kept_as = %aside.display(), reason,
        "the registry's journal cannot be read: the registry starts empty"
    );
    Ok(())
}

fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(1)
        .max(1)
}

/// A random UUID (version 4).
fn new_node_id() -> String {
    let random = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{random:032x}");
    let (parts, mut at) = ([8, 4, 4, 4, 12], 0);
    let parts = parts.map(|length| {
        at += length;
        &hex[at - length..at]
    });
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::super::model::{Indexed, Service};
    use super::*;

    fn put(id: &str, index: u64) -> Change {
        let service = Service {
            id: id.to_owned(),
            name: "web".to_owned(),
            port: 80,
            ..Service::default()
        };
        Change::PutService(Indexed::replacing(None, service, index))
    }

    fn ids(state: &State) -> Vec<String> {
        state
            .services()
            .map(|entry| entry.service.id.clone())
            .collect()
    }

    /// Appends `ids`, and lets the journal go as a crash would.
    fn write(folder: &Path, ids: &[&str]) -> u64 {
        let (mut journal, mut state) = Journal::open(folder).unwrap();
        for id in ids {
            let index = state.index() + 1;
            journal.append(index, &[put(id, index)]).unwrap();
            state.apply(index, vec![put(id, index)]);
        }
        state.index()
    }

    #[test]
    fn what_was_appended_is_there_again_at_a_higher_index() {
        let folder = tempfile::tempdir().unwrap();
        let last = write(folder.path(), &["a", "b"]);
        let (journal, state) = Journal::open(folder.path()).unwrap();
        assert_eq!(ids(&state), ["a", "b"]);
        assert!(state.index() > last);
        let node = journal.node().to_owned();
        drop(journal);
        let (journal, again) = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.node(), node);
        assert!(again.index() > state.index());
    }

    #[test]
    fn a_last_line_that_was_cut_anywhere_is_dropped() {
        let whole = tempfile::tempdir().unwrap();
        write(whole.path(), &["a", "b"]);
        let bytes = fs::read(whole.path().join(FILE)).unwrap();
        let last = bytes[..bytes.len() - 1]
            .iter()
            .rposition(|b| *b == b'\n')
            .unwrap()
            + 1;
        for end in [last + 1, (last + bytes.len()) / 2, bytes.len() - 1] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), &bytes[..end]).unwrap();
            let (_, state) = Journal::open(folder.path()).unwrap();
            assert_eq!(ids(&state), ["a"], "cut at {end} of {}", bytes.len());
            write_and_reopen(folder);
        }
    }

    fn write_and_reopen(folder: tempfile::TempDir) {
        write(folder.path(), &["c"]);
        let (_, state) = Journal::open(folder.path()).unwrap();
        assert_eq!(ids(&state), ["a", "c"]);
    }

    /// Appends `id` to a disk that takes half of it, and that cannot take that off again.
    fn tear(journal: &mut Journal, id: &str, index: u64) {
        let path = journal.folder.join(FILE);
        let file = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
        assert!(journal.append(index, &[put(id, index)]).is_err());
        let mut disk = File::options().append(true).open(&path).unwrap();
        disk.write_all(b"{\"index\": 17, \"chan").unwrap();
        journal.file = file;
    }

    #[test]
    fn what_a_disk_that_fails_twice_has_left_costs_no_other_line() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, mut state) = Journal::open(folder.path()).unwrap();
        let index = state.index();
        let append = |journal: &mut Journal, state: &mut State, id: &str, index| {
            journal.append(index, &[put(id, index)]).unwrap();
            state.apply(index, vec![put(id, index)]);
        };
        append(&mut journal, &mut state, "a", index + 1);
        tear(&mut journal, "b", index + 2);
        append(&mut journal, &mut state, "c", index + 3);
        let snapshot = journal.snapshot(&state);
        append(&mut journal, &mut state, "d", index + 4);
        tear(&mut journal, "e", index + 5);
        journal.adopt(snapshot.write().unwrap()).unwrap();
        append(&mut journal, &mut state, "f", index + 6);
        drop(journal);
        let (_, state) = Journal::open(folder.path()).unwrap();
        assert_eq!(ids(&state), ["a", "c", "d", "f"]);
    }

    #[test]
    fn a_corrupt_file_is_set_aside_whole() {
        for broken in [
            "",
            "not json\n",
            "{\"format\":9,\"node\":\"n\",\"index\":1}\n",
        ] {
            check_set_aside(broken.as_bytes());
        }
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["a", "b"]);
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        check_set_aside(text.replacen("PutService", "PutSer\u{0}ice", 1).as_bytes());
    }

    fn check_set_aside(bytes: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), bytes).unwrap();
        let (_, state) = Journal::open(folder.path()).unwrap();
        assert_eq!(ids(&state), [""; 0]);
        let aside = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().contains(".corrupt-"))
            .unwrap();
        assert_eq!(fs::read(aside).unwrap(), bytes);
    }

    #[test]
    fn two_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = Journal::open(folder.path()).unwrap();
        assert!(matches!(
            Journal::open(folder.path()),
            Err(OpenError::Locked)
        ));
        drop(held);
        Journal::open(folder.path()).unwrap();
    }

    #[test]
    fn rewriting_keeps_what_came_meanwhile_and_drops_what_went() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, mut state) = Journal::open(folder.path()).unwrap();
        let mut change = |journal: &mut Journal, change: Change| {
            let index = state.index() + 1;
            journal
                .append(index, std::slice::from_ref(&change))
                .unwrap();
            state.apply(index, vec![change]);
            journal.snapshot(&state)
        };
        for _ in 0..50 {
            change(&mut journal, put("a", 1));
        }
        change(&mut journal, put("b", 1));
        let grown = journal.length;
        let written = change(&mut journal, Change::DropService("b".to_owned()))
            .write()
            .unwrap();
        change(&mut journal, put("c", 1));
        journal.adopt(written).unwrap();
        assert!(journal.length < grown / 10);
        change(&mut journal, put("d", 1));
        drop(journal);
        let (journal, state) = Journal::open(folder.path()).unwrap();
        assert_eq!(ids(&state), ["a", "c", "d"]);
        assert_eq!(
            journal.length,
            fs::metadata(folder.path().join(FILE)).unwrap().len()
        );
    }

    #[test]
    fn a_node_id_is_a_random_uuid() {
        let id = new_node_id();
        let shape: String = id.chars().map(|c| if c == '-' { c } else { 'x' }).collect();
        assert_eq!(shape, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]));
    }
}
