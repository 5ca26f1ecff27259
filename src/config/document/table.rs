//! Walks a parsed file: its tables note which keys were asked for, so that the others are found
//! to be unknown. Knows nothing of what keys mean.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    field::Field,
    report::{Problems, Wrong},
    secret::Secret,
    value::{self, Zero},
};

/// One table of the file, or the absence of one: then every key has its default.
pub(crate) struct Table<'a> {
    path: String,
    header: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
    /// Keys of which enough was said.
    refused: Vec<&'static str>,
    problems: &'a Problems<'a>,
}

impl<'a> Table<'a> {
    /// Reads a whole file.
    pub(crate) fn root<T>(
        entries: &'a DeTable<'a>,
        problems: &'a Problems<'a>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        Self {
            path: String::new(),
            header: 0..0,
            entries: Some(entries),
            asked: Vec::new(),
            refused: Vec::new(),
            problems,
        }
        .finish(read)
    }

    /// The table that a field's value is; an empty one where it is something else.
    fn of(field: &Field<'a>) -> Self {
        Self {
            path: field.path.clone(),
            header: field.header(),
            entries: field.entries(),
            asked: Vec::new(),
            refused: Vec::new(),
            problems: field.problems,
        }
    }

    fn finish<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let result = read(&mut self);
        for key in self.entries.into_iter().flat_map(|entries| entries.keys()) {
            let written = key.get_ref().as_ref();
            if !self.asked.contains(&written) && !self.refused.contains(&written) {
                self.unknown(key);
            }
        }
        result
    }

    fn unknown(&self, key: &Spanned<Cow<'_, str>>) {
        let written = key.get_ref().as_ref();
        let wrong = Wrong::new(format!("unknown key `{written}`"));
        let wrong = match value::meant(written, self.asked.iter().copied()) {
            Some(meant) => wrong.suggest(format!("did you mean `{meant}`?")),
            None => wrong.suggest(format!("it may be {}", value::list(&self.asked))),
        };
        self.problems
            .add(key.span(), Some(&self.name(written)), wrong);
    }

    /// Leaves the keys that were not asked for alone, where it is not known which there may be.
    pub(crate) fn ignore_rest(&mut self) {
        self.entries = None;
    }

    /// Whether the key is there, right or wrong.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries
            .is_some_and(|entries| entries.contains_key(key))
    }

    /// Whether any of the tables `[key.NAME]` or `[[key]]` has `within.inner`, right or wrong.
    pub(crate) fn any_has(&self, key: &str, within: &str, inner: &str) -> bool {
        let has = |table: &DeValue<'_>| {
            let table = table.get(within);
            table.is_some_and(|within| within.get_ref().get(inner).is_some())
        };
        match self.entries.and_then(|entries| entries.get(key)) {
            Some(tables) => match tables.get_ref() {
                DeValue::Table(named) => named.values().any(|table| has(table.get_ref())),
                DeValue::Array(tables) => tables.iter().any(|table| has(table.get_ref())),
                _ => false,
            },
            None => false,
        }
    }

    /// Where the table's header stands.
    pub(crate) fn header(&self) -> Range<usize> {
        self.header.clone()
    }

    /// Notes what is probably not meant, where that is asked for.
    pub(crate) fn unlikely(&self, at: Range<usize>, key: &str, wrong: Wrong) {
        if self.problems.is_strict() {
            self.problems.absent(at, key, wrong);
        }
    }

    /// Notes what is probably not meant of the file as a whole, where that is asked for.
    pub(crate) fn unlikely_of_file(&self, key: &str, wrong: Wrong) {
        if self.problems.is_strict() {
            self.problems.absent_from_file(key, wrong);
        }
    }

    /// Refuses a key of which more can be said than that it is unknown.
    pub(crate) fn refuse(&mut self, key: &'static str, wrong: Wrong) {
        if let Some((found, _)) = self.entries.and_then(|entries| entries.get_key_value(key)) {
            self.refused.push(key);
            self.problems
                .add(found.span(), Some(&self.name(key)), wrong);
        }
    }

    /// The file in which the table's header stands, where that is one that is included, and its line
    /// there, from 1.
    pub(crate) fn line(&self) -> (Option<Arc<str>>, usize) {
        self.problems.line(self.header.start)
    }

    /// Notes something wrong with the table as a whole.
    pub(crate) fn wrong(&self, wrong: Wrong) {
        self.problems
            .add(self.header.clone(), Some(&self.path), wrong);
    }

    /// Notes that the table lacks something.
    pub(crate) fn absent(&self, key: &str, wrong: Wrong) {
        self.problems
            .absent(self.header.clone(), &self.name(key), wrong);
    }

    /// Notes where one of two keys stands without the other; each comes with an example of its value.
    pub(crate) fn pair(&self, keys: [(&str, &str); 2]) {
        let [first, second] = keys;
        for ((one, _), (other, example)) in [(first, second), (second, first)] {
            if self.has(one) && !self.has(other) {
                let wrong = Wrong::new(format!("`{one}` is of no use without `{other}`"));
                self.absent(other, wrong.suggest(format!("add `{other} = {example}`")));
            }
        }
    }

    /// Notes that the file as a whole lacks something.
    pub(crate) fn absent_from_file(&self, key: &str, wrong: Wrong) {
        self.problems.absent_from_file(key, wrong);
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The key's field, if it is there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        let (key, value) = self.entries?.get_key_value(key)?;
        Some(Field::of_key(
            self.name(key.get_ref()),
            key,
            value,
            self.problems,
        ))
    }

    /// The key's field, which must be there.
    pub(crate) fn required(&mut self, key: &'static str, example: &str) -> Option<Field<'a>> {
        let field = self.take(key);
        // A misspelt key will be said to be unknown, which is enough.
        let written = |entries: &DeTable<'_>| {
            let mut keys = entries.keys();
            keys.any(|written| value::nearest(written.get_ref(), [key]).is_some())
        };
        if self.entries.is_some_and(|entries| !written(entries)) {
            let wrong = Wrong::new(format!("the key `{key}` is missing"));
            self.absent(key, wrong.suggest(format!("write `{key} = {example}`")));
        }
        field
    }

    /// Reads a table inside this one; where it is left out, an empty one.
    pub(crate) fn within<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> T {
        match self.take(key) {
            Some(field) => Table::of(&field).finish(read),
            None => Table {
                path: self.name(key),
                header: self.header.clone(),
                entries: None,
                asked: Vec::new(),
                refused: Vec::new(),
                problems: self.problems,
            }
            .finish(read),
        }
    }

    /// Reads each of the tables `[[key]]`, in their order.
    pub(crate) fn each<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Table<'a>) -> T,
    ) -> Vec<T> {
        let Some(field) = self.take(key) else {
            return Vec::new();
        };
        match field.value.get_ref() {
            DeValue::Array(elements) => elements
                .iter()
                .map(|element| Table::of(&field.element(element)).finish(&mut read))
                .collect(),
            DeValue::Table(_) => {
                let wrong = Wrong::new(format!("there may be several `{key}` tables"));
                field.wrong(wrong.suggest(format!("write `[[{key}]]`")));
                vec![Table::of(&field).finish(read)]
            }
            _ => {
                field.expected(&format!("tables `[[{key}]]`"), None);
                Vec::new()
            }
        }
    }

    /// Reads each of the tables `[key.NAME]`, in their order.
    pub(crate) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&Arc<str>, &mut Table<'a>) -> T,
    ) -> BTreeMap<Arc<str>, T> {
        let Some(field) = self.take(key) else {
            return BTreeMap::new();
        };
        let tables = Table::of(&field).entries;
        let mut tables: Vec<_> = tables.into_iter().flatten().collect();
        tables.sort_by_key(|(name, _)| name.span().start);
        tables
            .into_iter()
            .map(|(name, value)| {
                let path = format!("{}.{}", field.path, name.get_ref());
                let table = Table::of(&Field::of_key(path, name, value, self.problems));
                let name: Arc<str> = name.get_ref().as_ref().into();
                if name.trim().is_empty() {
                    table.wrong(Wrong::new("a name is not empty"));
                }
                let value = table.finish(|table| read(&name, table));
                (name, value)
            })
            .collect()
    }
}

