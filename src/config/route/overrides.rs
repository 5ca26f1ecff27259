//! What a `[[route]]` says of `retry` and `timeout`, which stands before what its service says, key
//! by key. Knows nothing of services.

use std::time::Duration;

use crate::config::{
    Overrides, Retry, Timeouts,
    document::{table::Table, value::Zero},
    service::{methods, no_effect::Follows, statuses},
};

/// A duration, or `false` for none; `None` where the route says nothing.
fn off_or_duration(table: &mut Table<'_>, key: &'static str) -> Option<Option<Duration>> {
    match table.take(key) {
        Some(field) if field.is_false() => Some(None),
        field => field.map(|field| field.duration(Zero::Refused)),
    }
}

impl Overrides {
    /// What a route that says nothing of them has.
    pub const NONE: &Self = &Self {
        attempts: None,
        on: None,
        try_timeout: None,
        methods: None,
        connect: None,
        response: None,
        idle: None,
        total: None,
        tunnel: None,
    };

    /// Reads them; and what must be looked at when the services are known.
    pub(crate) fn read<'a>(table: &mut Table<'a>) -> (Self, Follows<'a>) {
        let mut overrides = table.within("timeout", |table| {
            let mut duration = |key| table.take(key)?.duration(Zero::Refused);
            Self {
                attempts: None,
                on: None,
                try_timeout: None,
                methods: None,
                connect: duration("connect"),
                response: duration("response"),
                idle: duration("idle"),
                total: off_or_duration(table, "total"),
                tunnel: off_or_duration(table, "tunnel"),
            }
        });
        let follows = table.within("retry", |table| {
            overrides.attempts = table
                .take("attempts")
                .and_then(|field| field.count(1..=100, 3));
            overrides.on = statuses::read(table, "on");
            overrides.methods = methods::read(table);
            overrides.try_timeout = off_or_duration(table, "try_timeout");
            Follows::of(table)
        });
        (overrides, follows)
    }

    /// A service's retries, as this route has them.
    pub fn retry(&self, service: Retry) -> Retry {
        Retry {
            attempts: self.attempts.unwrap_or(service.attempts),
            on: self.on.unwrap_or(service.on),
            try_timeout: self.try_timeout.unwrap_or(service.try_timeout),
            methods: self.methods.unwrap_or(service.methods),
            ..service
        }
    }

    /// A service's time-outs, as this route has them.
    pub fn timeout(&self, service: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(service.connect),
            response: self.response.unwrap_or(service.response),
            idle: self.idle.unwrap_or(service.idle),
            total: self.total.unwrap_or(service.total),
            tunnel: self.tunnel.unwrap_or(service.tunnel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{config, errors};

    #[test]
    fn a_route_stands_before_its_service_and_that_before_the_defaults_key_by_key() {
        let config = config(
            r#"
            [defaults]
            timeout = { connect = "2s", response = "3s", total = "9s" }
            retry = { attempts = 5, budget = { ratio = 0.5 } }
            [service.cart]
            timeout = { response = "4s", idle = "5s", tunnel = false }
            [[route]]
            path = "/a"
            timeout = { idle = "6s", total = false, tunnel = "7s" }
            service = "cart"
            [[route]]
            retry = { attempts = 2, on = [503], try_timeout = "1s" }
            service = "cart"
            "#,
        );
        let cart = &config.services["cart"];
        let seconds = Duration::from_secs;
        let overrides = config.routes[0].overrides();
        assert_eq!(
            overrides.timeout(cart.timeout),
            Timeouts {
                connect: seconds(2),
                response: seconds(4),
                idle: seconds(6),
                total: None,
                tunnel: Some(seconds(7)),
            }
        );
        assert_eq!(overrides.retry(cart.retry), cart.retry);
        let overrides = config.routes[1].overrides();
        assert_eq!(overrides.timeout(cart.timeout), cart.timeout);
        let retry = overrides.retry(cart.retry);
        assert_eq!((retry.attempts, retry.budget_ratio), (2, 0.5));
        assert_eq!(retry.try_timeout, Some(seconds(1)));
        assert!(retry.on.contains(http::StatusCode::SERVICE_UNAVAILABLE));
        assert!(cart.retry.on.is_empty() && cart.retry.try_timeout.is_none());
    }

    #[test]
    fn the_budget_is_the_services_and_wrong_values_are_named() {
        let text = "[[route]]\nservice = \"cart\"\n\
            retry = { attempts = 0, budget = { ratio = 1 } }\n\
            timeout = { connect = \"0s\", idel = \"1s\", total = true }\n";
        assert_eq!(
            errors(text),
            [
                "3:11 route.retry.attempts: 0 is out of range; write a number from 1 to 100",
                "3:25 route.retry.budget: unknown key `budget`; it may be `attempts`, `on`, `methods` or `try_timeout`",
                "4:13 route.timeout.connect: this duration must be more than nothing",
                "4:29 route.timeout.idel: unknown key `idel`; did you mean `idle`?",
                "4:42 route.timeout.total: expected a duration with its unit, found true; write `total = \"30s\"`",
            ]
        );
    }
}
