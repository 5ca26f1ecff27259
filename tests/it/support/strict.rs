//! Messages read strictly from a connection, with what came of those that broke off.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

/// Why a message did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection ended in good order.
    Ended,
    /// It broke.
    Error(io::ErrorKind),
    /// It is not what HTTP allows.
    Malformed(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Error(error.kind())
    }
}

/// A head, line by line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, Broken> {
        let malformed = |why: &str| {
            let text = String::from_utf8_lossy(bytes);
            Broken::Malformed(format!("{why}: {text:?}"))
        };
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("not text"))?;
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in std::iter::once(start.as_str()).chain(lines) {
            if line.contains(|byte: char| byte.is_ascii_control() && byte != '\t') {
                return Err(malformed("a control byte in a head"));
            }
            if std::ptr::eq(line, start.as_str()) {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("no field"))?;
            let is_token =
                |byte: char| byte.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(byte);
            if name.is_empty() || !name.chars().all(is_token) {
                return Err(malformed("no field's name"));
            }
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Self { start, fields })
    }

    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter();
        fields
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn value<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.values(name).next()
    }

    pub(crate) fn says(&self, name: &str, token: &str) -> bool {
        self.values(name).any(|value| {
            value
                .split(',')
                .any(|one| one.trim().eq_ignore_ascii_case(token))
        })
    }
}

/// How the body behind a head is framed, as far as its fields say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framed {
    Length(u64),
    Chunked,
    Unsaid,
}

impl Head {
    /// An error where it can be read in two ways.
    pub(crate) fn framed(&self) -> Result<Framed, Broken> {
        let lengths: Vec<_> = self.values("content-length").collect();
        let codings: Vec<_> = self.values("transfer-encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(Framed::Unsaid),
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framed::Chunked),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                let parsed = length.parse().map(Framed::Length);
                parsed.map_err(|_| Broken::Malformed(format!("a length of {length:?}")))
            }
            both => Err(Broken::Malformed(format!("framed by {both:?}"))),
        }
    }
}

/// The reading side of a connection.
pub(crate) struct Reader<R> {
    source: R,
    pub(crate) unread: Vec<u8>,
    /// Ends the reading after so many bytes more.
    pub(crate) left: Option<usize>,
    pub(crate) sips: bool,
    /// How long it waits for the next piece before that is an error.
    pub(crate) patience: Option<Duration>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            unread: Vec::new(),
            left: None,
            sips: false,
            patience: None,
        }
    }

    /// The connection, to write to.
    pub(crate) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    async fn more(&mut self) -> Result<(), Broken> {
        let mut piece = [0; 16 * 1024];
        let mut most = if self.sips { 700 } else { piece.len() };
        if self.sips {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if let Some(left) = self.left {
            most = most.min(left);
        }
        if most == 0 {
            return Err(Broken::Error(io::ErrorKind::Interrupted));
        }
        let reading = self.source.read(&mut piece[..most]);
        let count = match self.patience {
            None => reading.await?,
            Some(patience) => timeout(patience, reading)
                .await
                .map_err(io::Error::from)??,
        };
        if count == 0 {
            return Err(Broken::Ended);
        }
        self.left = self.left.map(|left| left - count);
        self.unread.extend_from_slice(&piece[..count]);
        Ok(())
    }

    /// The next head; `None` where the connection ends in good order before it.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>, Broken> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Head::parse(&head).map(Some);
            }
            if self.unread.len() > 200_000 {
                return Err(Broken::Malformed("an endless head".to_owned()));
            }
            match self.more().await {
                Err(Broken::Ended) if self.unread.is_empty() => return Ok(None),
                more => more?,
            }
        }
    }

    /// So many bytes, in pieces as they come.
    pub(crate) async fn exact(&mut self, mut count: u64, body: &mut Vec<u8>) -> Result<(), Broken> {
        while count > 0 {
            if self.unread.is_empty() {
                self.more().await?;
            }
            let take = self
                .unread
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            body.extend(self.unread.drain(..take));
            count -= take as u64;
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.unread) {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                let ended = line.strip_suffix("\r\n").map(str::to_owned);
                return ended.ok_or_else(|| Broken::Malformed(format!("a line {line:?}")));
            }
            self.more().await?;
        }
    }

    /// A chunked body, and its trailers.
    pub(crate) async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<Head, Broken> {
        loop {
            let line = self.line().await?;
            let malformed = || Broken::Malformed(format!("a chunk's size {line:?}"));
            let digits = line.split(';').next().unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            let size = u64::from_str_radix(digits, 16).map_err(|_| malformed())?;
            if size == 0 {
                break;
            }
            self.exact(size, body).await?;
            let end = self.line().await?;
            if !end.is_empty() {
                return Err(Broken::Malformed(format!("{end:?} behind a chunk")));
            }
        }
        let mut trailers = "trailers\r\n".to_owned();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Head::parse(trailers.as_bytes());
            }
            trailers += &line;
            trailers += "\r\n";
        }
    }

    /// All until the connection ends in good order.
    pub(crate) async fn rest(&mut self, body: &mut Vec<u8>) -> Result<(), Broken> {
        loop {
            body.append(&mut self.unread);
            match self.more().await {
                Err(Broken::Ended) => return Ok(()),
                more => more?,
            }
        }
    }
}
