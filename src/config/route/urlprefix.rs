//! fabio's tags: `urlprefix-HOST/PATH OPTION…` on an instance makes a route to it. Owns what a tag
//! means; knows nothing of where it stood.

use super::pattern;
use crate::config::{HostHeader, HostPattern, PathPattern, Segment};

const PREFIX: &str = "urlprefix-";

/// What one tag asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct TagRoute {
    /// Which hosts it takes.
    pub host: HostPattern,
    /// The path's prefix; no template.
    pub path: PathPattern,
    /// Bytes that are taken off the path before forwarding: `strip=/cart` is 5.
    pub strip: usize,
    /// The `Host` that the instance sees.
    pub host_header: HostHeader,
    /// Whether the instance is called over TLS.
    pub tls: bool,
    /// The part of the route's requests that this instance gets, above 0 and up to 1; `None` for
    /// its share of the rest.
    pub weight: Option<f64>,
    /// Other tags that the instance must have.
    pub tags: Vec<String>,
}

impl TagRoute {
    /// Reads a tag; `None` where it is none of fabio's.
    ///
    /// # Errors
    /// Why the tag makes no route.
    pub fn parse(tag: &str) -> Option<Result<Self, String>> {
        tag.strip_prefix(PREFIX).map(read)
    }
}

fn read(text: &str) -> Result<TagRoute, String> {
    let mut words = text.split_whitespace();
    let place = words.next().ok_or("it names neither host nor path")?;
    let (host, path) = match place.find('/') {
        Some(slash) => place.split_at(slash),
        None if place.starts_with(':') => return Err("TCP routes are not supported".to_owned()),
        None => return Err(format!("`{place}` has no path: write `{place}/`")),
    };
    let host = match host {
        "" => HostPattern::Any,
        host if host.contains('{') => return Err(format!("`{host}` is not a host")),
        host => pattern::host(host).map_err(|wrong| wrong.message)?,
    };
    let path = pattern::path(path).map_err(|wrong| wrong.message)?;
    if path.segments.contains(&Segment::Service) {
        return Err("a tag's path has no template".to_owned());
    }
    let mut route = TagRoute {
        host,
        path,
        strip: 0,
        host_header: HostHeader::Client,
        tls: false,
        weight: None,
        tags: Vec::new(),
    };
    words.try_for_each(|option| heed(&mut route, option))?;
    Ok(route)
}

fn heed(route: &mut TagRoute, option: &str) -> Result<(), String> {
    let (key, value) = option
        .split_once('=')
        .ok_or_else(|| format!("`{option}` is not an option"))?;
    match (key, value) {
        ("strip", path) => route.strip = strip(&route.path, path)?,
        ("host", "dst") => route.host_header = HostHeader::Endpoint,
        ("proto", "http") => route.tls = false,
        ("proto", "https") => route.tls = true,
        ("weight", weight) => {
            let weight = weight.parse().ok();
            let weight = weight.filter(|weight| *weight > 0.0 && *weight <= 1.0);
            route.weight =
                Some(weight.ok_or_else(|| format!("`{option}` is not between 0 and 1"))?);
        }
        ("tags", tags) => {
            let tags = tags.split(',').filter(|tag| !tag.is_empty());
            route.tags = tags.map(str::to_owned).collect();
        }
        _ => return Err(format!("the option `{option}` is not supported")),
    }
    Ok(())
}

/// How much of the matched prefix is taken off. Only the beginning of the prefix can be: a request
/// that is routed has it, and no other path is surely there.
fn strip(prefix: &PathPattern, path: &str) -> Result<usize, String> {
    let strip = pattern::path(path).map_err(|wrong| wrong.message)?;
    if !prefix.segments.starts_with(&strip.segments) {
        return Err(format!("`strip={path}` is not the beginning of its path"));
    }
    let literal = |segment: &Segment| match segment {
        Segment::Literal(text) => 1 + text.len(),
        Segment::Service => 0,
    };
    Ok(strip.segments.iter().map(literal).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(tag: &str) -> TagRoute {
        TagRoute::parse(tag).unwrap().unwrap()
    }

    fn literals(path: &PathPattern) -> Vec<Segment> {
        path.segments.clone()
    }

    #[test]
    fn host_and_path_are_split_at_the_first_slash() {
        let both = route("urlprefix-Shop.example.com/cart/items");
        assert_eq!(both.host, HostPattern::Exact("shop.example.com".into()));
        let segments = ["cart", "items"].map(|text| Segment::Literal(text.into()));
        assert_eq!(literals(&both.path), segments);
        assert_eq!(route("urlprefix-/").host, HostPattern::Any);
        assert_eq!(route("urlprefix-/").path.segments, []);
        let wild = route("urlprefix-*.example.com/");
        assert_eq!(wild.host, HostPattern::Wildcard("example.com".into()));
    }

    #[test]
    fn options_are_heeded() {
        let route =
            route("urlprefix-/api/v1 strip=/api proto=https weight=0.25 host=dst tags=blue,green");
        assert_eq!((route.strip, route.tls), (4, true));
        assert_eq!(route.weight, Some(0.25));
        assert_eq!(route.host_header, HostHeader::Endpoint);
        assert_eq!(route.tags, ["blue", "green"]);
    }

    #[test]
    fn other_tags_are_nobodys_business() {
        assert!(TagRoute::parse("v2").is_none());
        assert!(TagRoute::parse("urlprefix").is_none());
    }

    #[test]
    fn a_bad_tag_says_why() {
        for (tag, reason) in [
            ("urlprefix-", "neither host nor path"),
            ("urlprefix-:8080", "TCP"),
            ("urlprefix-shop.example.com", "has no path"),
            ("urlprefix-a b/", "has no path"),
            ("urlprefix-a_*/x", "is not a host"),
            ("urlprefix-{service}.x/", "is not a host"),
            ("urlprefix-/{service}", "no template"),
            ("urlprefix-/a//b", "empty segment"),
            ("urlprefix-/a strip=/b", "not the beginning"),
            ("urlprefix-/a weight=2", "between 0 and 1"),
            ("urlprefix-/a weight=x", "between 0 and 1"),
            ("urlprefix-/a proto=tcp", "not supported"),
            ("urlprefix-/a auth=x", "not supported"),
            ("urlprefix-/a strip", "not an option"),
        ] {
            let error = TagRoute::parse(tag).unwrap().unwrap_err();
            assert!(error.contains(reason), "{tag}: {error}");
        }
    }
}
