//! Walks a parsed file: tables that note which keys were asked for, so that the others are found
//! to be unknown, and fields that say what is wrong with them. Knows nothing of what keys mean.

use std::{
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
    Secret,
    report::{Problems, Wrong},
    value::{self, Zero},
};

/// One table of the file, or the absence of one: then every key has its default.
pub(super) struct Table<'a> {
    path: String,
    header: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
    problems: &'a Problems<'a>,
}

/// One key with its value, or one element of an array.
#[derive(Clone)]
pub(super) struct Field<'a> {
    /// The key's full name.
    path: String,
    /// Where the key stands; for an element, the element.
    at: Range<usize>,
    /// What to put before an example value: `key = `, or nothing for an element.
    lead: String,
    value: &'a Spanned<DeValue<'a>>,
    problems: &'a Problems<'a>,
}

impl<'a> Table<'a> {
    /// Reads a whole file.
    pub(super) fn root<T>(
        entries: &'a DeTable<'a>,
        problems: &'a Problems<'a>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        Self {
            path: String::new(),
            header: 0..0,
            entries: Some(entries),
            asked: Vec::new(),
            problems,
        }
        .finish(read)
    }

    fn finish<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let result = read(&mut self);
        for key in self.entries.into_iter().flat_map(|entries| entries.keys()) {
            if !self.asked.contains(&key.get_ref().as_ref()) {
                self.unknown(key);
            }
        }
        result
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>) {
        let written = key.get_ref().as_ref();
        let wrong = Wrong::new(format!("unknown key `{written}`"));
        let wrong = match value::nearest(written, self.asked.iter().copied()) {
            Some(meant) => wrong.suggest(format!("did you mean `{meant}`?")),
            None => wrong.suggest(format!("it may be {}", value::list(&self.asked))),
        };
        self.problems
            .add(key.span(), Some(&self.name(written)), wrong);
    }

    /// Leaves the keys that were not asked for alone, where it is not known which there may be.
    pub(super) fn ignore_rest(&mut self) {
        self.entries = None;
    }

    /// Whether the key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries
            .is_some_and(|entries| entries.contains_key(key))
    }

    /// The line of the table's header, from 1.
    pub(super) fn line(&self) -> usize {
        self.problems.line(self.header.start)
    }

    /// Notes something wrong with the table as a whole.
    pub(super) fn wrong(&self, wrong: Wrong) {
        self.problems
            .add(self.header.clone(), Some(&self.path), wrong);
    }

    /// Notes that the table lacks something.
    pub(super) fn absent(&self, key: &str, wrong: Wrong) {
        self.problems
            .absent(self.header.clone(), &self.name(key), wrong);
    }

    /// Notes that the file as a whole lacks something.
    pub(super) fn absent_from_file(&self, key: &str, wrong: Wrong) {
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
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
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
    pub(super) fn required(&mut self, key: &'static str, example: &str) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() && self.entries.is_some() {
            let wrong = Wrong::new(format!("the key `{key}` is missing"));
            self.absent(key, wrong.suggest(format!("write `{key} = {example}`")));
        }
        field
    }

    /// Reads a table inside this one; where it is left out, an empty one.
    pub(super) fn within<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> T {
        match self.take(key) {
            Some(field) => field.table().finish(read),
            None => Table {
                path: self.name(key),
                header: self.header.clone(),
                entries: None,
                asked: Vec::new(),
                problems: self.problems,
            }
            .finish(read),
        }
    }

    /// Reads each of the tables `[[key]]`, in their order.
    pub(super) fn each<T>(
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
                .map(|element| field.element(element).table().finish(&mut read))
                .collect(),
            DeValue::Table(_) => {
                let wrong = Wrong::new(format!("there may be several `{key}` tables"));
                field.wrong(wrong.suggest(format!("write `[[{key}]]`")));
                Vec::new()
            }
            _ => {
                field.expected(&format!("tables `[[{key}]]`"), None);
                Vec::new()
            }
        }
    }

    /// Reads each of the tables `[key.NAME]`, in their order.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&Arc<str>, &mut Table<'a>) -> T,
    ) -> BTreeMap<Arc<str>, T> {
        let Some(field) = self.take(key) else {
            return BTreeMap::new();
        };
        let tables = field.table().entries;
        let mut tables: Vec<_> = tables.into_iter().flatten().collect();
        tables.sort_by_key(|(name, _)| name.span().start);
        tables
            .into_iter()
            .map(|(name, value)| {
                let path = format!("{}.{}", field.path, name.get_ref());
                let table = Field::of_key(path, name, value, self.problems).table();
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

/// Values of one key, with a default. Where the value is wrong that is noted, and the default is
/// given in its place, so that reading goes on.
impl Table<'_> {
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(field) = self.take(key) else {
            return default;
        };
        match field.value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            _ => {
                field.expected("true or false", Some("true"));
                default
            }
        }
    }

    pub(super) fn count(
        &mut self,
        key: &'static str,
        allowed: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(field) = self.take(key) else {
            return default;
        };
        let DeValue::Integer(number) = field.value.get_ref() else {
            field.expected("a whole number", Some(&default.to_string()));
            return default;
        };
        let parsed = i128::from_str_radix(number.as_str(), number.radix()).ok();
        match parsed.and_then(|number| u32::try_from(number).ok()) {
            Some(number) if allowed.contains(&number) => number,
            _ => {
                let (least, most) = allowed.into_inner();
                field.wrong(
                    Wrong::new(format!("{number} is out of range"))
                        .suggest(format!("write a number from {least} to {most}")),
                );
                default
            }
        }
    }

    /// A count of what is counted in memory.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        allowed: RangeInclusive<u32>,
        default: usize,
    ) -> usize {
        let default = u32::try_from(default).expect("a default is in its range");
        self.count(key, allowed, default) as usize
    }

    /// A number with a fraction; `allowed` says in words what `fits` tests.
    pub(super) fn fraction(
        &mut self,
        key: &'static str,
        fits: impl Fn(f64) -> bool,
        allowed: &str,
        default: f64,
    ) -> f64 {
        let Some(field) = self.take(key) else {
            return default;
        };
        let number = match field.value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => i32::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(f64::from),
            _ => {
                field.expected(allowed, Some(&default.to_string()));
                return default;
            }
        };
        number.filter(|number| fits(*number)).unwrap_or_else(|| {
            field.expected(allowed, Some(&default.to_string()));
            default
        })
    }

    /// A duration above zero.
    pub(super) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.take(key)
            .and_then(|field| field.duration(Zero::Refused))
            .unwrap_or(default)
    }

    /// A duration that may be zero.
    pub(super) fn wait(&mut self, key: &'static str, default: Duration) -> Duration {
        self.take(key)
            .and_then(|field| field.duration(Zero::Allowed))
            .unwrap_or(default)
    }

    /// One of several words, each with its meaning.
    pub(super) fn choice<T: Copy>(
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
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<String> {
        self.take(key)?.parse("a text", example, value::filled)
    }

    /// A path, if there is one; a relative one is taken from `base`.
    pub(super) fn file(
        &mut self,
        key: &'static str,
        base: &Path,
        example: &str,
    ) -> Option<PathBuf> {
        self.text(key, example).map(|path| base.join(path))
    }

    /// An array of texts that are not empty; `None` where the key is left out.
    pub(super) fn texts(&mut self, key: &'static str, example: &str) -> Option<Vec<String>> {
        let field = self.take(key)?;
        let parse = |element: &Field<'_>| element.parse("a text", example, value::filled);
        Some(field.elements(example).iter().filter_map(parse).collect())
    }

    /// A secret's whereabouts, if there is one.
    pub(super) fn secret(&mut self, key: &'static str, base: &Path) -> Option<Secret> {
        let field = self.take(key)?;
        let places = format!("write `{key} = {{ file = \"…\" }}` or `{key} = {{ env = \"…\" }}`");
        if !field.is_table() {
            field.problems.hide(field.value.span());
            field.wrong(Wrong::new("a secret does not stand in this file").suggest(places));
            return None;
        }
        field.table().finish(|table| {
            let file = table.file("file", base, "\"/run/secrets/token\"");
            let variable = table.text("env", "\"CALLBOARD_TOKEN\"");
            if table.has("file") == table.has("env") {
                let wrong = Wrong::new("a secret comes from a file or from a variable");
                field.wrong(wrong.suggest(places));
            }
            file.map(Secret::File).or(variable.map(Secret::Env))
        })
    }
}

