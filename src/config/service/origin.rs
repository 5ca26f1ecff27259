//! `registry`, `combine` and `endpoints`: where a service's instances are learnt. Knows nothing of
//! what becomes of them.

use std::sync::Arc;

use crate::{
    config::{
        document::{report::Wrong, table::Table},
        registry::Registries,
    },
    instance::{Address, Instance},
};

/// Where a service's instances are learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// At these registries, at least one: keys of `Config::registries`.
    Registries {
        /// In the order of the file.
        names: Vec<Arc<str>>,
        /// What several make together.
        combine: Combine,
    },
    /// They stand in the file itself.
    Inline(Vec<Arc<Instance>>),
}

impl Origin {
    /// One registry and no other.
    pub(crate) fn only(name: Arc<str>) -> Self {
        Self::Registries {
            names: vec![name],
            combine: Combine::Union,
        }
    }

    /// Whether the instances stand in the file.
    pub(crate) fn is_inline(&self) -> bool {
        matches!(self, Self::Inline(_))
    }

    /// The registries' names; none where the instances stand in the file.
    pub fn registries(&self) -> &[Arc<str>] {
        match self {
            Self::Registries { names, .. } => names,
            Self::Inline(_) => &[],
        }
    }
}

/// `combine`: what the sets of several registries make together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// All of them, merged by address.
    Union,
    /// The first that has a healthy instance.
    Failover,
    /// The first; how the others differ from it is shown.
    Shadow,
}

const COMBINE: [(&str, Combine); 3] = [
    ("union", Combine::Union),
    ("failover", Combine::Failover),
    ("shadow", Combine::Shadow),
];

/// Reads `registry` and `combine`; `None` where no registry is named.
pub(crate) fn registries(table: &mut Table<'_>, registries: &Registries) -> Option<Origin> {
    let named = table.take("registry");
    let combine = table.take("combine");
    let mut names = Vec::new();
    for field in named
        .iter()
        .flat_map(|field| field.one_or_more("\"consul\""))
    {
        if let Some(name) = registries.find(&field) {
            if names.contains(&name) {
                field.wrong(Wrong::new(format!("the registry `{name}` is named twice")));
            }
            names.push(name);
        }
    }
    if let (Some(field), true) = (&named, names.is_empty())
        && field.is_empty_array()
    {
        field.wrong(Wrong::new("no registry is named").suggest("name one, or leave the key out"));
    }
    if let (Some(field), true) = (&combine, names.len() < 2) {
        field.wrong(
            Wrong::new("`combine` is for several registries")
                .suggest("write, say, `registry = [\"consul\", \"legacy\"]`, or leave it out"),
        );
    }
    let combine = combine.and_then(|field| field.choice(&COMBINE));
    (!names.is_empty()).then(|| Origin::Registries {
        names,
        combine: combine.unwrap_or(Combine::Union),
    })
}

/// Reads where the instances of `[service.NAME]` are learnt; `default` is what is meant where it
/// does not say, if there can be no doubt.
pub(crate) fn of_service(
    name: &str,
    table: &mut Table<'_>,
    known: &Registries,
    default: Option<&Origin>,
) -> Origin {
    let inline = table.take("endpoints");
    let named = table.has("registry");
    let registries = registries(table, known);
    let Some(field) = inline else {
        return registries.or_else(|| default.cloned()).unwrap_or_else(|| {
            if !named {
                let wrong = no_registry(name);
                table.absent("registry", wrong.suggest("write `registry = \"NAME\"`"));
            }
            Origin::only(known.first())
        });
    };
    if named {
        field.wrong(
            Wrong::new("the endpoints stand here, and a registry is named")
                .suggest("keep one of `endpoints` and `registry`"),
        );
    }
    refuse_what_is_a_registrys(table);
    let mut instances: Vec<Arc<Instance>> = Vec::new();
    for element in field.elements("\"10.0.0.7:8080\"") {
        let read = element.parse("an endpoint", "\"10.0.0.7:8080\"", |text| {
            Address::of_local_text(text).map_err(Wrong::new)
        });
        let Some((address, tls)) = read else { continue };
        if instances.iter().any(|known| known.address == address) {
            element.wrong(Wrong::new(format!("`{address}` is here twice")));
        }
        instances.push(Arc::new(Instance {
            tls,
            ..Instance::new(address.to_string(), address)
        }));
    }
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    Origin::Inline(instances)
}

