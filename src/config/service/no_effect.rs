//! Keys that have no effect beside what else holds, such as `retry.on` beside `attempts = 1`. They
//! are refused where they are written, and only where no table that stands before that one may give
//! them an effect.

use crate::config::{
    Eject, Limits, Retry, Timeouts,
    document::{field::Field, report::Wrong, table::Table},
};

/// What is written in any of the tables that stand before one.
#[derive(Default)]
pub(crate) struct Before {
    attempts: bool,
    response: bool,
    room: bool,
    longest_ejection: bool,
    most_ejections: bool,
}

impl Before {
    /// What is written in the tables that stand before `[defaults]`.
    pub(crate) fn the_defaults(top: &Table<'_>) -> Self {
        Self::any_of(top, &["service", "route"])
    }

    /// What is written in the tables that stand before those of services.
    pub(crate) fn services(top: &Table<'_>) -> Self {
        Self::any_of(top, &["route"])
    }

    fn any_of(top: &Table<'_>, tables: &[&str]) -> Self {
        let any = |within, key| tables.iter().any(|table| top.any_has(table, within, key));
        Self {
            attempts: any("retry", "attempts"),
            response: any("timeout", "response"),
            room: any("limits", "concurrent") || any("limits", "per_endpoint"),
            longest_ejection: any("eject", "max_time"),
            most_ejections: any("eject", "max_percent"),
        }
    }
}

/// What a table says of when another attempt follows.
pub(crate) struct Follows<'a> {
    on: Option<Field<'a>>,
    try_timeout: Option<Field<'a>>,
}

impl<'a> Follows<'a> {
    /// What a table `retry` says.
    pub(crate) fn of(retry: &mut Table<'a>) -> Self {
        Self {
            on: retry.take("on").filter(|field| !field.is_empty_array()),
            try_timeout: retry.take("try_timeout").filter(|field| !field.is_false()),
        }
    }

    /// Notes what is moot with each of the values that may hold, of which there is at least one.
    pub(crate) fn check(&self, holding: &[(Retry, Timeouts)], before: &Before) {
        let Self { on, try_timeout } = self;
        if !before.attempts && holding.iter().all(|(retry, _)| retry.attempts == 1) {
            for field in on.iter().chain(try_timeout) {
                let wrong = Wrong::new("no attempt follows the first, which is the only one");
                field.wrong(wrong.suggest("leave it out, or write `attempts = 2` or more"));
            }
            return;
        }
        let is_late = |(retry, timeout): &(Retry, Timeouts)| {
            let try_timeout = retry.try_timeout;
            try_timeout.is_some_and(|limit| limit >= timeout.response)
        };
        let longest = holding.iter().map(|(_, timeout)| timeout.response).max();
        if let (Some(field), Some(longest)) = (try_timeout, longest)
            && !before.response
            && holding.iter().all(is_late)
        {
            let wrong = format!("by then it is over by `timeout.response`, which is {longest:?}");
            field.wrong(Wrong::new(wrong).suggest("make it shorter, or leave it out"));
        }
    }
}

/// Notes where a table `limits` says who waits for room, and there is no end of it.
pub(crate) fn check_limits(table: &mut Table<'_>, limits: &Limits, before: &Before) {
    // `false` is off, for now perhaps, and no mistake.
    let is_said = table.has("concurrent") || table.has("per_endpoint");
    let has_limit = limits.concurrent.or(limits.per_endpoint).is_some();
    if is_said || has_limit || before.room {
        return;
    }
    for key in ["pending", "wait"] {
        if let Some(field) = table.take(key) {
            let wrong = Wrong::new("nobody waits where there is no limit");
            field.wrong(wrong.suggest("add `concurrent` or `per_endpoint`, or leave it out"));
        }
    }
}

