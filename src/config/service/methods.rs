//! `retry.methods`: which requests may be sent again though they may have been processed. Within
//! what is idempotent, whatever the file says.

use http::Method;

use crate::config::document::{report::Wrong, table::Table, value};

/// Idempotent methods (RFC 9110, 9.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods(u8);

const IDEMPOTENT: [&str; 5] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"];

impl Methods {
    /// All of them.
    pub const IDEMPOTENT: Self = Self(0b1_1111);

    /// Whether the method is one of them.
    pub fn contains(self, method: &Method) -> bool {
        let bit = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::OPTIONS => 2,
            Method::PUT => 3,
            Method::DELETE => 4,
            _ => return false,
        };
        self.0 & 1 << bit != 0
    }
}

/// Reads them; `None` where the key is left out.
pub(crate) fn read(table: &mut Table<'_>) -> Option<Methods> {
    let field = table.take("methods")?;
    let named = field.one_or_more("\"GET\"");
    let bits = named.iter().filter_map(|field| {
        field.parse("a method", "\"GET\"", |text| {
            let at = IDEMPOTENT.iter().position(|method| *method == text);
            at.map(|at| 1 << at).ok_or_else(|| no_method(text))
        })
    });
    Some(Methods(bits.fold(0, |all, bit: u8| all | bit)))
}

fn no_method(text: &str) -> Wrong {
    let upper = text.to_ascii_uppercase();
    if IDEMPOTENT.contains(&&*upper) {
        let wrong = Wrong::new(format!("`{text}` is no method"));
        return wrong.suggest(format!("did you mean \"{upper}\"?"));
    }
    Wrong::new(format!(
        "`{text}` is never repeated where it may have been processed, for its effect could come twice"
    ))
    .suggest(format!("it may be {}", value::list(&IDEMPOTENT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{config, errors};

    const CART: &str = "[[route]]\nservice = \"cart\"\n";

    fn may(methods: Methods) -> Vec<&'static str> {
        let may = |name: &&'static str| methods.contains(&name.parse().unwrap());
        IDEMPOTENT.into_iter().filter(may).collect()
    }

    #[test]
    fn by_default_what_is_idempotent_may_be_repeated_and_a_table_says_less() {
        let text = format!(
            "[defaults]\nretry.methods = [\"GET\", \"HEAD\"]\n{CART}retry.methods = \"GET\"\n\
             [[route]]\npath = \"/a\"\nservice = \"cart\"\nretry.methods = []\n"
        );
        let config = config(&text);
        let cart = config.services["cart"].retry;
        assert_eq!(may(cart.methods), ["GET", "HEAD"]);
        let routes = config.routes.iter();
        let routes: Vec<_> = routes
            .map(|route| may(route.overrides().retry(cart).methods))
            .collect();
        assert_eq!(routes, [vec!["GET"], vec![]]);
        assert_eq!(may(Methods::IDEMPOTENT), IDEMPOTENT);
        assert!(!Methods::IDEMPOTENT.contains(&Method::POST));
    }

    #[test]
    fn what_is_not_idempotent_is_refused() {
        let text = format!("{CART}retry.methods = [\"POST\", \"get\"]\n");
        let found = errors(&text);
        assert!(found[0].contains("`POST` is never repeated"), "{found:?}");
        assert!(found[1].ends_with("did you mean \"GET\"?"), "{found:?}");
    }
}
