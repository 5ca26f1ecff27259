//! `rate` of a `[[route]]`: how many requests a client may make. Knows nothing of how they are
//! counted.

use std::time::Duration;

use crate::config::{
    HashKey,
    document::{report::Wrong, table::Table},
    service::balance,
};

/// How many requests each client may make, on average and at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// So many in each `per`.
    pub requests: u32,
    /// The time that `requests` are for.
    pub per: Duration,
    /// So many at once, where nothing was asked for a while.
    pub burst: u32,
    /// Whose requests are counted together; `None` for all of the route's. Those without the key
    /// are counted by their client's address.
    pub by: Option<HashKey>,
    /// So many leading bits of an IPv6 address are one client.
    pub ipv6_prefix: u8,
}

/// The longest that a bucket may take to fill.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a route's `rate`.
pub(crate) fn read(table: &mut Table<'_>) -> Option<Rate> {
    table.take("rate")?;
    table.within("rate", |table| {
        let requests = table.required("requests", "100");
        let requests = requests.and_then(|field| field.count(1..=1_000_000, 100));
        let per = table.duration("per", Duration::from_secs(1));
        let burst = table.count("burst", 1..=1_000_000, requests.unwrap_or(1));
        let by = match table.take("by") {
            Some(field) if field.is_text_of("route") => None,
            Some(_) => balance::key_of(table, "by"),
            None => Some(HashKey::Client),
        };
        if per > Duration::from_secs(24 * 3600) {
            table.wrong(Wrong::new("a rate is for a day at the most"));
        }
        let ipv6_prefix = table.count("ipv6_prefix", 1..=128, 64);
        let requests = requests?;
        if per * burst / requests > YEAR {
            table.wrong(
                Wrong::new(format!(
                    "a burst of {burst} takes longer than a year to flow in"
                ))
                .suggest("write a smaller `burst`, or a shorter `per`"),
            );
        }
        Some(Rate {
            requests,
            per,
            burst,
            by,
            ipv6_prefix: u8::try_from(ipv6_prefix).unwrap_or(128),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{config, errors};

    fn rate(text: &str) -> Option<Rate> {
        let text = format!("[[route]]\nservice = \"cart\"\n{text}\n");
        config(&text).routes[0].rate.clone()
    }

    #[test]
    fn a_rate_is_by_the_clients_address_and_for_a_second_where_nothing_else_is_said() {
        let expected = Rate {
            requests: 10,
            per: Duration::from_secs(1),
            burst: 10,
            by: Some(HashKey::Client),
            ipv6_prefix: 64,
        };
        assert_eq!(rate("rate = { requests = 10 }"), Some(expected));
        assert_eq!(rate(""), None);
        let by = |by: &str| {
            rate(&format!("rate = {{ requests = 1, by = {by} }}"))
                .unwrap()
                .by
        };
        assert_eq!(by("\"route\""), None);
        let header = HashKey::Header("x-api-key".parse().unwrap());
        assert_eq!(by("{ header = \"x-api-key\" }"), Some(header));
        assert_eq!(
            by("{ cookie = \"id\" }"),
            Some(HashKey::Cookie("id".into()))
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |rate: &str| {
            let text = format!("[[route]]\nservice = \"cart\"\nrate = {rate}\n");
            errors(&text).remove(0)
        };
        assert!(wrong("{ per = \"1s\" }").contains("the key `requests` is missing"));
        assert!(wrong("{ requests = 0 }").contains("write a number from 1 to 1000000"));
        assert!(wrong("{ requests = 1, by = \"clinet\" }").contains("did you mean \"client\"?"));
        assert!(wrong("{ requests = 1, per = \"25h\" }").contains("a day at the most"));
        let year = "a burst of 366 takes longer than a year to flow in";
        assert!(wrong("{ requests = 1, per = \"24h\", burst = 366 }").contains(year));
        assert!(rate("rate = { requests = 1, per = \"24h\", burst = 365 }").is_some());
        assert!(wrong("{ requests = 1, ipv6_prefix = 129 }").contains("from 1 to 128"));
    }
}
