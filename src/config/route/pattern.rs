//! What a route's host, path and service may look like. Knows nothing of how a request is
//! matched, but holds to the paths that are routed at all.

use std::{fmt, net::Ipv6Addr};

use crate::config::{
    HostPattern, PathPattern, Segment,
    document::{report::Wrong, value},
};

/// What stands in a host, a path and a `service` for a service's name.
pub(crate) const TEMPLATE: &str = "{service}";

/// The name of a service, or the template and nothing else.
pub(crate) fn service(text: &str) -> Result<String, Wrong> {
    if text != TEMPLATE && text.contains(['{', '}']) {
        return Err(Wrong::new(format!("`{text}` is not a service's name"))
            .suggest("write a name, or \"{service}\" and nothing else"));
    }
    name(text)
}

/// The name of a service, and no template.
pub(crate) fn service_name(text: &str) -> Result<String, Wrong> {
    if text.contains(['{', '}']) {
        return Err(Wrong::new(format!("`{text}` is not a service's name"))
            .suggest("write the name of one service"));
    }
    name(text)
}

fn name(text: &str) -> Result<String, Wrong> {
    if let Some((_, address)) = text.split_once("://") {
        let wrong = Wrong::new(format!("`{text}` is a URL, and a service is a name"));
        return Err(wrong.suggest(format!(
            "write `endpoints = [\"{address}\"]` in a table `[service.NAME]`, and NAME here"
        )));
    }
    if text.contains(char::is_control) {
        return Err(Wrong::new(
            "no name holds a line's end or another control character",
        ));
    }
    value::filled(text)
}

/// A host, its first label perhaps a wildcard or the template.
pub(crate) fn host(text: &str) -> Result<HostPattern, Wrong> {
    let lower = text.to_ascii_lowercase();
    if lower == "*" {
        return Err(Wrong::new("`*` is not a host").suggest("leave `host` out to take any"));
    }
    if let Some(rest) = lower.strip_prefix("*.") {
        return host_name(text, rest).map(HostPattern::Wildcard);
    }
    if let Some(rest) = lower.strip_prefix("{service}.") {
        return host_name(text, rest).map(HostPattern::Template);
    }
    host_name(text, &lower).map(HostPattern::Exact)
}

/// `name` is what of `text`, in lower case, must be a host's name or address.
fn host_name(text: &str, name: &str) -> Result<String, Wrong> {
    let wrong = Wrong::new(format!("`{text}` is not a host"));
    if let Some((_, rest)) = name.split_once("://") {
        let bare = rest.split('/').next().unwrap_or(rest);
        return Err(wrong.suggest(format!("leave out the scheme: \"{bare}\"")));
    }
    if name.contains(['{', '}']) {
        return Err(wrong.suggest("its first label may be the template: \"{service}.internal\""));
    }
    if name.contains('*') {
        return Err(wrong.suggest("its first label may be a wildcard: \"*.example.com\""));
    }
    let bracketed = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if bracketed.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()) {
        return Ok(name.to_owned());
    }
    if let Some((bare, port)) = name.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(wrong.suggest(format!("leave out the port: \"{bare}\"")));
    }
    if !name.is_ascii() {
        return Err(wrong.suggest("write the name as it goes over the wire, with `xn--`"));
    }
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(wrong.suggest("write a name like \"shop.example.com\""));
    }
    Ok(name.to_owned())
}

fn is_label(label: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len()) && label.bytes().all(fits)
}

/// A path, one of its segments perhaps the template.
pub(crate) fn path(text: &str) -> Result<PathPattern, Wrong> {
    let segments = segments(text)?
        .into_iter()
        .map(|segment| match segment {
            TEMPLATE => Ok(Segment::Service),
            literal => check_literal(literal).map(|()| Segment::Literal(literal.to_owned())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let templates = segments.iter().filter(|s| **s == Segment::Service);
    if templates.count() > 1 {
        return Err(Wrong::new("`{service}` stands in this path more than once")
            .suggest("leave it in one place"));
    }
    Ok(PathPattern { segments })
}

impl fmt::Display for HostPattern {
    /// As the file has it; nothing for any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Template(parent) => write!(f, "{TEMPLATE}.{parent}"),
        }
    }
}

impl fmt::Display for PathPattern {
    /// As the file has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return f.write_str("/");
        }
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Service => write!(f, "/{TEMPLATE}"),
        })
    }
}

/// A path without a template, as it stands in a request.
pub(crate) fn literal_path(text: &str) -> Result<String, Wrong> {
    segments(text)?.into_iter().try_for_each(check_literal)?;
    Ok(text.to_owned())
}

/// A path's segments; a slash at its end makes none.
fn segments(text: &str) -> Result<Vec<&str>, Wrong> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(
            Wrong::new(format!("the path `{text}` does not begin with a slash"))
                .suggest(format!("did you mean \"/{text}\"?")),
        );
    };
    if let Some(end) = text.find(['?', '#']) {
        return Err(Wrong::new("a path is matched without its query")
            .suggest(format!("write \"{}\"", &text[..end])));
    }
    if text.contains("//") {
        return Err(
            Wrong::new(format!("the path `{text}` has an empty segment"))
                .suggest("no path of a route has a `//`"),
        );
    }
    Ok(rest.split_terminator('/').collect())
}

