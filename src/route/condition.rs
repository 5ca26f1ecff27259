//! Whether a request is as a route's conditions want it. Allocates nothing; a list of conditions
//! is gone through in turn, and ends with the first that does not hold.

use std::fmt;

use http::{HeaderMap, HeaderName, Method, header::COOKIE};
use percent_encoding::percent_decode_str;

use crate::config::{Conditions, Expected};

/// What a route sees of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// As the client sent it, with its port.
    pub host: &'r str,
    /// Raw, without the query.
    pub path: &'r str,
    /// What it is sent with.
    pub method: &'r Method,
    /// Its header fields.
    pub headers: &'r HeaderMap,
    /// Raw, without its question mark.
    pub query: Option<&'r str>,
}

/// A condition that does not hold for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'c> {
    /// Its method is none of these.
    Method(&'c [Method]),
    /// A header field.
    Header(&'c HeaderName, &'c Expected),
    /// A key of its query.
    Query(&'c str, &'c Expected),
    /// A cookie.
    Cookie(&'c str, &'c Expected),
}

impl fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, name, expected) = match *self {
            Self::Method(methods) => {
                let names: Vec<_> = methods.iter().map(Method::as_str).collect();
                return write!(f, "the method is not {}", names.join(" or "));
            }
            Self::Header(name, expected) => ("header", name.as_str(), expected),
            Self::Query(key, expected) => ("query key", key, expected),
            Self::Cookie(name, expected) => ("cookie", name, expected),
        };
        match expected {
            Expected::Present => write!(f, "there is no {what} `{name}`"),
            Expected::Absent => write!(f, "there is a {what} `{name}`"),
            Expected::Exactly(text) => write!(f, "the {what} `{name}` is not `{text}`"),
            Expected::Prefix(text) => {
                write!(f, "the {what} `{name}` does not begin with `{text}`")
            }
        }
    }
}

impl Request<'_> {
    /// Whether all of them hold.
    pub(super) fn meets(&self, conditions: &Conditions) -> bool {
        self.unmet(conditions).is_none()
    }

    /// The first that does not hold.
    pub(super) fn unmet<'c>(&self, conditions: &'c Conditions) -> Option<Unmet<'c>> {
        let Conditions {
            methods,
            headers,
            queries,
            cookies,
        } = conditions;
        if !(methods.is_empty() || methods.contains(self.method)) {
            return Some(Unmet::Method(methods));
        }
        let unmet = headers.iter().find(|(name, expected)| {
            let values = self.headers.get_all(name).iter();
            let values = values.map(|value| value.as_bytes().iter().copied());
            !holds(expected, values)
        });
        if let Some((name, expected)) = unmet {
            return Some(Unmet::Header(name, expected));
        }
        let unmet = queries.iter().find(|(key, expected)| {
            let pairs = self.query.unwrap_or_default().split('&');
            let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let named = pairs.filter(|(written, _)| decoded(written).eq(key.bytes()));
            !holds(expected, named.map(|(_, value)| decoded(value)))
        });
        if let Some((key, expected)) = unmet {
            return Some(Unmet::Query(key, expected));
        }
        let unmet = cookies.iter().find(|(name, expected)| {
            let values = self.cookies();
            let values = values.filter(|(written, _)| *written == name.as_bytes());
            !holds(expected, values.map(|(_, value)| value.iter().copied()))
        });
        unmet.map(|(name, expected)| Unmet::Cookie(name, expected))
    }

    /// Names and values (RFC 6265, 5.4). HTTP/2 allows a field for each.
    fn cookies(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fields = self.headers.get_all(COOKIE).iter();
        let pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
        pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            Some((&pair[..equals], &pair[equals + 1..]))
        })
    }
}

fn holds(expected: &Expected, mut values: impl Iterator<Item: Iterator<Item = u8>>) -> bool {
    match expected {
        Expected::Present => values.next().is_some(),
        Expected::Absent => values.next().is_none(),
        Expected::Exactly(text) => values.any(|value| value.eq(text.bytes())),
        Expected::Prefix(text) => {
            values.any(|mut value| text.bytes().all(|byte| value.next() == Some(byte)))
        }
    }
}

