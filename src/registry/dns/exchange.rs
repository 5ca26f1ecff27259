//! One question to one resolver: over UDP, and over TCP where that may not have been all. Knows
//! nothing of what the answer means.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::fault::Fault;

/// What fits into one datagram on any path (DNS flag day 2020).
const PAYLOAD: u16 = 1232;

/// And what fits where that is not said (RFC 1035).
const PLAIN_PAYLOAD: u16 = 512;

/// And what is read of one that keeps to no size.
const DATAGRAM: usize = 4096;

/// How often a question is sent over UDP within its time, since a datagram may be lost. Where the
/// first half of them is not answered, the others go without EDNS.
const SENDINGS: u32 = 4;

/// What a resolver can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// With EDNS: without it Consul leaves instances out and does not say so.
    Edns,
    /// Without, as some forwarders want it: they refuse an option that they do not know, or drop
    /// the whole question.
    Plain,
}

/// What came back.
pub(super) struct Reply {
    pub(super) message: Message,
    /// In which dialect it was had.
    pub(super) dialect: Dialect,
}

/// Asks, within this time.
pub(super) async fn ask(
    resolver: SocketAddr,
    name: &Name,
    wanted: RecordType,
    dialect: Dialect,
    limit: Duration,
) -> Result<Reply, Fault> {
    let exchange = Exchange {
        resolver,
        question: question(name, wanted),
        pause: limit / SENDINGS,
    };
    timeout(limit, exchange.run(dialect))
        .await
        .unwrap_or(Err(Fault::Silent(limit)))
}

struct Exchange {
    resolver: SocketAddr,
    /// With EDNS.
    question: Message,
    /// Between two sendings.
    pause: Duration,
}

impl Exchange {
    async fn run(&self, dialect: Dialect) -> Result<Reply, Fault> {
        let (mut reply, mut length) = self.over_udp(dialect).await?;
        if reply.dialect == Dialect::Edns && knows_no_edns(&reply.message) {
            (reply, length) = self.over_udp(Dialect::Plain).await?;
        }
        let Reply { message, dialect } = &reply;
        let over_tcp = match dialect {
            Dialect::Edns if may_be_cut(message, length, PAYLOAD) => self.over_tcp(*dialect).await,
            Dialect::Plain if message.metadata.truncation => self.over_tcp(*dialect).await,
            // Consul's three of ten are short. Who knows no EDNS may not know TCP either.
            Dialect::Plain
                if message.answers.len() > 2 || may_be_cut(message, length, PLAIN_PAYLOAD) =>
            {
                match timeout(self.pause, self.over_tcp(*dialect)).await {
                    Ok(Ok(whole)) => Ok(whole),
                    _ => return Ok(reply),
                }
            }
            _ => return Ok(reply),
        };
        let dialect = reply.dialect;
        over_tcp.map(|message| Reply { message, dialect })
    }

    /// The question in a dialect, both of which have one number.
    fn encoded(&self, dialect: Dialect) -> Result<Vec<u8>, Fault> {
        let mut question = self.question.clone();
        if dialect == Dialect::Plain {
            question.edns = None;
        }
        let bytes = question.to_vec();
        bytes.map_err(|error| Fault::Connection(io::Error::other(error)))
    }

    /// Asks again after each pause, and in the end without EDNS.
    async fn over_udp(&self, dialect: Dialect) -> Result<(Reply, usize), Fault> {
        let any: SocketAddr = match self.resolver {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        // From here on the kernel takes the resolver's datagrams only, and tells of a closed port.
        socket.connect(self.resolver).await?;
        let mut sent = 0;
        loop {
            let asked = if sent < SENDINGS / 2 {
                dialect
            } else {
                Dialect::Plain
            };
            socket.send(&self.encoded(asked)?).await?;
            sent += 1;
            if let Ok(answer) = timeout(self.pause, receive(&socket, &self.question)).await {
                let (message, length) = answer?;
                // A late answer to what was asked first says so.
                let has_edns = message.edns.is_some();
                let dialect = if has_edns { Dialect::Edns } else { asked };
                return Ok((Reply { message, dialect }, length));
            }
        }
    }

    async fn over_tcp(&self, dialect: Dialect) -> Result<Message, Fault> {
        let bytes = self.encoded(dialect)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(self.resolver).await?;
        stream
            .write_all(&[&length.to_be_bytes()[..], &bytes].concat())
            .await?;
        let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut buffer).await?;
        let answer = decode(&buffer)?;
        if !answers(&answer, &self.question) || answer.metadata.truncation {
            return Err(Fault::Garbage(
                "it is another question's answer, or a part".to_owned(),
            ));
        }
        Ok(answer)
    }
}

fn question(name: &Name, wanted: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), wanted));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_version(0);
    question.set_edns(edns);
    question
}

/// Whether the question is refused as it is by those that do not know its option: they answer
/// without one (RFC 6891, 7).
fn knows_no_edns(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    answer.edns.is_none() && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
}

async fn receive(socket: &UdpSocket, question: &Message) -> Result<(Message, usize), Fault> {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = decode(&buffer[..length])?;
        // Anything else may come from anybody who knows the port.
        if answers(&answer, question) {
            return Ok((answer, length));
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Message, Fault> {
    Message::from_vec(bytes).map_err(|error| Fault::Garbage(error.to_string()))
}

/// Who refuses may leave the question out.
fn answers(answer: &Message, question: &Message) -> bool {
    let header = &answer.metadata;
    let refuses = header.response_code != ResponseCode::NoError;
    header.id == question.metadata.id
        && header.message_type == MessageType::Response
        && (answer.queries == question.queries || refuses && answer.queries.is_empty())
}

/// Whether there may be more than what came over UDP: where that is said, and where more than half
/// of the room was taken. Consul leaves out what does not fit, says nothing, and reckons as though
/// every name were written out; so the names are counted in full here, too.
fn may_be_cut(answer: &Message, length: usize, room: u16) -> bool {
    let names: usize = answer.all_sections().map(|record| record.name.len()).sum();
    let targets = answer.answers.iter().map(|record| match &record.data {
        RData::SRV(srv) => srv.target.len(),
        _ => 0,
    });
    let in_full = length + names + targets.sum::<usize>();
    answer.metadata.truncation || in_full > usize::from(room / 2)
}
