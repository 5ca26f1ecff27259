//! The tables of several files, put together as one. Knows which of them may stand in several files.

use toml::de::{DeTable, DeValue};

use super::include::KEY;
use crate::config::document::{variables::KeyedFlaw, wrong::Wrong};

/// The tables of several files, as one.
pub(crate) struct Merged<'a> {
    pub(crate) table: DeTable<'a>,
    /// The keys that cannot be in it, and what is wrong with each.
    pub(crate) flaws: Vec<KeyedFlaw>,
}

impl<'a> Merged<'a> {
    /// Puts the tables of an included file in. `place` says where a byte is.
    pub(crate) fn add(&mut self, table: DeTable<'a>, place: impl Fn(usize) -> String) {
        let twice = |before: usize, name: &str| {
            let wrong = format!("`{name}` stands in {}, too", place(before));
            Wrong::new(wrong).suggest("keep one of them")
        };
        for (key, value) in table {
            let name = key.get_ref().to_string();
            if name == KEY {
                let wrong = Wrong::new("a file that is included includes no others");
                let wrong = wrong.suggest("name them in the file that includes this one");
                self.flaws.push((name, (key.span(), wrong)));
                continue;
            }
            let Some((known, _)) = self.table.get_key_value(&*name) else {
                self.table.insert(key, value);
                continue;
            };
            let before = known.span().start;
            let Some(present) = self.table.get_mut(&*name) else {
                continue;
            };
            match (&*name, present.get_mut(), value.into_inner()) {
                // There may be several of them, in one order.
                ("listen" | "route", DeValue::Array(present), DeValue::Array(more)) => {
                    more.into_iter().for_each(|one| present.push(one));
                }
                ("service" | "registry", DeValue::Table(present), DeValue::Table(more)) => {
                    for (of, value) in more {
                        let path = format!("{name}.{}", of.get_ref());
                        match present.get_key_value(of.get_ref().as_ref()) {
                            Some((known, _)) => {
                                let wrong = twice(known.span().start, &path);
                                self.flaws.push((path, (of.span(), wrong)));
                            }
                            None => drop(present.insert(of, value)),
                        }
                    }
                }
                ("listen" | "route", DeValue::Array(_), DeValue::Table(_)) => {
                    let wrong = Wrong::new(format!("there may be several `{name}`"));
                    let wrong = wrong.suggest(format!("write `[[{name}]]`"));
                    self.flaws.push((name, (key.span(), wrong)));
                }
                _ => {
                    let wrong = twice(before, &name);
                    self.flaws.push((name, (key.span(), wrong)));
                }
            }
        }
    }
}