impl<'a> Field<'a> {
    /// Reads the table that the value is.
    pub(crate) fn within<T>(&self, read: impl FnOnce(&mut Table<'a>) -> T) -> T {
        Table::of(self).finish(read)
    }
}

/// Values of one key, with a default. Where the value is wrong that is noted, and the default is
/// given in its place, so that reading goes on.
impl Table<'_> {
    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key)
            .and_then(|field| field.flag())
            .unwrap_or(default)
    }

    pub(crate) fn count(
        &mut self,
        key: &'static str,
        allowed: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        self.take(key)
            .and_then(|field| field.count(allowed, default))
            .unwrap_or(default)
    }

    /// A count of what is counted in memory.
    pub(crate) fn size(
        &mut self,
        key: &'static str,
        allowed: RangeInclusive<u32>,
        default: usize,
    ) -> usize {
        let default = u32::try_from(default).expect("a default is in its range");
        self.count(key, allowed, default) as usize
    }

    /// A number with a fraction; `allowed` says in words what `fits` tests.
    pub(crate) fn fraction(
        &mut self,
        key: &'static str,
        fits: impl Fn(f64) -> bool,
        allowed: &str,
        default: f64,
    ) -> f64 {
        self.take(key)
            .and_then(|field| field.fraction(fits, allowed, default))
            .unwrap_or(default)
    }

    /// A duration above zero.
    pub(crate) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.take(key)
            .and_then(|field| field.duration(Zero::Refused))
            .unwrap_or(default)
    }

    /// A duration that may be zero.
    pub(crate) fn wait(&mut self, key: &'static str, default: Duration) -> Duration {
        self.take(key)
            .and_then(|field| field.duration(Zero::Allowed))
            .unwrap_or(default)
    }

    /// A duration above zero; `false` is none.
    pub(crate) fn optional(
        &mut self,
        key: &'static str,
        default: Option<Duration>,
    ) -> Option<Duration> {
        match self.take(key) {
            None => default,
            Some(field) if field.is_false() => None,
            Some(field) => field.duration(Zero::Refused),
        }
    }

    /// One of several words, each with its meaning.
    pub(crate) fn choice<T: Clone>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        self.take(key)
            .and_then(|field| field.choice(words))
            .unwrap_or(default)
    }

    /// A text that is not empty, if there is one.
    pub(crate) fn text(&mut self, key: &'static str, example: &str) -> Option<String> {
        self.take(key)?.parse("a text", example, value::filled)
    }

    /// A path, if there is one; a relative one is taken from `base`.
    pub(crate) fn file(
        &mut self,
        key: &'static str,
        base: &Path,
        example: &str,
    ) -> Option<PathBuf> {
        self.text(key, example).map(|path| base.join(path))
    }

    /// An array of texts that are not empty; `None` where the key is left out.
    pub(crate) fn texts(&mut self, key: &'static str, example: &str) -> Option<Vec<String>> {
        let field = self.take(key)?;
        let parse = |element: &Field<'_>| element.parse("a text", example, value::filled);
        Some(field.elements(example).iter().filter_map(parse).collect())
    }

    /// A table of texts under names of the file's own choice; empty where it is left out.
    pub(crate) fn map(
        &mut self,
        key: &'static str,
        example: &str,
        allowed: impl Fn(&str, &str) -> Result<(), Wrong>,
    ) -> BTreeMap<String, String> {
        let Some(field) = self.take(key) else {
            return BTreeMap::new();
        };
        if !field.is_table() {
            field.expected("a table of texts", Some(example));
            return BTreeMap::new();
        }
        let members = field.members().into_iter();
        members
            .filter_map(|(name, field)| {
                let text = field.parse("a text", "\"…\"", |text| {
                    allowed(name, text)?;
                    Ok(text.to_owned())
                })?;
                Some((name.to_owned(), text))
            })
            .collect()
    }

    /// A secret's whereabouts, if there is one.
    pub(crate) fn secret(&mut self, key: &'static str, base: &Path) -> Option<Secret> {
        let field = self.take(key)?;
        let places = format!("write `{key} = {{ file = \"…\" }}` or `{key} = {{ env = \"…\" }}`");
        if !field.is_table() {
            field.hide();
            field.wrong(Wrong::new("a secret does not stand in this file").suggest(places));
            return None;
        }
        Table::of(&field).finish(|table| {
            let file = table.file("file", base, "\"/run/secrets/token\"");
            let variable = table.text("env", "\"CALLBOARD_TOKEN\"");
            if table.has("file") == table.has("env") {
                let wrong = Wrong::new("a secret comes from a file or from a variable");
                field.wrong(wrong.suggest(places));
            }
            let secret = file.map(Secret::File).or(variable.map(Secret::Env))?;
            if field.problems.is_strict() {
                match secret.read() {
                    Err(why) => field.unlikely(Wrong::new(why)),
                    Ok(text) if text.is_empty() => field.unlikely(Wrong::new("it is empty")),
                    Ok(_) => {}
                }
            }
            Some(secret)
        })
    }
}