/// Notes what means nothing to endpoints that stand in the file.
fn refuse_what_is_a_registrys(table: &mut Table<'_>) {
    for (key, why) in [
        (
            "name",
            "endpoints that stand here are asked for in no registry",
        ),
        ("guard", "no registry can lose endpoints that stand here"),
    ] {
        if let Some(field) = table.take(key).filter(|field| !field.is_false()) {
            field.wrong(Wrong::new(why).suggest("leave it out"));
        }
    }
}

/// What to do about that.
pub(crate) const SAY_WHICH: &str =
    "write `registry = \"NAME\"` in `[defaults]`, or in a table `[service.NAME]` of its own";

/// Several registries, and nothing says which one a service is in.
pub(crate) fn no_registry(service: &str) -> Wrong {
    Wrong::new(format!(
        "there are several registries, and `{service}` is in none of them"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{config, error, errors};

    const TWO: &str = "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n";
    const CART: &str = "[[route]]\nservice = \"cart\"\n";

    fn origin(text: &str) -> Origin {
        config(&format!("{TWO}{text}\n{CART}")).services["cart"]
            .origin
            .clone()
    }

    #[test]
    fn several_registries_are_combined_as_they_stand() {
        for (text, expected) in [
            ("", Combine::Union),
            ("combine = \"union\"", Combine::Union),
            ("combine = \"failover\"", Combine::Failover),
            ("combine = \"shadow\"", Combine::Shadow),
        ] {
            for table in ["service.cart", "defaults"] {
                let expected = Origin::Registries {
                    names: vec!["b".into(), "a".into()],
                    combine: expected,
                };
                let text = format!("[{table}]\nregistry = [\"b\", \"a\"]\n{text}");
                assert_eq!(origin(&text), expected);
            }
        }
    }

    #[test]
    fn endpoints_may_stand_in_the_service_itself() {
        let Origin::Inline(instances) =
            origin("[service.cart]\nendpoints = [\"10.0.0.7:8080\", \"https://[::1]:8443\"]")
        else {
            panic!("they stand in the file");
        };
        let called: Vec<_> = instances
            .iter()
            .map(|instance| (instance.address.to_string(), instance.tls))
            .collect();
        assert_eq!(
            called,
            [("10.0.0.7:8080".into(), false), ("[::1]:8443".into(), true)]
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = "[service.a]\n\
            registry = [\"a\", \"a\"]\n\
            [service.b]\n\
            registry = \"a\"\n\
            combine = \"union\"\n\
            [service.c]\n\
            registry = [\"a\", \"b\"]\n\
            combine = \"both\"\n\
            [service.d]\n\
            registry = []\n\
            [service.e]\n\
            registry = \"a\"\n\
            endpoints = [\"10.0.0.7\", \"1.1.1.1:1\", \"1.1.1.1:1\", 7, \"http://h/x\"]\n\
            [defaults]\n\
            registry = \"a\"\n";
        assert_eq!(
            errors(&format!("{TWO}{text}{CART}")),
            [
                "6:18 service.a.registry: the registry `a` is named twice",
                "9:1 service.b.combine: `combine` is for several registries; write, say, `registry = [\"consul\", \"legacy\"]`, or leave it out",
                "12:1 service.c.combine: `both` is not known here; for now it may be `union`, `failover` or `shadow`",
                "14:1 service.d.registry: no registry is named; name one, or leave the key out",
                "17:1 service.e.endpoints: the endpoints stand here, and a registry is named; keep one of `endpoints` and `registry`",
                "17:14 service.e.endpoints: `10.0.0.7` has no port",
                "17:39 service.e.endpoints: `1.1.1.1:1` is here twice",
                "17:52 service.e.endpoints: expected an endpoint, found the number 7; write `\"10.0.0.7:8080\"`",
                "17:55 service.e.endpoints: `http://h/x` holds more than a host and a port",
            ]
        );
    }

    #[test]
    fn only_services_have_endpoints_of_their_own() {
        let error = error(&format!("[defaults]\nendpoints = []\n{CART}"));
        assert!(
            error.starts_with("2:1 defaults.endpoints: unknown key `endpoints`"),
            "{error}"
        );
    }
}
