//! `fallback`: the service that is called where another has no endpoint. A fallback has none itself,
//! so that the file shows which service answers. Knows nothing of endpoints.

use std::{collections::BTreeMap, sync::Arc};

use super::origin::{self, Origin};
use crate::config::{
    Service,
    document::{field::Field, report::Wrong, table::Table},
    load::strict,
    route::pattern,
};

/// The fallbacks of services, which are checked when all services are known.
#[derive(Default)]
pub(crate) struct Fallbacks<'a>(Vec<(Arc<str>, Arc<str>, Field<'a>)>);

impl<'a> Fallbacks<'a> {
    /// Reads the fallback of a service.
    pub(crate) fn read(&mut self, service: &Arc<str>, table: &mut Table<'a>) -> Option<Arc<str>> {
        let (field, fallback) = take(table)?;
        let read = (Arc::clone(service), Arc::clone(&fallback), field);
        self.0.push(read);
        Some(fallback)
    }

    /// Notes what is wrong with them.
    pub(crate) fn check(self, services: &BTreeMap<Arc<str>, Service>, has_default: bool) {
        for (service, fallback, field) in self.0 {
            check(&field, &fallback, Some(&service), services, has_default);
            check_use(&field, &service, services);
        }
    }
}

/// Reads the fallback of a route; `own` is the service that it names, if it names one.
pub(crate) fn of_route(
    table: &mut Table<'_>,
    own: Option<&str>,
    services: &BTreeMap<Arc<str>, Service>,
    has_default: bool,
) -> Option<Arc<str>> {
    let (field, fallback) = take(table)?;
    check(&field, &fallback, own, services, has_default);
    Some(fallback)
}

fn take<'a>(table: &mut Table<'a>) -> Option<(Field<'a>, Arc<str>)> {
    let field = table.take("fallback")?;
    let name = field.parse("a service's name", "\"sorry\"", pattern::service_name)?;
    Some((field, name.into()))
}

fn check(
    field: &Field<'_>,
    fallback: &str,
    own: Option<&str>,
    services: &BTreeMap<Arc<str>, Service>,
    has_default: bool,
) {
    strict::check_name(field, fallback, services);
    if own == Some(fallback) {
        let wrong = Wrong::new(format!("`{fallback}` would be the fallback of itself"));
        return field.wrong(wrong.suggest("name another service, or leave it out"));
    }
    match services.get(fallback) {
        Some(Service {
            fallback: Some(_), ..
        }) => field.wrong(match end(fallback, own, services) {
            End::Service(last) => has_one(fallback).suggest(format!("did you mean \"{last}\"?")),
            End::Own(own) => Wrong::new(format!(
                "`{fallback}` has a fallback of its own, which leads back to `{own}`: that is a loop"
            ))
            .suggest(format!("leave it out, or that of `{fallback}`")),
            End::Never => has_one(fallback).suggest("name a service that has none, or leave it out"),
        }),
        None if !has_default => {
            let wrong = origin::no_registry(fallback);
            field.names_nothing(wrong.suggest(origin::SAY_WHICH));
        }
        _ => {}
    }
}

/// Notes a fallback of a service whose endpoints never leave.
fn check_use(field: &Field<'_>, own: &str, services: &BTreeMap<Arc<str>, Service>) {
    let stay =
        |service: &Service| matches!(service.origin, Origin::Inline(_)) && service.health.is_none();
    if services.get(own).is_some_and(stay) {
        let wrong = Wrong::new(format!(
            "the endpoints of `{own}` stand in the file, and none of them leaves: the fallback is hardly called"
        ));
        let advice = "give the service `health` and `panic_percent = 0`, or leave the fallback out";
        field.unlikely(wrong.suggest(advice));
    }
}

fn has_one(fallback: &str) -> Wrong {
    Wrong::new(format!(
        "`{fallback}` has a fallback of its own, and there is one step only"
    ))
}

