//! `[[route]] split`: several services, each for its share of a route's requests. Knows nothing of
//! how a request's service is chosen.

use super::pattern;
use crate::config::{
    Share,
    document::{field::Field, report::Wrong, table::Table},
};

/// The largest weight of a share.
pub const HEAVIEST_SHARE: u32 = 10_000;

/// Reads the shares; `known` notes what is wrong with a service's name.
pub(crate) fn read(
    table: &mut Table<'_>,
    field: &Field<'_>,
    known: impl Fn(&Field<'_>, &str),
) -> Option<Vec<Share>> {
    if field.is_empty_array() {
        field.wrong(Wrong::new("nobody has a share").suggest("name at least one service"));
        return None;
    }
    let mut shares: Vec<Share> = Vec::new();
    let read = table.each("split", |table| {
        let weight = table.required("weight", "95");
        let weight = weight.and_then(|field| field.count(0..=HEAVIEST_SHARE, 95));
        let service = table.required("service", "\"cart\"")?;
        let name = service.parse("a service's name", "\"cart\"", |text| {
            pattern::service_name(text).map_err(|wrong| match text {
                pattern::TEMPLATE => {
                    Wrong::new("a template's requests cannot be split").suggest("name the services")
                }
                _ => wrong,
            })
        })?;
        known(&service, &name);
        if shares.iter().any(|share| *share.service == *name) {
            service.wrong(Wrong::new(format!("`{name}` is here twice")));
        }
        shares.push(Share {
            service: name.into(),
            weight: weight?,
        });
        Some(())
    });
    if read.iter().any(Option::is_none) {
        return None;
    }
    if shares.iter().all(|share| share.weight == 0) {
        let wrong = Wrong::new("all weights are 0, so that nobody has a share");
        field.wrong(wrong.suggest("give one of them more"));
    }
    Some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Goal,
        testing::{config, error, errors},
    };

    #[test]
    fn each_service_has_its_share_and_one_may_be_off() {
        let config = config(
            "[[route]]\nsplit = [{ service = \"cart\", weight = 95 }, { service = \"cart-v2\", weight = 0 }]\n",
        );
        let share = |service: &str, weight| Share {
            service: service.into(),
            weight,
        };
        let shares = vec![share("cart", 95), share("cart-v2", 0)];
        assert_eq!(config.routes[0].goal, Goal::Split(shares));
        assert!(config.services.contains_key("cart-v2"));
    }

    #[test]
    fn a_route_has_one_goal_and_a_template_none_to_split() {
        let split = "split = [{ service = \"cart\", weight = 1 }]";
        assert_eq!(
            error(&format!("[[route]]\nservice = \"cart\"\n{split}\n")),
            "2:1 route.service: the route is split, and a service is named; keep one of `service` and `split`"
        );
        assert_eq!(
            error(&format!("[[route]]\npath = \"/{{service}}\"\n{split}\n")),
            "3:1 route.split: the path holds `{service}`, but the services are always the same; write `service = \"{service}\"`"
        );
        assert_eq!(
            error("[[route]]\nsplit = [{ service = \"{service}\", weight = 1 }]\n"),
            "2:12 route.split.service: a template's requests cannot be split; name the services"
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        let two = "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n";
        let text = "[service.cart]\nregistry = \"a\"\n[[route]]\n\
            split = [{ service = \"cart\", weight = 10001 }, { service = \"hat\", wieght = 1 }, 7]\n\
            [[route]]\npath = \"/b\"\nsplit = []\n\
            [[route]]\npath = \"/c\"\nsplit = [{ service = \"cart\", weight = 0 }, { service = \"cart\", weight = 0 }]\n";
        let found = errors(&format!("{two}{text}"));
        assert_eq!(
            found,
            [
                "8:30 route.split.weight: 10001 is out of range; write a number from 0 to 10000",
                "8:50 route.split.service: there are several registries, and `hat` is in none of them; write `registry = \"NAME\"` in `[defaults]`, or in a table `[service.NAME]` of its own",
                "8:67 route.split.wieght: unknown key `wieght`; did you mean `weight`?",
                "8:81 route.split: expected a table, found the number 7; write `{ service = \"cart\", weight = 1 }`",
                "11:1 route.split: nobody has a share; name at least one service",
                "14:1 route.split: all weights are 0, so that nobody has a share; give one of them more",
                "14:46 route.split.service: `cart` is here twice",
            ],
            "{found:#?}"
        );
    }
}
