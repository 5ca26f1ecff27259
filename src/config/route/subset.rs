//! What a `[[route]]` takes of its service's endpoints: `tags`, `meta` and `balance`. Knows nothing
//! of instances.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::config::{
    Origin, Subset,
    document::table::Table,
    registry::Registries,
    service::{self, balance},
};

/// The subsets of all routes, each once.
#[derive(Default)]
pub(crate) struct Subsets(Vec<Arc<Subset>>);

impl Subsets {
    /// Reads what a route says; `None` where it takes the service as it is. The services may be
    /// learnt at any of `origins`.
    pub(crate) fn read(
        &mut self,
        table: &mut Table<'_>,
        origins: &[&Origin],
        registries: &Registries,
    ) -> Option<Arc<Subset>> {
        let balance = balance::of_subset(table);
        let (tags, meta) = service::selection(table, origins, registries);
        let subset = Subset {
            tags,
            meta,
            balance,
        };
        if subset == (Subset::EMPTY) {
            return None;
        }
        if let Some(known) = self.0.iter().find(|known| ***known == subset) {
            return Some(Arc::clone(known));
        }
        let subset = Arc::new(subset);
        self.0.push(Arc::clone(&subset));
        Some(subset)
    }
}

impl Subset {
    const EMPTY: Self = Self {
        tags: Vec::new(),
        meta: BTreeMap::new(),
        balance: None,
    };
}

impl fmt::Display for Subset {
    /// What an instance must have, in words; nothing where any will do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tags = self.tags.iter().map(|tag| format!("tag `{tag}`"));
        let meta = self.meta.iter();
        let meta = meta.map(|(key, value)| format!("metadata `{key} = {value}`"));
        let all: Vec<_> = tags.chain(meta).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Balance,
        testing::{config, errors},
    };

    #[test]
    fn routes_that_want_the_same_share_a_subset() {
        let routes = config(
            r#"
            [[route]]
            path = "/a"
            tags = ["v2"]
            meta = { zone = "a" }
            service = "cart"
            [[route]]
            path = "/b"
            meta = { zone = "a" }
            tags = ["v2"]
            service = "hat"
            [[route]]
            path = "/c"
            balance = "weighted"
            service = "cart"
            [[route]]
            path = "/d"
            tags = []
            service = "cart"
            "#,
        )
        .routes;
        let subset = |route: usize| routes[route].subset.as_ref();
        assert!(Arc::ptr_eq(subset(0).unwrap(), subset(1).unwrap()));
        assert_eq!(
            subset(0).unwrap().to_string(),
            "tag `v2`, metadata `zone = a`"
        );
        let balanced = subset(2).unwrap();
        assert_eq!(balanced.balance, Some(Balance::Weighted));
        assert_eq!(balanced.to_string(), "");
        assert_eq!(subset(3), None);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = "[registry.dns]\n[[route]]\ntags = [\"v2\", 7]\nmeta = [\"a\"]\nbalance = \"wieghted\"\n\
            service = \"cart\"\n";
        let found = errors(text);
        assert_eq!(
            found,
            [
                "3:1 route.tags: instances of the kind `dns` have no tags; leave `tags` out, and let the name that is asked for tell them apart: `name = \"…\"`",
                "3:15 route.tags: expected a text, found the number 7; write `\"v2\"`",
                "4:1 route.meta: expected a table of texts, found an array; write `meta = { version = \"2\" }`",
                "5:1 route.balance: `wieghted` is not known here; did you mean \"weighted\"?",
            ],
            "{found:#?}"
        );
    }
}
