//! HTTP as bytes: a client and a backend that say exactly what a test tells them to, right or
//! wrong, and read what comes as it comes.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

use super::PATIENCE;

/// One side of a connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

/// A request or an answer.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// With its lines' ends, and the empty line.
    pub(crate) head: String,
    /// Without its framing.
    pub(crate) body: Vec<u8>,
    /// The part of a chunked body that follows the last chunk.
    pub(crate) trailers: String,
}

impl Message {
    /// The first line.
    pub(crate) fn start(&self) -> &str {
        self.head.split("\r\n").next().unwrap()
    }

    /// The number in an answer's first line.
    pub(crate) fn status(&self) -> u16 {
        self.start().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// All values of a field, in their order.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").skip(1);
        fields
            .filter_map(|line| line.split_once(": "))
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// A field that is there once at the most.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.fields(name);
        assert!(fields.len() <= 1, "{name}: {}", self.head);
        fields.first().copied()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Over a socket of any kind.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// A connection whose kernel keeps little of what is not read.
    pub(crate) async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        Self::new(socket.connect(address).await.unwrap())
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends, and reads what comes for it.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).await;
        self.message().await.expect("an answer")
    }

    /// The next head; `None` where the connection ends instead.
    pub(crate) async fn head(&mut self) -> Option<String> {
        self.try_head().await.unwrap()
    }

    /// The next message with its body, by length, chunked or, where an answer says neither, to the
    /// connection's end; `None` where the connection ends instead.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        self.try_message().await.unwrap()
    }

    /// A chunked body, and its trailers.
    pub(crate) async fn chunks(&mut self) -> (Vec<u8>, String) {
        self.try_chunks().await.unwrap()
    }

    /// So many bytes, whatever they are.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.try_bytes(count).await.unwrap()
    }

    async fn try_head(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return Ok(Some(String::from_utf8(head).unwrap()));
            }
            match self.more().await {
                Err(_) if self.read.is_empty() => return Ok(None),
                more => more?,
            }
        }
    }

    pub(crate) async fn try_message(&mut self) -> io::Result<Option<Message>> {
        let Some(head) = self.try_head().await? else {
            return Ok(None);
        };
        let mut message = Message {
            head,
            body: Vec::new(),
            trailers: String::new(),
        };
        if let Some(coding) = message.field("transfer-encoding") {
            assert_eq!(coding, "chunked", "{}", message.head);
            assert_eq!(message.field("content-length"), None, "{}", message.head);
            (message.body, message.trailers) = self.try_chunks().await?;
        } else if let Some(length) = message.field("content-length") {
            message.body = self.try_bytes(length.parse().unwrap()).await?;
        } else if message.head.starts_with("HTTP/") {
            message.body = self.rest().await?;
        }
        Ok(Some(message))
    }

    async fn try_chunks(&mut self) -> io::Result<(Vec<u8>, String)> {
        let mut body = Vec::new();
        loop {
            let size = self.try_line().await?;
            let size = usize::from_str_radix(&size, 16).unwrap();
            if size == 0 {
                break;
            }
            body.extend(self.try_bytes(size).await?);
            assert_eq!(self.try_line().await?, "");
        }
        let mut trailers = String::new();
        loop {
            let line = self.try_line().await?;
            if line.is_empty() {
                return Ok((body, trailers));
            }
            trailers += &format!("{line}\r\n");
        }
    }

    async fn try_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.read, b"\r\n") {
                let mut line: Vec<u8> = self.read.drain(..end + 2).collect();
                line.truncate(end);
                return Ok(String::from_utf8(line).unwrap());
            }
            self.more().await?;
        }
    }

    async fn try_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < count {
            self.more().await?;
        }
        Ok(self.read.drain(..count).collect())
    }

    /// All that comes until the connection ends; an error where it ends with a reset.
    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let reading = self.stream.read_to_end(&mut self.read);
        let read = timeout(PATIENCE, reading).await.expect("an end");
        let bytes = std::mem::take(&mut self.read);
        read.map(|_| bytes)
    }

    /// Whatever comes next; an error where that is the end.
    pub(crate) async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.read.is_empty() {
            self.more().await?;
        }
        Ok(std::mem::take(&mut self.read))
    }

    /// Waits for the connection's end, clean or not, before which nothing may come.
    pub(crate) async fn until_closed(&mut self) {
        let rest = self.rest().await.unwrap_or_default();
        let rest = String::from_utf8_lossy(&rest);
        assert_eq!(rest, "", "before the end");
    }

    /// Whether the connection is still there after a moment, and silent.
    pub(crate) async fn is_silent(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.read);
        timeout(Duration::from_millis(100), read).await.is_err()
    }

    /// An error where nothing comes any more.
    async fn more(&mut self) -> io::Result<()> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        match read.expect("something comes")? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

/// `body` as an answer of known length.
pub(crate) fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut answer = Vec::new();
    write!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    answer.extend_from_slice(body);
    answer
}

/// A backend that reads so much of a body and says so, waits until it may leave, and ends its
/// connection. It takes no other.
pub(crate) async fn leaves_after(
    length: usize,
    may_leave: Arc<Semaphore>,
) -> (SocketAddr, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let has_read = Arc::new(Semaphore::new(0));
    let told = Arc::clone(&has_read);
    tokio::spawn(async move {
        let mut wire = Wire::new(listener.accept().await.unwrap().0);
        drop(listener);
        wire.head().await.unwrap();
        wire.bytes(length).await;
        told.add_permits(1);
        let _permit = may_leave.acquire().await;
    });
    (address, has_read)
}

/// A backend in bytes, gone when it is dropped.
pub(crate) struct RawBackend {
    address: SocketAddr,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Message>>,
    connections: AtomicUsize,
}

/// What follows an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    Close,
    /// A close that throws away what is on its way.
    Reset,
}

impl RawBackend {
    /// Reads each request to its end, and answers with these bytes.
    pub(crate) async fn saying(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        let seen = Arc::<Seen>::default();
        let notes = Arc::clone(&seen);
        let serve = move |mut wire: Wire| {
            let (answer, notes) = (Arc::clone(&answer), Arc::clone(&notes));
            async move {
                // A request that is cut short is the end as well, and is not noted.
                while let Ok(Some(request)) = wire.try_message().await {
                    notes.requests.lock().unwrap().push(request);
                    // The other side may be gone, which is its own affair.
                    let _ = wire.stream.write_all(&answer).await;
                    match then {
                        Then::Keep => continue,
                        Then::Close => return,
                        Then::Reset => {
                            // So that what was written has gone out.
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            return wire.stream.set_zero_linger().unwrap();
                        }
                    }
                }
            }
        };
        Self::start(seen, serve).await
    }

    /// Serves each connection as `serve` does.
    pub(crate) async fn serving<F>(serve: impl Fn(Wire) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(Arc::default(), serve).await
    }

    async fn start<F>(seen: Arc<Seen>, serve: impl Fn(Wire) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                notes.connections.fetch_add(1, Relaxed);
                tokio::spawn(serve(Wire::new(stream)));
            }
        });
        Self {
            address,
            seen,
            accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that it has read to their end.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The connections that it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Relaxed)
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
