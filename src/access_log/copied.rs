//! What a line has of a request's head: copied when the head comes, since the values themselves would
//! hold the buffer of the whole head to the end of the answer.

use std::{borrow::Cow, collections::BTreeSet, ops::Range};

use http::{HeaderName, header, request::Parts, uri::PathAndQuery};
use percent_encoding::percent_decode_str;

use crate::config;

/// Of a field's value no more is copied than this.
const MOST: usize = 1024;
/// Nor of the target than this: a longer one is refused, unless the file allows it.
const MOST_OF_A_TARGET: usize = 8 * 1024;

/// What stands for the value of a parameter that is left out.
const MASK: &str = "***";

/// Which fields of a head are copied.
#[derive(Debug)]
pub(super) struct Wanted(Vec<HeaderName>);

impl Wanted {
    /// Those that a format shows.
    pub(super) fn by(format: &config::LineFormat) -> Self {
        Self(format.fields().filter_map(name_of).collect())
    }

    fn place(&self, name: &HeaderName) -> Option<usize> {
        self.0.iter().position(|wanted| wanted == name)
    }
}

/// The field of a head that is shown by this one.
pub(super) fn name_of(field: &config::LogField) -> Option<HeaderName> {
    match field {
        config::LogField::UserAgent => Some(header::USER_AGENT),
        config::LogField::Referer => Some(header::REFERER),
        config::LogField::RequestId => Some(HeaderName::from_static("x-request-id")),
        config::LogField::TraceId => Some(HeaderName::from_static("traceparent")),
        config::LogField::Header(name) => Some(name.clone()),
        _ => None,
    }
}

/// See the module.
#[derive(Debug)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct Copied {
    text: String,
    host: Option<Range<usize>>,
    path: Range<usize>,
    /// In the order of [`Wanted`]; empty for one that is not there.
    fields: Vec<Range<usize>>,
}

impl Copied {
    /// Of this request.
    pub(super) fn of(request: &Parts, wanted: &Wanted, log: &config::AccessLog) -> Self {
        let mut text = String::new();
        let named = request
            .uri
            .authority()
            .map(|named| named.as_str().as_bytes());
        let field = request.headers.get(header::HOST);
        let host = named.or_else(|| field.map(|value| value.as_bytes()));
        // What stands before the last `@` may be a password.
        let host = host.and_then(|host| host.rsplit(|byte| *byte == b'@').next());
        let host = host.filter(|host| is_shaped_like_a_host(host));
        let host = host.map(|host| add(&mut text, host));
        let start = text.len();
        let target = request.uri.path_and_query();
        text.push_str(target.map_or("/", PathAndQuery::as_str));
        cut(&mut text, start + MOST_OF_A_TARGET);
        leave_out(&mut text, start, log);
        let path = start..text.len();
        let fields = wanted.0.iter().map(|name| {
            let value = request.headers.get(name);
            let value = value.map_or(&b""[..], |value| value.as_bytes());
            let start = text.len();
            add(&mut text, value);
            if *name == header::REFERER {
                // A target, too: that of the page before.
                leave_out(&mut text, start, log);
            }
            start..text.len()
        });
        let fields = fields.collect();
        Self {
            text,
            host,
            path,
            fields,
        }
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.host.clone().map(|host| &self.text[host])
    }

    pub(super) fn path(&self) -> &str {
        &self.text[self.path.clone()]
    }

    /// What was copied of this field; `None` where the head has none, or an empty one.
    pub(super) fn field(&self, wanted: &Wanted, name: &HeaderName) -> Option<&str> {
        let place = self.fields.get(wanted.place(name)?)?;
        Some(&self.text[place.clone()]).filter(|text| !text.is_empty())
    }
}

/// Adds a value, as much as is copied of one.
fn add(text: &mut String, value: &[u8]) -> Range<usize> {
    let start = text.len();
    text.push_str(&String::from_utf8_lossy(&value[..value.len().min(MOST)]));
    cut(text, start + MOST);
    start..text.len()
}

/// Leaves no more than so many bytes.
fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}

/// A host and port, whatever they are: no white space that would make two columns of one.
fn is_shaped_like_a_host(host: &[u8]) -> bool {
    host.iter().all(u8::is_ascii_graphic)
}

/// Takes from the target that begins there what no log should have.
fn leave_out(text: &mut String, start: usize, log: &config::AccessLog) {
    let Some(query) = text[start..].find('?').map(|at| start + at + 1) else {
        return;
    };
    if !log.query {
        text.truncate(query - 1);
    } else if !log.masked.is_empty() {
        let masked = masked(&text[query..], &log.masked);
        if let Cow::Owned(masked) = masked {
            text.truncate(query);
            text.push_str(&masked);
        }
    }
}

fn masked<'q>(query: &'q str, names: &BTreeSet<String>) -> Cow<'q, str> {
    let is_masked = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        names.contains(&*percent_decode_str(name).decode_utf8_lossy())
    };
    if !query.split('&').any(is_masked) {
        return Cow::Borrowed(query);
    }
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_masked(pair) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    });
    Cow::Owned(pairs.collect::<Vec<_>>().join("&"))
}
