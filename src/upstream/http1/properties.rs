//! What must hold of any message: a request is read as it was written, and an answer is the same however
//! its bytes come. An answer that was changed on the way is the same, or none.

use bytes::BytesMut;
use http::{HeaderMap, Method};
use proptest::{
    arbitrary::any,
    collection::vec,
    option, prop_assert, prop_assert_eq, prop_oneof, proptest,
    sample::{Index, select},
    strategy::{Just, Strategy},
    test_runner::Config as ProptestConfig,
};

use super::{
    chunked::Decoder,
    framing::Framing,
    head::{self, Asked, BodyLength, Parsed},
    request_head::write_head,
};
use crate::{
    instance::Address,
    upstream::{
        AnswerHead,
        head::{Fields, Head},
        limits::HeadLimits,
        piece::Piece,
    },
};

const LIMITS: HeadLimits = HeadLimits {
    fields: 100,
    bytes: 65_536,
};

/// Fields of which none says how a body is framed.
type Names = Vec<(String, String)>;

fn fields() -> impl Strategy<Value = Names> {
    let name = "x-[a-z0-9!#$%&'*+.^_`|~-]{0,12}";
    // Without white space at its ends, which is none of it.
    let value = "([!-~]([ -~\\t]{0,20}[!-~])?)?";
    vec((name, value), 0..8)
}

/// A request as it is written.
#[derive(Clone, Debug)]
struct Request {
    method: Method,
    target: String,
    host: Option<String>,
    fields: Names,
    spare: HeaderMap,
}

impl Head for Request {
    fn method(&self) -> &Method {
        &self.method
    }

    fn target(&self) -> [&str; 2] {
        self.target.split_at(self.target.len() / 2).into()
    }

    fn host(&self) -> Option<&[u8]> {
        self.host.as_deref().map(str::as_bytes)
    }

    fn fields(&self, out: &mut Fields<'_>) {
        for (name, value) in &self.fields {
            out.push(name, value.as_bytes());
        }
    }

    fn spare_map(&mut self) -> &mut HeaderMap {
        &mut self.spare
    }
}

fn request() -> impl Strategy<Value = Request> {
    let method = "[A-Z]{1,10}".prop_map(|name| Method::from_bytes(name.as_bytes()).unwrap());
    let host = option::of("[a-z0-9.-]{1,20}(:[0-9]{1,5})?");
    (
        method,
        "/[A-Za-z0-9._~/?&=%+;:@,!$'()*-]{0,40}",
        host,
        fields(),
    )
        .prop_map(|(method, target, host, fields)| Request {
            method,
            target,
            host,
            fields,
            spare: HeaderMap::new(),
        })
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::None),
        proptest::num::u64::ANY.prop_map(Framing::Length),
        Just(Framing::Chunked),
    ]
}

/// What a reader that is not ours finds in a request's head.
fn read(wire: &[u8]) -> Option<(String, String, Names)> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut slots);
    let read = parsed.parse(wire).ok()?;
    // Not a byte of it belongs to what follows, and none is missing.
    (read == httparse::Status::Complete(wire.len())).then_some(())?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let fields = parsed.headers.iter();
    let fields = fields.map(|field| (field.name.to_owned(), text(field.value)));
    Some((
        parsed.method?.to_owned(),
        parsed.path?.to_owned(),
        fields.collect(),
    ))
}

/// An answer as an endpoint writes it.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    fields: Names,
    /// The body, in the chunks that it is sent in; one piece where its length is said.
    chunks: Vec<Vec<u8>>,
    chunked: bool,
}

fn answer() -> impl Strategy<Value = Answer> {
    let status = select(vec![200_u16, 201, 206, 302, 404, 500, 503, 599]);
    let chunks = vec(vec(proptest::num::u8::ANY, 1..40), 0..5);
    (status, fields(), chunks, proptest::bool::ANY).prop_map(|(status, fields, chunks, chunked)| {
        Answer {
            status,
            fields,
            chunks,
            chunked,
        }
    })
}

/// A way to write the same otherwise, or what some would take for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    None,
    /// Names in capitals.
    Capitals,
    /// White space around values.
    Space,
    /// Sizes of chunks with zeros before them.
    Zeros,
    Extension,
    /// A line of the head, or of a chunk's size, that ends in a bare LF.
    BareLf,
    SpaceBeforeColon,
    Folded,
    /// A second length, by one larger.
    SecondLength,
    /// A length beside the chunked coding, or the coding beside a length.
    BothFramings,
    PlusBeforeLength,
    Nul,
}

const MUTATIONS: [Mutation; 12] = [
    Mutation::None,
    Mutation::Capitals,
    Mutation::Space,
    Mutation::Zeros,
    Mutation::Extension,
    Mutation::BareLf,
    Mutation::SpaceBeforeColon,
    Mutation::Folded,
    Mutation::SecondLength,
    Mutation::BothFramings,
    Mutation::PlusBeforeLength,
    Mutation::Nul,
];

impl Mutation {
    /// Whether it is the same message by HTTP's rules.
    fn is_neutral(self) -> bool {
        matches!(
            self,
            Self::None | Self::Capitals | Self::Space | Self::Zeros | Self::Extension
        )
    }
}

