//! What a `[[route]]` asks of a request beside its host and path: `method`, `header`, `query` and
//! `cookie`. Knows nothing of how a request is matched.

use std::fmt;

use http::{HeaderName, HeaderValue, Method};
use toml::de::DeValue;

use crate::config::{
    Conditions, Expected,
    document::{field::Field, report::Wrong, table::Table, value},
};

/// Reads them. Equal ones are read as equal, whatever their order in the file.
pub(crate) fn read(table: &mut Table<'_>) -> Conditions {
    let methods = table.take("method");
    if let Some(field) = methods.as_ref().filter(|field| field.is_empty_array()) {
        let wrong = Wrong::new("no method is named, so that no request is taken");
        field.wrong(wrong.suggest("name one, or leave the key out"));
    }
    let mut methods: Vec<Method> = methods
        .iter()
        .flat_map(|field| field.one_or_more("\"GET\""))
        .filter_map(|field| field.parse("a method", "\"GET\"", method))
        .collect();
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    Conditions {
        methods,
        headers: each(table, "header", header_name, header_value),
        queries: each(table, "query", filled, any_value),
        cookies: each(table, "cookie", cookie_name, any_value),
    }
}

impl Conditions {
    /// Whether a request that meets the others surely meets these. Of several values with one name
    /// one that fits is enough, for both.
    pub(crate) fn are_implied_by(&self, others: &Self) -> bool {
        let is_one = |method| self.methods.contains(method);
        (self.methods.is_empty() || !others.methods.is_empty() && others.methods.iter().all(is_one))
            && all_implied(&self.headers, &others.headers)
            && all_implied(&self.queries, &others.queries)
            && all_implied(&self.cookies, &others.cookies)
    }
}

fn all_implied<N: PartialEq>(these: &[(N, Expected)], others: &[(N, Expected)]) -> bool {
    these.iter().all(|(name, expected)| {
        let mut same = others.iter().filter(|(other, _)| other == name);
        same.any(|(_, other)| expected.is_implied_by(other))
    })
}

impl fmt::Display for Conditions {
    /// In words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |what: &str, name: &str, expected: &Expected| match expected {
            Expected::Present => format!("{what} `{name}`"),
            Expected::Absent => format!("no {what} `{name}`"),
            Expected::Exactly(text) => format!("{what} `{name}` = `{text}`"),
            Expected::Prefix(text) => format!("{what} `{name}` beginning with `{text}`"),
        };
        let methods: Vec<_> = self.methods.iter().map(Method::as_str).collect();
        let methods = (!methods.is_empty()).then(|| format!("method {}", methods.join(" or ")));
        let headers = self.headers.iter();
        let headers = headers.map(|(name, expected)| named("header", name.as_str(), expected));
        let queries = self.queries.iter();
        let queries = queries.map(|(key, expected)| named("query key", key, expected));
        let cookies = self.cookies.iter();
        let cookies = cookies.map(|(name, expected)| named("cookie", name, expected));
        let all = methods
            .into_iter()
            .chain(headers)
            .chain(queries)
            .chain(cookies);
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}

impl Expected {
    fn is_implied_by(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, other) => *other != Self::Absent,
            (Self::Prefix(start), Self::Exactly(text) | Self::Prefix(text)) => {
                text.starts_with(start)
            }
            _ => self == other,
        }
    }
}

fn method(text: &str) -> Result<Method, Wrong> {
    let wrong = |suggestion: String| {
        Err(Wrong::new(format!("`{text}` is not a method that is forwarded")).suggest(suggestion))
    };
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) | Err(_) => wrong("write one like \"GET\"".to_owned()),
        // Methods are compared as they are written (RFC 9110, 9.1), and no client writes them in
        // small letters.
        Ok(_) if text != upper => wrong(format!("did you mean \"{upper}\"?")),
        Ok(method) => Ok(method),
    }
}

/// The entries of a table, in the order of their names.
fn each<N: AsRef<str> + PartialEq>(
    table: &mut Table<'_>,
    key: &'static str,
    name: fn(&str) -> Result<N, Wrong>,
    value: fn(&str) -> Result<(), Wrong>,
) -> Vec<(N, Expected)> {
    let Some(field) = table.take(key) else {
        return Vec::new();
    };
    let mut conditions: Vec<(N, Expected)> = Vec::new();
    for (written, field) in field.members() {
        let expected = expected(&field, value);
        match name(written) {
            Err(wrong) => field.wrong(wrong),
            Ok(name) if conditions.iter().any(|(known, _)| *known == name) => {
                field.wrong(Wrong::new(format!("`{}` is here twice", name.as_ref())));
            }
            Ok(name) => conditions.extend(expected.map(|expected| (name, expected))),
        }
    }
    conditions.sort_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
    conditions
}

fn expected(field: &Field<'_>, check: fn(&str) -> Result<(), Wrong>) -> Option<Expected> {
    match field.value.get_ref() {
        DeValue::Boolean(true) => Some(Expected::Present),
        DeValue::Boolean(false) => Some(Expected::Absent),
        DeValue::Table(_) => field.within(|table| {
            let prefix = table.required("prefix", "\"…\"")?;
            // What follows may begin after a space: `Bearer `.
            let checked = |text: &str| {
                check(text.trim_end())?;
                value::filled(text)
            };
            let text = prefix.parse("a text", "\"…\"", checked);
            text.map(Expected::Prefix)
        }),
        _ => {
            let wanted = "a text, true, false or `{ prefix = \"…\" }`";
            let checked = |text: &str| check(text).map(|()| text.to_owned());
            let text = field.parse(wanted, "\"…\"", checked);
            text.map(Expected::Exactly)
        }
    }
}

fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        own @ ("host" | "cookie") => Err(Wrong::new(format!(
            "a route has a key of its own for `{text}`"
        ))
        .suggest(format!("write `{own} = …` in the route itself"))),
        lower => HeaderName::from_bytes(lower.as_bytes()).map_err(|_| {
            Wrong::new(format!("`{text}` is not a header's name"))
                .suggest("write one like `x-canary`")
        }),
    }
}

fn header_value(text: &str) -> Result<(), Wrong> {
    let fits = HeaderValue::from_str(text).is_ok() && text.trim() == text;
    fits.then_some(()).ok_or_else(|| {
        Wrong::new(format!("no header's value is {text:?}"))
            .suggest("leave out what is not printed, and spaces at both ends")
    })
}

fn cookie_name(text: &str) -> Result<String, Wrong> {
    // A token (RFC 6265, 4.1.1), as the name of a header is.
    if HeaderName::from_bytes(text.as_bytes()).is_err() {
        return Err(Wrong::new(format!("`{text}` is not a cookie's name"))
            .suggest("write one like `session`"));
    }
    Ok(text.to_owned())
}

fn filled(text: &str) -> Result<String, Wrong> {
    value::filled(text)
}

fn any_value(_: &str) -> Result<(), Wrong> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{config, errors};

    #[test]
    fn a_condition_is_a_value_a_prefix_or_whether_it_is_there() {
        let text = r#"
            [[route]]
            method = ["POST", "GET", "POST"]
            header = { X-Canary = "1", accept = { prefix = "text/" }, authorization = false }
            query = { v = "ü 2", debug = true }
            cookie = { Session = "" }
            service = "cart"
        "#;
        let config = config(text);
        let conditions = config.routes[0].conditions();
        assert_eq!(conditions.methods, [Method::GET, Method::POST]);
        let headers = conditions.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        assert_eq!(
            headers,
            [
                ("accept", &Expected::Prefix("text/".into())),
                ("authorization", &Expected::Absent),
                ("x-canary", &Expected::Exactly("1".into())),
            ]
        );
        assert_eq!(
            conditions.queries,
            [
                ("debug".to_owned(), Expected::Present),
                ("v".to_owned(), Expected::Exactly("ü 2".into())),
            ]
        );
        let session = ("Session".to_owned(), Expected::Exactly(String::new()));
        assert_eq!(conditions.cookies, [session]);
    }

    #[test]
    fn one_method_needs_no_array_and_without_conditions_there_are_none() {
        let text = "[[route]]\nmethod = \"PURGE\"\nservice = \"a\"\n[[route]]\nservice = \"a\"\n";
        let routes = config(text).routes;
        assert_eq!(routes[0].conditions().methods[0].as_str(), "PURGE");
        assert!(!routes[0].conditions().is_empty() && routes[1].conditions().is_empty());
    }

    #[test]
    fn routes_with_the_same_conditions_take_the_same_requests_however_they_are_written() {
        let text = "[[route]]\nmethod = [\"GET\", \"PUT\"]\nheader = { X-A = \"1\", b = true }\nservice = \"a\"\n\
            [[route]]\nmethod = [\"PUT\", \"GET\"]\nheader = { B = true, x-a = \"1\" }\nservice = \"b\"\n\
            [[route]]\nmethod = [\"PUT\", \"GET\"]\nheader = { B = true, x-a = \"2\" }\nservice = \"c\"\n";
        assert_eq!(
            errors(text),
            [
                "5:1 route: the route of line 1 takes the same requests; give one of them another host, path or condition"
            ]
        );
    }

    #[test]
    fn at_least_one_method_is_named_if_any_is_asked_for() {
        assert_eq!(
            errors("[[route]]\nmethod = []\nservice = \"a\"\n"),
            [
                "2:1 route.method: no method is named, so that no request is taken; name one, or leave the key out"
            ]
        );
    }

    #[test]
    fn every_wrong_condition_is_named() {
        let text = "[[route]]\n\
            method = [\"get\", \"TRACE\", 7, \"A B\"]\n\
            header = { Host = \"a\", \"x y\" = \"1\", x-n = 1, X-A = \"1\", x-a = true, b = \" 1\", c = { prefix = \"\" } }\n\
            query = { \"\" = true, v = { sufix = \"1\" } }\n\
            cookie = [\"session\"]\n\
            service = \"cart\"\n";
        let found = errors(text);
        let expected = [
            "2:11 route.method: `get` is not a method that is forwarded; did you mean \"GET\"?",
            "2:18 route.method: `TRACE` is not a method that is forwarded; write one like \"GET\"",
            "2:27 route.method: expected a method, found the number 7; write `\"GET\"`",
            "2:30 route.method: `A B` is not a method that is forwarded; write one like \"GET\"",
            "3:12 route.header.Host: a route has a key of its own for `Host`; write `host = …` in the route itself",
            "3:24 route.header.x y: `x y` is not a header's name; write one like `x-canary`",
            "3:37 route.header.x-n: expected a text, true, false or `{ prefix = \"…\" }`, found the number 1; write `x-n = \"…\"`",
            "3:57 route.header.x-a: `x-a` is here twice",
            "3:69 route.header.b: no header's value is \" 1\"; leave out what is not printed, and spaces at both ends",
            "3:85 route.header.c.prefix: this text is empty; fill it in, or leave the key out",
            "4:11 route.query.: this text is empty; fill it in, or leave the key out",
            "4:22 route.query.v.prefix: the key `prefix` is missing; write `prefix = \"…\"`",
            "4:28 route.query.v.sufix: unknown key `sufix`; it may be `prefix`",
            "5:1 route.cookie: expected a table, found an array",
        ];
        assert_eq!(found, expected, "{found:#?}");
    }
}