/// Checks that a segment can stand in the path of a request that is routed.
fn check_literal(segment: &str) -> Result<(), Wrong> {
    const REFUSED: [&str; 4] = ["%2e", "%2f", "%5c", "\\"];
    let wrong = Wrong::new(format!("`{segment}` is not a segment of a path"));
    if matches!(segment, "*" | "**") {
        return Err(wrong.suggest("leave it out: a path takes everything below it"));
    }
    if is_pattern(segment) {
        let wrong = Wrong::new(format!(
            "`{segment}` is a regular expression or a wildcard, and a path is compared as it stands"
        ));
        return Err(wrong.suggest("write the part before it: a path takes everything below it"));
    }
    if segment.contains(['{', '}']) {
        return Err(wrong.suggest("a segment may be \"{service}\" and nothing else"));
    }
    if matches!(segment, "." | "..") {
        return Err(wrong.suggest("requests with `/./` or `/../` are not routed"));
    }
    let lower = segment.to_ascii_lowercase();
    if REFUSED.iter().any(|refused| lower.contains(refused)) {
        return Err(wrong
            .suggest("a route's path has no backslash, and no escaped dot, slash or backslash"));
    }
    let is_escape = |tail: &str| {
        let digits = tail.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !segment.split('%').skip(1).all(is_escape) {
        return Err(
            wrong.suggest("after a `%` stand two hexadecimal digits; `%` itself is \"%25\"")
        );
    }
    if !segment.bytes().all(|byte| byte == b'%' || is_plain(byte)) {
        return Err(wrong.suggest(format!("did you mean \"{}\"?", escape(segment))));
    }
    Ok(())
}

/// Whether a segment is written in a language of patterns, of which there is none here.
fn is_pattern(segment: &str) -> bool {
    const SIGNS: [&str; 9] = [".*", ".+", "^", "[", "]", "|", "(?", "\\d", "\\w"];
    SIGNS.iter().any(|sign| segment.contains(sign))
        || segment.ends_with(['$', '*'])
        || segment.starts_with('*')
}

/// Whether a byte stands for itself in a path (`pchar` of RFC 3986, 3.3).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

fn escape(segment: &str) -> String {
    segment
        .bytes()
        .map(|byte| match byte {
            b'%' => "%".to_owned(),
            byte if is_plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_a_wildcard_or_a_template_in_lower_case() {
        for (text, expected) in [
            (
                "Shop.Example.com",
                HostPattern::Exact("shop.example.com".into()),
            ),
            ("localhost", HostPattern::Exact("localhost".into())),
            ("10.0.0.1", HostPattern::Exact("10.0.0.1".into())),
            ("[::1]", HostPattern::Exact("[::1]".into())),
            ("*.example.com", HostPattern::Wildcard("example.com".into())),
            (
                "{service}.internal",
                HostPattern::Template("internal".into()),
            ),
        ] {
            assert_eq!(host(text), Ok(expected), "{text}");
        }
        for (text, hint) in [
            ("", "write a name"),
            ("*", "leave `host` out"),
            ("*.", "write a name"),
            ("a.*.com", "wildcard"),
            ("**.com", "wildcard"),
            ("{service}", "template"),
            ("a.{service}.com", "template"),
            ("{name}.internal", "template"),
            ("example.com:80", "\"example.com\""),
            ("[::1]:80", "\"[::1]\""),
            ("http://example.com/x", "\"example.com\""),
            ("example.com.", "write a name"),
            ("exa mple.com", "write a name"),
            ("bücher.example", "xn--"),
        ] {
            let suggestion = host(text).unwrap_err().suggestion.unwrap();
            assert!(suggestion.contains(hint), "{text}: {suggestion}");
        }
    }

    #[test]
    fn a_path_is_held_as_its_segments() {
        let literal = |text: &str| Segment::Literal(text.to_owned());
        for (text, expected) in [
            ("/", vec![]),
            ("/cart", vec![literal("cart")]),
            ("/cart/", vec![literal("cart")]),
            (
                "/api/{service}/v1",
                vec![literal("api"), Segment::Service, literal("v1")],
            ),
            ("/a%20b/~x;y=1", vec![literal("a%20b"), literal("~x;y=1")]),
            ("/%252e", vec![literal("%252e")]),
        ] {
            assert_eq!(path(text).map(|path| path.segments), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_path_that_no_routed_request_has_is_refused() {
        for (text, hint) in [
            ("", "\"/\""),
            ("cart", "\"/cart\""),
            ("/cart?x=1", "\"/cart\""),
            ("/cart#x", "\"/cart\""),
            ("//", "`//`"),
            ("/a//b", "`//`"),
            ("/a//", "`//`"),
            ("/a/../b", "/../"),
            ("/.", "/./"),
            ("/a%2Eb", "escaped dot"),
            ("/a%2f", "escaped dot"),
            ("/%5C", "escaped dot"),
            ("/a\\b", "backslash"),
            ("/100%", "%25"),
            ("/%zz", "%25"),
            ("/a b", "\"a%20b\""),
            ("/é", "\"%C3%A9\""),
            ("/api/*", "leave it out"),
            ("/cart/.*", "before it"),
            ("/cart/[0-9]+", "before it"),
            ("/(a|b)", "before it"),
            ("/cart$", "before it"),
            ("/v\\d", "before it"),
            ("/*.html", "before it"),
            ("/{name}", "{service}"),
            ("/x-{service}", "{service}"),
            ("/{service}/{service}", "one place"),
        ] {
            let suggestion = path(text).unwrap_err().suggestion.unwrap();
            assert!(suggestion.contains(hint), "{text}: {suggestion}");
        }
    }

    #[test]
    fn a_template_is_the_whole_of_a_service() {
        assert!(service("cart").is_ok() && service("{service}").is_ok());
        for text in ["", " ", "x-{service}", "{name}", "http://cart:80/", "a\nb"] {
            assert!(service(text).is_err(), "{text}");
            assert!(service_name(text).is_err(), "{text}");
        }
    }
}