impl Answer {
    fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// The lines of its fields, of which `place` says the one that the mutation is at.
    fn lines(&self, mutation: Mutation, place: &Index) -> Vec<String> {
        let length = self.body().len();
        let plus = match mutation {
            Mutation::PlusBeforeLength => "+",
            _ => "",
        };
        let both = [
            format!("content-length: {plus}{length}"),
            "transfer-encoding: chunked".to_owned(),
        ];
        let framing = usize::from(self.chunked);
        let mut lines = vec![both[framing].clone()];
        let fields = self.fields.iter();
        lines.extend(fields.map(|(name, value)| format!("{name}: {value}")));
        match mutation {
            Mutation::SecondLength => lines.push(format!("content-length: {}", length + 1)),
            Mutation::BothFramings => lines.push(both[1 - framing].clone()),
            _ => {}
        }
        let chosen = place.index(lines.len());
        let line = &mut lines[chosen];
        match mutation {
            Mutation::Capitals => {
                let end = line.find(':').unwrap();
                line[..end].make_ascii_uppercase();
            }
            Mutation::Space => *line = line.replacen(": ", ":\t  ", 1) + " \t",
            Mutation::SpaceBeforeColon => *line = line.replacen(':', " :", 1),
            Mutation::Folded => *line = line.replacen(": ", ":\r\n ", 1),
            Mutation::Nul => line.push('\0'),
            _ => {}
        }
        lines
    }

    /// Its bytes.
    fn wire(&self, mutation: Mutation, place: &Index) -> Vec<u8> {
        let lines = self.lines(mutation, place);
        let chosen = place.index(lines.len());
        let mut wire = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (number, line) in lines.iter().enumerate() {
            let bare = mutation == Mutation::BareLf && number == chosen;
            wire += line;
            wire += if bare { "\n" } else { "\r\n" };
        }
        let mut wire = (wire + "\r\n").into_bytes();
        if !self.chunked {
            wire.extend(self.body());
            return wire;
        }
        for chunk in &self.chunks {
            let (zeros, extension) = match mutation {
                Mutation::Zeros => ("00", ""),
                Mutation::Extension => ("", ";a=\"b c\""),
                _ => ("", ""),
            };
            wire.extend(format!("{zeros}{:x}{extension}\r\n", chunk.len()).into_bytes());
            wire.extend(chunk);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\n\r\n");
        wire
    }
}

/// What is read of an answer whose bytes come in these pieces: its status, its fields and its body.
/// `None` where it is refused, or is not whole.
fn received(wire: &[u8], cuts: &[Index]) -> Option<(u16, HeaderMap, Vec<u8>)> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(wire.len());
    let mut read = 0;
    let mut pieces = cuts.into_iter().map(|cut| {
        let piece = &wire[read..cut];
        read = cut;
        piece
    });
    let (mut buffer, mut head) = (BytesMut::new(), AnswerHead::default());
    let length = loop {
        buffer.extend_from_slice(pieces.next()?);
        if buffer.is_empty() {
            continue;
        }
        let asked = Asked::default();
        match head::parse(&mut buffer, &asked, LIMITS, &mut head, None).ok()? {
            Parsed::Partial => {}
            Parsed::Interim(_) => return None,
            Parsed::Complete(length, _) => break length,
        }
    };
    let mut body = Vec::new();
    match length {
        BodyLength::Known(length) => {
            pieces.for_each(|piece| buffer.extend_from_slice(piece));
            body.extend_from_slice(buffer.get(..usize::try_from(length).ok()?)?);
        }
        BodyLength::UntilClose | BodyLength::Switched => return None,
        BodyLength::Chunked => {
            let mut decoder = Decoder::Size;
            loop {
                match decoder.decode(&mut buffer, LIMITS.fields).ok()? {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::End(_) => break,
                    Piece::Partial => buffer.extend_from_slice(pieces.next()?),
                }
            }
        }
    }
    Some((head.status.as_u16(), head.headers, body))
}

proptest! {
    // What fails is told, and belongs into a test of its own.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_read_as_it_was_written(
        request in request(),
        framing in framing(),
        expects in proptest::bool::ANY,
    ) {
        let endpoint = Address::new("10.0.0.7", 8080).unwrap();
        let mut wire = Vec::new();
        write_head(&mut wire, &request, framing, expects, None, &endpoint);
        let (method, target, fields) = read(&wire).expect("it is sound");
        prop_assert_eq!(method, request.method.as_str());
        prop_assert_eq!(target, request.target);
        let host = request.host.unwrap_or_else(|| endpoint.to_string());
        let mut expected = vec![("host".to_owned(), host)];
        expected.extend(request.fields);
        prop_assert!(fields.starts_with(&expected), "{:?} {:?}", fields, expected);
        let has = |name: &str| fields[expected.len()..].iter().any(|field| field.0 == name);
        prop_assert_eq!(has("transfer-encoding"), framing == Framing::Chunked);
        prop_assert!(!has("content-length") || framing != Framing::Chunked);
        prop_assert_eq!(has("expect"), expects);
    }

    #[test]
    fn an_answer_is_the_same_however_its_bytes_come(
        answer in answer(),
        place in any::<Index>(),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let wire = answer.wire(Mutation::None, &place);
        let whole = received(&wire, &[]).expect("it is sound");
        prop_assert_eq!((whole.0, &whole.2), (answer.status, &answer.body()));
        prop_assert_eq!(received(&wire, &cuts), Some(whole));
    }

    #[test]
    fn an_answer_that_was_changed_is_the_same_or_none(
        answer in answer(),
        mutation in select(MUTATIONS.to_vec()),
        place in any::<Index>(),
        cuts in vec(any::<Index>(), 0..4),
    ) {
        let sent = received(&answer.wire(Mutation::None, &place), &[]);
        let read = received(&answer.wire(mutation, &place), &cuts);
        if mutation.is_neutral() || read.is_some() {
            prop_assert_eq!(read, sent, "{:?}", mutation);
        }
    }
}
