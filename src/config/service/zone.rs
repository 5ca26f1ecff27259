//! `zone`, where the proxy itself is, and `prefer`, which services call their own zone first. Knows
//! nothing of instances.

use std::sync::Arc;

use crate::config::document::{field::Field, report::Wrong, table::Table, value};

/// What the file says of the proxy's own zone.
pub(crate) struct OwnZone {
    /// `None` too where what it says is wrong.
    name: Option<Arc<str>>,
    is_said: bool,
}

/// Reads `zone`.
pub(crate) fn own(top: &mut Table<'_>) -> OwnZone {
    let field = top.take("zone");
    OwnZone {
        is_said: field.is_some(),
        name: field.and_then(|field| name(&field)),
    }
}

fn name(field: &Field<'_>) -> Option<Arc<str>> {
    if !field.is_table() {
        let name = field.parse("a zone, or { env = \"…\" }", "\"eu-1a\"", value::filled);
        return name.map(Into::into);
    }
    field.within(|table| {
        let variable = table.required("env", "\"CALLBOARD_ZONE\"")?;
        let parsed = variable.parse("a variable", "\"CALLBOARD_ZONE\"", value::filled)?;
        match std::env::var(&parsed) {
            Ok(zone) if !zone.trim().is_empty() => Some(zone.trim().into()),
            _ => {
                let wrong = format!("the environment variable {parsed} is not set");
                variable.wrong(Wrong::new(wrong).suggest("set it to the proxy's zone"));
                None
            }
        }
    })
}

/// Reads `prefer`: the zone whose endpoints are called first, where one's are.
pub(crate) fn prefer(
    table: &mut Table<'_>,
    own: &OwnZone,
    base: Option<&Arc<str>>,
) -> Option<Arc<str>> {
    let Some(field) = table.take("prefer") else {
        return base.cloned();
    };
    if field.is_false() {
        return None;
    }
    field.choice(&[("zone", ())])?;
    if !own.is_said {
        let wrong = Wrong::new("the proxy does not know its own zone");
        field.wrong(wrong.suggest(
            "write `zone = \"eu-1a\"` or `zone = { env = \"CALLBOARD_ZONE\" }` at the file's top",
        ));
    }
    own.name.clone()
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{ROUTE, config, error, errors};

    #[test]
    fn services_prefer_the_proxys_zone_where_they_or_the_defaults_say_so() {
        let config = config(&format!(
            "zone = \"eu-1a\"\n[defaults]\nprefer = \"zone\"\n[service.a]\n\
             [service.b]\nprefer = false\n{ROUTE}"
        ));
        let zone = |name: &str| config.services[name].zone.as_deref();
        assert_eq!((zone("a"), zone("b")), (Some("eu-1a"), None));
        assert_eq!(config.defaults.zone.as_deref(), Some("eu-1a"));
    }

    #[test]
    fn a_zone_alone_changes_nothing() {
        let config = config(&format!("zone = \"eu-1a\"\n[service.a]\n{ROUTE}"));
        assert_eq!(config.services["a"].zone, None);
    }

    #[test]
    fn the_zone_may_come_from_the_environment() {
        let set = config(&format!(
            "zone = {{ env = \"PATH\" }}\n[service.a]\nprefer = \"zone\"\n{ROUTE}"
        ));
        let path = std::env::var("PATH").unwrap();
        assert_eq!(set.services["a"].zone.as_deref(), Some(path.trim()));
        assert_eq!(
            error(&format!(
                "zone = {{ env = \"CALLBOARD_NO_SUCH\" }}\n[service.a]\nprefer = \"zone\"\n{ROUTE}"
            )),
            "1:10 zone.env: the environment variable CALLBOARD_NO_SUCH is not set; set it to the proxy's zone"
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = format!(
            "[defaults]\nprefer = \"zone\"\n[service.a]\nprefer = \"zones\"\n\
             [service.b]\nprefer = true\n{ROUTE}"
        );
        assert_eq!(
            errors(&text),
            [
                "2:1 defaults.prefer: the proxy does not know its own zone; write `zone = \"eu-1a\"` or `zone = { env = \"CALLBOARD_ZONE\" }` at the file's top",
                "4:1 service.a.prefer: `zones` is not known here; did you mean \"zone\"?",
                "6:1 service.b.prefer: expected `zone`, found true; write `prefer = \"zone\"`",
            ]
        );
        assert!(error(&format!("zone = \"\"\n{ROUTE}")).starts_with("1:1 zone:"));
    }

    #[test]
    fn a_hash_with_a_bound_has_no_zone_that_comes_first() {
        let hash = "balance = { kind = \"hash\", by = \"path\", load = 1.25 }";
        let wrong = "the bound of a zone's `hash` is not known; leave `load` out, or balance the whole service so";
        for (of_all, own, place) in [
            ("prefer = \"zone\"", hash, "5:1 service.a.balance"),
            (hash, "prefer = \"zone\"", "5:1 service.a.prefer"),
        ] {
            let text = format!("zone = \"a\"\n[defaults]\n{of_all}\n[service.a]\n{own}\n{ROUTE}");
            assert_eq!(error(&text), format!("{place}: {wrong}"));
        }
    }
}