/// How a row of fallbacks ends.
enum End<'s> {
    /// With a service that has none, or itself, which is refused there.
    Service(&'s str),
    /// With the service that it began with.
    Own(&'s str),
    /// It goes round for ever.
    Never,
}

fn end<'s>(
    fallback: &'s str,
    own: Option<&'s str>,
    services: &'s BTreeMap<Arc<str>, Service>,
) -> End<'s> {
    let mut last = fallback;
    for _ in 0..services.len() {
        let service = services.get(last);
        match service.and_then(|service| service.fallback.as_deref()) {
            Some(next) if Some(next) == own => return End::Own(next),
            Some(next) if next != last => last = next,
            _ => return End::Service(last),
        }
    }
    End::Never
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{config, error, errors};

    #[test]
    fn a_fallback_needs_no_table_and_is_a_declared_service() {
        let config = config(
            "[service.cart]\nfallback = \"sorry\"\n\
             [[route]]\nservice = \"cart\"\nfallback = \"spare\"\n",
        );
        let names: Vec<_> = config.declared().map(|name| &**name).collect();
        assert_eq!(names, ["cart", "spare", "sorry"]);
        assert_eq!(*config.services["sorry"], config.defaults);
        assert_eq!(config.services["cart"].fallback.as_deref(), Some("sorry"));
        assert_eq!(config.routes[0].fallback.as_deref(), Some("spare"));
    }

    #[test]
    fn there_is_one_step_and_no_circle() {
        let text = "[service.a]\nfallback = \"b\"\n\
            [service.b]\nfallback = \"c\"\n\
            [service.c]\nfallback = \"c\"\n\
            [service.d]\nfallback = \"{service}\"\n\
            [[route]]\nservice = \"e\"\nfallback = \"e\"\n\
            [[route]]\npath = \"/{service}\"\nservice = \"{service}\"\nfallback = \"a\"\n";
        let found = errors(text);
        let one_step = "has a fallback of its own, and there is one step only; did you mean";
        assert_eq!(
            found,
            [
                format!("2:1 service.a.fallback: `b` {one_step} \"c\"?"),
                format!("4:1 service.b.fallback: `c` {one_step} \"c\"?"),
                "6:1 service.c.fallback: `c` would be the fallback of itself; name another service, or leave it out".to_owned(),
                "8:1 service.d.fallback: `{service}` is not a service's name; write the name of one service".to_owned(),
                "11:1 route.fallback: `e` would be the fallback of itself; name another service, or leave it out".to_owned(),
                format!("15:1 route.fallback: `a` {one_step} \"c\"?"),
            ],
            "{found:#?}"
        );
    }

    #[test]
    fn who_is_suggested_has_no_fallback_and_is_not_the_service_itself() {
        let table = |(name, fallback): &(&str, &str)| {
            format!("[service.{name}]\nfallback = \"{fallback}\"\n")
        };
        let one_step = |of: &str, suggestion: &str| {
            format!("`{of}` has a fallback of its own, and there is one step only; {suggestion}")
        };
        let round = |of: &str, own: &str| {
            format!(
                "`{of}` has a fallback of its own, which leads back to `{own}`: that is a loop; leave it out, or that of `{of}`"
            )
        };
        for (services, expected) in [
            (
                &[("a", "b"), ("b", "c"), ("c", "d")][..],
                vec![
                    one_step("b", "did you mean \"d\"?"),
                    one_step("c", "did you mean \"d\"?"),
                ],
            ),
            (
                &[("a", "b"), ("b", "a")],
                vec![round("b", "a"), round("a", "b")],
            ),
            (
                &[("a", "b"), ("b", "c"), ("c", "a")],
                vec![round("b", "a"), round("c", "b"), round("a", "c")],
            ),
            (
                &[("a", "b"), ("b", "c"), ("c", "b")],
                vec![
                    one_step("b", "name a service that has none, or leave it out"),
                    round("c", "b"),
                    round("b", "c"),
                ],
            ),
        ] {
            let tables: String = services.iter().map(table).collect();
            let found = errors(&format!("{tables}[[route]]\nservice = \"a\"\n"));
            let expected = services.iter().enumerate().zip(expected);
            let expected = expected.map(|((n, (name, _)), wrong)| {
                format!("{}:1 service.{name}.fallback: {wrong}", 2 * n + 2)
            });
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
        let route = "[service.b]\nfallback = \"a\"\n[[route]]\nservice = \"a\"\nfallback = \"b\"\n";
        assert_eq!(
            error(route),
            format!("5:1 route.fallback: {}", round("b", "a"))
        );
    }

    #[test]
    fn a_fallback_is_in_some_registry() {
        let text = "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n\
            [service.cart]\nregistry = \"a\"\nfallback = \"sorry\"\n[[route]]\nservice = \"cart\"\n";
        assert_eq!(
            error(text),
            "7:1 service.cart.fallback: there are several registries, and `sorry` is in none of them; write `registry = \"NAME\"` in `[defaults]`, or in a table `[service.NAME]` of its own"
        );
    }
}
