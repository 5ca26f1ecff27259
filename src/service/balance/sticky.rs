//! The endpoint that the request's cookie names. The cookie is set by an answer whose endpoint it
//! does not name: the client's first, and that of another endpoint where the named one is gone,
//! passed over or was tried.

use std::fmt::Write as _;

use http::HeaderValue;

use super::{
    candidates::Candidates,
    digest::digest,
    key::{self, RequestInfo},
    tokens,
};
use crate::{
    config::Sticky,
    service::{Endpoint, EndpointId},
};

/// The cookie of a service.
#[derive(Debug)]
pub struct Cookie {
    name: String,
    /// What stands behind the value.
    attributes: String,
}

impl Cookie {
    pub(super) fn new(service: &str, settings: &Sticky) -> Self {
        // Services on one host would else take each other's, and set them anew each time.
        let own = || Self::name_for("callboard", service);
        let mut attributes = format!("; Path={}", settings.path);
        if let Some(age) = settings.max_age {
            let _ = write!(attributes, "; Max-Age={}", age.as_secs().max(1));
        }
        if settings.secure {
            attributes += "; Secure";
        }
        if settings.http_only {
            attributes += "; HttpOnly";
        }
        attributes += "; SameSite=";
        attributes += settings.same_site.as_str();
        Self {
            name: settings.cookie.clone().unwrap_or_else(own),
            attributes,
        }
    }

    /// A cookie's name that begins like this, and is no other service's or route's.
    pub(in crate::service) fn name_for(beginning: &str, whose: &str) -> String {
        format!("{beginning}-{:08x}", digest(0, whose.as_bytes()) >> 32)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The token of the request's cookie, whether it names an endpoint or not.
    pub(super) fn token(&self, asked: &dyn RequestInfo) -> Option<u64> {
        let digits: &[u8; 16] = key::cookie(asked.headers(), &self.name)?.try_into().ok()?;
        digits.iter().try_fold(0, |token, digit| {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some(token << 4 | u64::from(digit))
        })
    }

    /// `Set-Cookie`, for this endpoint (RFC 6265 4.1).
    pub(super) fn set(&self, endpoint: &EndpointId) -> HeaderValue {
        let Self { name, attributes } = self;
        let text = format!("{name}={:016x}{attributes}", tokens::token(endpoint));
        text.try_into()
            .expect("name and path are of characters that may stand there")
    }
}

pub(super) fn pick(
    token: Option<u64>,
    among: &Candidates<'_, impl Fn(&Endpoint) -> bool>,
) -> Option<usize> {
    let place = among.snapshot.tables.tokens.place(token?)?;
    among.takes_asked(place).then_some(place)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{config::SameSite, instance::Address};

    fn settings() -> Sticky {
        Sticky {
            cookie: Some("shop".into()),
            ..Sticky::default()
        }
    }

    fn id(host: &str) -> EndpointId {
        EndpointId {
            instance: "cart-1".into(),
            address: Address::new(host, 80).unwrap(),
        }
    }

    fn sent(line: &str) -> key::testing::Request {
        let request = http::Request::get("/").header("cookie", line);
        key::testing::Request(request.body(()).unwrap(), None)
    }

    #[test]
    fn what_is_set_comes_back_as_who_it_was_set_for() {
        let cookie = Cookie::new("cart", &settings());
        let set = cookie.set(&id("10.0.0.1"));
        let set = set.to_str().unwrap();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        assert!(!set.contains("10.0.0.1") && !set.contains("cart"), "{set}");
        let pair = set.split(';').next().unwrap();
        let token = cookie.token(&sent(&format!("a=b; {pair}")));
        assert_eq!(token, Some(tokens::token(&id("10.0.0.1"))));
        assert_ne!(token, Some(tokens::token(&id("10.0.0.2"))));
    }

    #[test]
    fn every_setting_stands_in_it() {
        let settings = Sticky {
            path: "/cart".into(),
            max_age: Some(Duration::from_secs(3600)),
            secure: true,
            http_only: false,
            same_site: SameSite::None,
            ..settings()
        };
        let set = Cookie::new("cart", &settings).set(&id("10.0.0.1"));
        let attributes = "; Path=/cart; Max-Age=3600; Secure; SameSite=None";
        assert!(set.to_str().unwrap().ends_with(attributes), "{set:?}");
    }

    #[test]
    fn what_nobody_has_set_names_nobody() {
        let cookie = Cookie::new("cart", &settings());
        for line in [
            "shop=",
            "shop=+123456789abcdef",
            "shop=0123",
            "ship=0123456789abcdef",
            "shop=zz23456789abcdef",
        ] {
            assert_eq!(cookie.token(&sent(line)), None, "{line}");
        }
        assert!(cookie.token(&sent("shop=0123456789abcdef")).is_some());
    }

    #[test]
    fn services_have_cookies_of_their_own() {
        let settings = Sticky {
            cookie: None,
            ..settings()
        };
        let name = |service| Cookie::new(service, &settings).name().to_owned();
        assert_ne!(name("cart"), name("hat"));
        assert_eq!(name("cart"), name("cart"));
        assert!(name("cart").starts_with("callboard-"));
    }
}