/// Notes where a table `eject` has a first ejection that is longer than the longest, or says for what
/// endpoints are ejected where none ever is.
pub(crate) fn check_ejection(table: &mut Table<'_>, eject: &Eject, before: &Before) {
    let Eject { time, max_time, .. } = eject;
    if eject.max_percent == 0 && !before.most_ejections {
        let statuses = table.take("statuses");
        let statuses = statuses.filter(|field| !field.is_empty_array());
        let answers = table.take("answers").filter(|field| !field.is_false());
        for field in statuses.iter().chain(&answers) {
            let wrong = Wrong::new("no endpoint is ejected, since `max_percent` is 0");
            field.wrong(wrong.suggest("leave it out, or write `max_percent = 1` or more"));
        }
    }
    if time > max_time
        && !before.longest_ejection
        && let Some(field) = table.take("time")
    {
        let wrong = Wrong::new(format!(
            "no ejection is longer than `max_time`, which is {max_time:?}"
        ));
        field.wrong(wrong.suggest("make it shorter, or `max_time` longer"));
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{config, errors};

    const CART: &str = "[[route]]\npath = \"/a\"\nservice = \"cart\"\n";

    #[test]
    fn what_has_no_effect_is_refused_where_it_is_written() {
        let one = "no attempt follows the first, which is the only one; leave it out, or write `attempts = 2` or more";
        let late = |limit: &str| {
            format!(
                "by then it is over by `timeout.response`, which is {limit}; make it shorter, or leave it out"
            )
        };
        let room = "nobody waits where there is no limit; add `concurrent` or `per_endpoint`, or leave it out";
        let eject = "no ejection is longer than `max_time`, which is 300s; make it shorter, or `max_time` longer";
        let none = "no endpoint is ejected, since `max_percent` is 0; leave it out, or write `max_percent = 1` or more";
        for (text, expected) in [
            (
                "[defaults]\nretry = { attempts = 1, on = 503, try_timeout = \"1s\" }",
                vec![
                    format!("2:25 defaults.retry.on: {one}"),
                    format!("2:35 defaults.retry.try_timeout: {one}"),
                ],
            ),
            (
                "[defaults]\nretry.attempts = 1\n[service.cart]\nretry.on = 503",
                vec![format!("4:7 service.cart.retry.on: {one}")],
            ),
            (
                "[service.cart]\nretry.attempts = 1\n[[route]]\nservice = \"cart\"\nretry.on = 503",
                vec![format!("5:7 route.retry.on: {one}")],
            ),
            (
                "[[route]]\nservice = \"cart\"\nretry = { attempts = 1, on = \"5xx\" }",
                vec![format!("3:25 route.retry.on: {one}")],
            ),
            (
                "[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\nretry = { attempts = 1, on = \"5xx\" }",
                vec![format!("4:25 route.retry.on: {one}")],
            ),
            (
                "[defaults]\nretry.try_timeout = \"30s\"",
                vec![format!("2:7 defaults.retry.try_timeout: {}", late("30s"))],
            ),
            (
                "[service.cart]\nretry.try_timeout = \"2s\"\ntimeout.response = \"1s\"",
                vec![format!(
                    "2:7 service.cart.retry.try_timeout: {}",
                    late("1s")
                )],
            ),
            (
                "[service.hat]\ntimeout.response = \"2s\"\n[[route]]\nretry.try_timeout = \"40s\"\n\
                 split = [{ service = \"cart\", weight = 1 }, { service = \"hat\", weight = 1 }]",
                vec![format!("4:7 route.retry.try_timeout: {}", late("30s"))],
            ),
            (
                "[defaults]\nlimits = { pending = 5, wait = \"1s\" }",
                vec![
                    format!("2:12 defaults.limits.pending: {room}"),
                    format!("2:25 defaults.limits.wait: {room}"),
                ],
            ),
            (
                "[service.cart]\nlimits.wait = \"1s\"",
                vec![format!("2:8 service.cart.limits.wait: {room}")],
            ),
            (
                "[service.cart]\neject.time = \"10m\"",
                vec![format!("2:7 service.cart.eject.time: {eject}")],
            ),
            (
                "[defaults]\neject = { max_percent = 0, statuses = \"5xx\", answers = true }",
                vec![
                    format!("2:28 defaults.eject.statuses: {none}"),
                    format!("2:46 defaults.eject.answers: {none}"),
                ],
            ),
        ] {
            assert_eq!(errors(&format!("{text}\n{CART}")), expected, "{text}");
        }
    }

    #[test]
    fn what_has_an_effect_somewhere_or_is_turned_off_is_fine() {
        for text in [
            "[defaults]\nretry.on = \"5xx\"\n[service.cart]\nretry.attempts = 1",
            "[defaults]\nretry = { attempts = 1, on = \"5xx\" }\n[service.cart]\nretry.attempts = 2",
            "[service.cart]\nretry = { attempts = 1, on = \"5xx\" }\n[[route]]\nservice = \"cart\"\nretry.attempts = 2",
            "[service.cart]\nretry = { attempts = 1, on = [], try_timeout = false }",
            "[service.hat]\nretry.attempts = 1\n[[route]]\nretry.on = 503\n\
             split = [{ service = \"cart\", weight = 1 }, { service = \"hat\", weight = 1 }]",
            "[service.cart]\nretry.attempts = 1\n[[route]]\nservice = \"cart\"\nfallback = \"hat\"\nretry.on = 503",
            "[service.cart]\nretry.attempts = 1\nfallback = \"hat\"\n[[route]]\nservice = \"cart\"\nretry.on = 503",
            "[defaults]\nretry.attempts = 1\n[service.cart]\nretry.attempts = 2\n\
             [[route]]\npath = \"/{service}\"\nservice = \"{service}\"\nretry.on = 503",
            "[defaults]\nretry.try_timeout = \"2s\"\n[service.cart]\ntimeout.response = \"1s\"",
            "[defaults]\nretry.try_timeout = \"40s\"\n[service.cart]\ntimeout.response = \"1m\"",
            "[service.cart]\nretry.try_timeout = \"29s\"",
            "[service.cart]\nretry.try_timeout = \"29s\"\n[[route]]\nservice = \"cart\"\ntimeout.response = \"5s\"",
            "[defaults]\nlimits.wait = \"5s\"\n[service.cart]\nlimits.per_endpoint = 5",
            "[defaults]\nlimits.concurrent = 5\n[service.cart]\nlimits.wait = \"5s\"",
            "[service.cart]\nlimits = { concurrent = false, pending = 5 }",
            "[service.cart]\nlimits = { concurrent = 5, wait = \"1h\" }\ntimeout.total = \"1s\"",
            "[defaults]\neject.time = \"10m\"\n[service.cart]\neject.max_time = \"1h\"",
            "[service.cart]\neject.max_time = \"10s\"",
            "[defaults]\neject = { max_percent = 0, answers = false, statuses = [] }",
            "[defaults]\neject = { max_percent = 0, answers = true }\n[service.cart]\neject.max_percent = 5",
        ] {
            config(&format!("{text}\n{CART}"));
        }
    }
}