/// A key or value of a query, as forms encode them.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    text.split('+').enumerate().flat_map(|(n, piece)| {
        let space = (n > 0).then_some(b' ');
        space.into_iter().chain(percent_decode_str(piece))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::Config;

    /// Whether a route with these conditions takes a request.
    fn takes(
        conditions: &str,
        method: &str,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> bool {
        let text = format!("[[route]]\n{conditions}\nservice = \"a\"\n");
        let config = Config::parse(&text, std::path::Path::new(".")).unwrap();
        let mut fields = HeaderMap::new();
        for (name, value) in headers {
            fields.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let request = Request {
            host: "h",
            path: "/",
            method: &Method::from_bytes(method.as_bytes()).unwrap(),
            headers: &fields,
            query: (!query.is_empty()).then_some(query),
        };
        request.meets(config.routes[0].conditions())
    }

    #[test]
    fn one_of_the_methods_is_enough_and_its_letter_case_counts() {
        let conditions = "method = [\"GET\", \"HEAD\"]";
        assert!(takes(conditions, "HEAD", "", &[]));
        for method in ["POST", "get", "head", "GETS"] {
            assert!(!takes(conditions, method, "", &[]), "{method}");
        }
    }

    #[test]
    fn a_header_is_found_by_its_name_in_any_case_and_in_any_of_its_lines() {
        let exact = "header = { X-Canary = \"Yes\" }";
        assert!(takes(
            exact,
            "GET",
            "",
            &[("x-canary", "no"), ("x-canary", "Yes")]
        ));
        for value in ["yes", "Yes!", "", "Yes, no"] {
            assert!(!takes(exact, "GET", "", &[("x-canary", value)]), "{value}");
        }
        assert!(!takes(exact, "GET", "", &[]));
        let prefix = "header = { accept = { prefix = \"text/\" } }";
        assert!(takes(prefix, "GET", "", &[("accept", "text/html, */*")]));
        assert!(!takes(prefix, "GET", "", &[("accept", "text")]));
        let (there, absent) = ("header = { a = true }", "header = { a = false }");
        for (fields, is_there) in [(&[("a", "")][..], true), (&[], false)] {
            assert_eq!(takes(there, "GET", "", fields), is_there);
            assert_eq!(takes(absent, "GET", "", fields), !is_there);
        }
    }

    #[test]
    fn a_query_is_compared_decoded_and_any_of_its_values_counts() {
        let exact = "query = { \"a b\" = \"ü&1\" }";
        for query in [
            "a+b=%C3%BC%261",
            "x=1&a%20b=0&a%20b=%c3%bc%261",
            "&&a+b=%C3%BC%261&",
        ] {
            assert!(takes(exact, "GET", query, &[]), "{query}");
        }
        for query in [
            "",
            "a+b",
            "a+b=",
            "a+b=%C3%BC",
            "ab=%C3%BC%261",
            "a+b=%C3%BC%261%00",
        ] {
            assert!(!takes(exact, "GET", query, &[]), "{query}");
        }
        for (conditions, query, expected) in [
            ("query = { a = true }", "b&a", true),
            ("query = { a = true }", "b=a", false),
            ("query = { a = false }", "aa=1&b=a", true),
            ("query = { a = false }", "a", false),
            ("query = { a = \"\" }", "a", true),
            ("query = { a = \"\" }", "", false),
            ("query = { a = { prefix = \"1+\" } }", "a=1%2b2", true),
            ("query = { a = { prefix = \"1+\" } }", "a=1+2", false),
        ] {
            assert_eq!(
                takes(conditions, "GET", query, &[]),
                expected,
                "{conditions} {query}"
            );
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_and_its_case_counts() {
        let exact = "cookie = { s = \"1=2\" }";
        for cookies in [&["s=1=2"][..], &["a=b; s=1=2; c"], &["a=b", "ss=0;s=1=2"]] {
            let fields: Vec<_> = cookies.iter().map(|field| ("cookie", *field)).collect();
            assert!(takes(exact, "GET", "", &fields), "{cookies:?}");
        }
        for field in ["S=1=2", "s", "s=1", "xs=1=2", "a=s=1=2"] {
            assert!(!takes(exact, "GET", "", &[("cookie", field)]), "{field}");
        }
        assert!(takes(
            "cookie = { s = false }",
            "GET",
            "",
            &[("cookie", "t=1")]
        ));
        assert!(!takes(
            "cookie = { s = false }",
            "GET",
            "",
            &[("cookie", "t=1; s=")]
        ));
    }

    #[test]
    fn all_conditions_must_hold() {
        let all = "method = \"GET\"\nheader = { h = \"1\" }\nquery = { q = \"1\" }\ncookie = { c = \"1\" }";
        let fields = [("h", "1"), ("cookie", "c=1")];
        assert!(takes(all, "GET", "q=1", &fields));
        assert!(!takes(all, "PUT", "q=1", &fields));
        assert!(!takes(all, "GET", "q=2", &fields));
        assert!(!takes(all, "GET", "q=1", &fields[..1]));
        assert!(!takes(all, "GET", "q=1", &fields[1..]));
    }
}
