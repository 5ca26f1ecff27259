//! A corpus of messages as bytes: `tests/corpus/requests.toml` and `answers.toml`. In their texts, `\r`,
//! `\n`, `\t`, `\\` and `\xNN` stand for bytes, and `{TEXT*N}` for a text N times. Each message is sent
//! in one piece, and byte by byte.

mod answers;
mod requests;

use std::collections::BTreeMap;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::strict::Head;

/// The bytes that a text of the corpus stands for.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '{']) {
        bytes.extend(rest[..at].bytes());
        let (special, behind) = rest[at..].split_at(1);
        rest = behind;
        if special == "{" {
            let (repeated, behind) = rest.split_once('}').unwrap();
            let (repeated, times) = repeated.rsplit_once('*').unwrap();
            bytes.extend(self::bytes(repeated).repeat(times.parse().unwrap()));
            rest = behind;
            continue;
        }
        let (kind, behind) = rest.split_at(1);
        rest = behind;
        bytes.push(match kind {
            "r" => b'\r',
            "n" => b'\n',
            "t" => b'\t',
            "\\" => b'\\',
            "x" => {
                let (digits, behind) = rest.split_at(2);
                rest = behind;
                u8::from_str_radix(digits, 16).unwrap()
            }
            other => panic!("\\{other} in {text}"),
        });
    }
    bytes.extend(rest.bytes());
    bytes
}

fn text(text: &str) -> String {
    String::from_utf8(bytes(text)).unwrap()
}

/// Sends what the other side may have had enough of before its end.
async fn send(stream: &mut TcpStream, bytes: &[u8], in_pieces: bool) {
    let size = if in_pieces { 1 } else { bytes.len().max(1) };
    for piece in bytes.chunks(size) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// The values of each field that a head has, by its name in small letters.
fn fields(head: &Head) -> BTreeMap<String, Vec<&str>> {
    let mut fields = BTreeMap::<_, Vec<&str>>::new();
    for (name, value) in &head.fields {
        let values = fields.entry(name.to_ascii_lowercase()).or_default();
        values.push(value);
    }
    fields
}

/// The same of `name: value`.
fn wanted(fields: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut wanted = BTreeMap::<_, Vec<String>>::new();
    for field in fields {
        let (name, value) = field.split_once(": ").expect("a name and a value");
        let values = wanted.entry(name.to_owned()).or_default();
        values.push(text(value));
    }
    wanted
}

/// What is wrong with a head that should have these fields, with all values that there are of a name,
/// and lack those. A value that ends with `…` may go on.
fn differs(head: &Head, has: &[String], lacks: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let there = fields(head);
    for (name, values) in wanted(has) {
        let came = there.get(&name).map_or(&[][..], Vec::as_slice);
        let is = |(came, wants): (&&str, &String)| match wants.strip_suffix('…') {
            Some(begin) => came.starts_with(begin),
            None => came == wants,
        };
        if came.len() != values.len() || !came.iter().zip(&values).all(is) {
            wrong.push(format!("{name} is {came:?}"));
        }
    }
    for name in lacks {
        if let Some(values) = there.get(name) {
            wrong.push(format!("{name} is {values:?}"));
        }
    }
    wrong
}

/// What is wrong with trailers that should be these and no others.
fn other_trailers(came: &Head, wants: Option<&[String]>) -> Option<String> {
    let (came, wants) = (fields(came), wanted(wants.unwrap_or_default()));
    let same = came.keys().eq(wants.keys()) && came.values().flatten().eq(wants.values().flatten());
    (!same).then(|| format!("the trailers are {came:?}"))
}
