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

/// And what is read of one that keeps to no size.
const DATAGRAM: usize = 4096;

/// Asks, within this time.
pub(super) async fn ask(
    resolver: SocketAddr,
    name: &Name,
    wanted: RecordType,
    limit: Duration,
) -> Result<Message, Fault> {
    let question = question(name, wanted);
    let asking = async {
        let (answer, length) = over_udp(resolver, &question, limit / 4).await?;
        if may_be_cut(&answer, length) {
            return over_tcp(resolver, &question).await;
        }
        Ok(answer)
    };
    timeout(limit, asking)
        .await
        .unwrap_or(Err(Fault::Silent(limit)))
}

/// Always with EDNS: without it Consul leaves instances out and does not say so.
fn question(name: &Name, wanted: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), wanted));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_version(0);
    question.set_edns(edns);
    question
}

/// Asks again after each `pause`, since a datagram may be lost.
async fn over_udp(
    resolver: SocketAddr,
    question: &Message,
    pause: Duration,
) -> Result<(Message, usize), Fault> {
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let bytes = encode(question)?;
    let socket = UdpSocket::bind(any).await?;
    // From here on the kernel takes the resolver's datagrams only, and tells of a closed port.
    socket.connect(resolver).await?;
    loop {
        socket.send(&bytes).await?;
        if let Ok(answer) = timeout(pause, receive(&socket, question)).await {
            return answer;
        }
    }
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

async fn over_tcp(resolver: SocketAddr, question: &Message) -> Result<Message, Fault> {
    let bytes = encode(question)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    stream
        .write_all(&[&length.to_be_bytes()[..], &bytes].concat())
        .await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = decode(&buffer)?;
    if !answers(&answer, question) || answer.metadata.truncation {
        return Err(Fault::Garbage(
            "it is another question's answer, or a part".to_owned(),
        ));
    }
    Ok(answer)
}

fn encode(question: &Message) -> Result<Vec<u8>, Fault> {
    question
        .to_vec()
        .map_err(|error| Fault::Connection(io::Error::other(error)))
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
fn may_be_cut(answer: &Message, length: usize) -> bool {
    let names: usize = answer.all_sections().map(|record| record.name.len()).sum();
    let targets = answer.answers.iter().map(|record| match &record.data {
        RData::SRV(srv) => srv.target.len(),
        _ => 0,
    });
    let in_full = length + names + targets.sum::<usize>();
    answer.metadata.truncation || in_full > usize::from(PAYLOAD / 2)
}