impl<'a> Field<'a> {
    fn of_key(
        path: String,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &'a Spanned<DeValue<'a>>,
        problems: &'a Problems<'a>,
    ) -> Self {
        Self {
            path,
            at: key.span(),
            lead: format!("{} = ", key.get_ref()),
            value,
            problems,
        }
    }

    fn element(&self, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            path: self.path.clone(),
            at: value.span(),
            lead: String::new(),
            value,
            problems: self.problems,
        }
    }

    /// Notes what is wrong with the value.
    pub(super) fn wrong(&self, wrong: Wrong) {
        self.problems.add(self.at.clone(), Some(&self.path), wrong);
    }

    /// Notes that what the value names is not there.
    pub(super) fn names_nothing(&self, wrong: Wrong) {
        self.problems.absent(self.at.clone(), &self.path, wrong);
    }

    /// Notes that the value is of a wrong type.
    fn expected(&self, wanted: &str, example: Option<&str>) {
        let found = describe(self.value.get_ref());
        let wrong = Wrong::new(format!("expected {wanted}, found {found}"));
        self.wrong(match example {
            Some(example) => wrong.suggest(format!("write `{}{example}`", self.lead)),
            None => wrong,
        });
    }

    /// The table that the value must be. Where it is something else that is noted, and the table
    /// is as though it had been left out.
    fn table(&self) -> Table<'a> {
        let entries = match self.value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            _ => {
                self.expected("a table", Some("{ … }"));
                None
            }
        };
        // An inline table has no header but its key; nor has one that only dotted keys make.
        let header = match self.value.span() {
            span if self.problems.continues(span.start, '[') => span,
            _ => self.at.clone(),
        };
        Table {
            path: self.path.clone(),
            header,
            entries,
            asked: Vec::new(),
            problems: self.problems,
        }
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Table(_))
    }

    /// The value, where it is true or false.
    pub(super) fn as_flag(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Reads the value's text. `wanted` and `example` are for a value that is no text.
    pub(super) fn parse<T>(
        &self,
        wanted: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let DeValue::String(text) = self.value.get_ref() else {
            self.expected(wanted, Some(example));
            return None;
        };
        read(text).map_err(|wrong| self.wrong(wrong)).ok()
    }

    /// Reads one of several words, each with its meaning.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        let example = format!("\"{}\"", names[0]);
        self.parse(&value::list(&names), &example, |text| {
            let word = words.iter().find(|(name, _)| *name == text);
            word.map(|(_, meaning)| *meaning).ok_or_else(|| {
                let wrong = Wrong::new(format!("`{text}` is not known here"));
                match value::nearest(text, names.iter().copied()) {
                    Some(meant) => wrong.suggest(format!("did you mean \"{meant}\"?")),
                    None => wrong.suggest(format!("for now it may be {}", value::list(&names))),
                }
            })
        })
    }

    /// Reads a duration.
    pub(super) fn duration(&self, zero: Zero) -> Option<Duration> {
        let example = match self.value.get_ref() {
            DeValue::Integer(number) => format!("\"{}s\"", number.as_str()),
            _ => "\"30s\"".to_owned(),
        };
        self.parse("a duration with its unit", &example, |text| {
            value::duration(text, zero)
        })
    }

    /// The elements of an array. `example` is one of them.
    pub(super) fn elements(&self, example: &str) -> Vec<Field<'a>> {
        let DeValue::Array(elements) = self.value.get_ref() else {
            self.expected("an array", Some(&format!("[{example}]")));
            return Vec::new();
        };
        elements.iter().map(|value| self.element(value)).collect()
    }

    /// The elements of an array, or the one value that stands for an array of itself.
    pub(super) fn one_or_more(&self, example: &str) -> Vec<Field<'a>> {
        match self.value.get_ref() {
            DeValue::Array(_) => self.elements(example),
            _ => vec![self.clone()],
        }
    }
}

/// A value in a sentence: what it is, and its text where that is short.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() > 40 => "a long text".to_owned(),
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
