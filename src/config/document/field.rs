//! One value of a parsed file: reads it as what it should be, or notes at its key what is wrong
//! with it. Knows nothing of what keys mean.

use std::{
    borrow::Cow,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    report::{Problems, Wrong},
    value::{self, Zero},
    variables::Expansion,
};

/// One key with its value, or one element of an array.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    /// The key's full name.
    pub(crate) path: String,
    /// Where the key stands; for an element, the element.
    at: Range<usize>,
    /// What to put before an example value: `key = `, or nothing for an element.
    lead: String,
    pub(crate) value: &'a Spanned<DeValue<'a>>,
    pub(crate) problems: &'a Problems<'a>,
}

impl<'a> Field<'a> {
    pub(crate) fn of_key(
        path: String,
        key: &Spanned<Cow<'_, str>>,
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

    pub(crate) fn element(&self, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            path: self.path.clone(),
            at: value.span(),
            lead: String::new(),
            value,
            problems: self.problems,
        }
    }

    /// Notes what is wrong with the value.
    pub(crate) fn wrong(&self, wrong: Wrong) {
        if let Some(wrong) = self.sayable(wrong) {
            self.problems.add(self.at.clone(), Some(&self.path), wrong);
        }
    }

    /// What may be said of a value that is wrong; nothing of a variable that is not set, of which enough was
    /// said.
    fn sayable(&self, wrong: Wrong) -> Option<Wrong> {
        match (self.expansion(), self.text()) {
            (Some(expansion), _) if !expansion.is_known => None,
            (Some(expansion), Some(value)) => Some(expansion.hide(value, wrong)),
            _ => Some(wrong),
        }
    }

    /// What was put in for a variable, where the value is a text that has one.
    fn expansion(&self) -> Option<&'a Expansion> {
        let byte = self.is_text().then(|| self.value.span().start);
        byte.and_then(|byte| self.problems.expansion(byte))
    }

    /// What a text that is a single `${…}` stands for: that may be a number or a boolean, too.
    fn stands_for(&self) -> Option<&str> {
        let expansion = self.expansion()?;
        self.text().filter(|_| expansion.is_whole)
    }

    /// Notes what is probably not meant, where that is asked for. What may stand in a line that could
    /// not be read is no matter.
    pub(crate) fn unlikely(&self, wrong: Wrong) {
        if self.problems.is_strict() {
            self.names_nothing(wrong);
        }
    }

    /// Notes that what the value names is not there.
    pub(crate) fn names_nothing(&self, wrong: Wrong) {
        if let Some(wrong) = self.sayable(wrong) {
            self.problems.absent(self.at.clone(), &self.path, wrong);
        }
    }

    /// Notes that the value is of a wrong type.
    pub(crate) fn expected(&self, wanted: &str, example: Option<&str>) {
        let found = describe(self.value.get_ref());
        let wrong = Wrong::new(format!("expected {wanted}, found {found}"));
        self.wrong(match example {
            Some(example) => wrong.suggest(format!("write `{}{example}`", self.lead)),
            None => wrong,
        });
    }

    /// The entries of the table that the value must be.
    pub(crate) fn entries(&self) -> Option<&'a DeTable<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            _ => {
                self.expected("a table", value::example_of_a_table(&self.path));
                None
            }
        }
    }

    /// The members of the table that the value must be, by names of the file's own choice, in its
    /// order.
    pub(crate) fn members(&self) -> Vec<(&'a str, Self)> {
        let mut members: Vec<_> = self.entries().into_iter().flatten().collect();
        members.sort_by_key(|(name, _)| name.span().start);
        let field = |(name, value): (&'a Spanned<Cow<'a, str>>, _)| {
            let path = format!("{}.{}", self.path, name.get_ref());
            let field = Self::of_key(path, name, value, self.problems);
            (name.get_ref().as_ref(), field)
        };
        members.into_iter().map(field).collect()
    }

    /// Where a table's header stands. An inline table has none but its key; nor has one that only
    /// dotted keys make.
    pub(crate) fn header(&self) -> Range<usize> {
        match self.value.span() {
            span if self.problems.continues(span.start, '[') => span,
            _ => self.at.clone(),
        }
    }

    /// Keeps the value out of the report.
    pub(crate) fn hide(&self) {
        self.problems.hide(self.value.span());
    }

    /// Whether the value is a table.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Table(_))
    }

    /// Whether the value is this text.
    pub(crate) fn is_text_of(&self, text: &str) -> bool {
        matches!(self.value.get_ref(), DeValue::String(value) if value == text)
    }

    /// Whether the value is a whole number.
    pub(crate) fn is_number(&self) -> bool {
        let is_number = |text: &str| text.parse::<i64>().is_ok();
        matches!(self.value.get_ref(), DeValue::Integer(_))
            || self.stands_for().is_some_and(is_number)
    }

    /// Its text, where it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the value is a text.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::String(_))
    }

    /// Whether the value is an array without elements.
    pub(crate) fn is_empty_array(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Array(elements) if elements.is_empty())
    }

    /// Whether the value is false, which turns some things off.
    pub(crate) fn is_false(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Boolean(false))
            || self.stands_for() == Some("false")
    }

    /// Reads true or false.
    pub(crate) fn flag(&self) -> Option<bool> {
        match (self.value.get_ref(), self.stands_for()) {
            (DeValue::Boolean(flag), _) => Some(*flag),
            (_, Some("true")) => Some(true),
            (_, Some("false")) => Some(false),
            _ => {
                self.expected("true or false", Some("true"));
                None
            }
        }
    }

    /// Reads a whole number.
    pub(crate) fn count(&self, allowed: RangeInclusive<u32>, example: u32) -> Option<u32> {
        let (number, radix) = match self.value.get_ref() {
            DeValue::Integer(number) => (number.as_str(), number.radix()),
            _ if self.is_number() => (self.text().unwrap_or_default(), 10),
            _ => {
                self.expected("a whole number", Some(&example.to_string()));
                return None;
            }
        };
        let count = u32::from_str_radix(number, radix)
            .ok()
            .filter(|count| allowed.contains(count));
        if count.is_none() {
            let (least, most) = allowed.into_inner();
            let shown = describe(self.value.get_ref());
            let shown = shown.trim_start_matches("the number ");
            self.wrong(
                Wrong::new(format!("{shown} is out of range"))
                    .suggest(format!("write a number from {least} to {most}")),
            );
        }
        count
    }

    /// Reads a number with or without a fraction; `allowed` says in words what `fits` tests.
    pub(crate) fn fraction(
        &self,
        fits: impl Fn(f64) -> bool,
        allowed: &str,
        example: f64,
    ) -> Option<f64> {
        let number = match self.value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => i32::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(f64::from),
            _ => self.stands_for().and_then(|text| text.parse().ok()),
        };
        let number = number.filter(|number| fits(*number));
        if number.is_none() {
            self.expected(allowed, Some(&example.to_string()));
        }
        number
    }

    /// Reads the value's text. `wanted` and `example` are for a value that is no text.
    pub(crate) fn parse<T>(
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
    pub(crate) fn choice<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        let example = format!("\"{}\"", names[0]);
        self.parse(&value::list(&names), &example, |text| {
            let word = words.iter().find(|(name, _)| *name == text);
            word.map(|(_, meaning)| meaning.clone()).ok_or_else(|| {
                let wrong = Wrong::new(format!("`{text}` is not known here"));
                match value::meant(text, names.iter().copied()) {
                    Some(meant) => wrong.suggest(format!("did you mean \"{meant}\"?")),
                    None => wrong.suggest(format!("for now it may be {}", value::list(&names))),
                }
            })
        })
    }

    /// Reads a duration.
    pub(crate) fn duration(&self, zero: Zero) -> Option<Duration> {
        let example = match self.value.get_ref() {
            DeValue::Integer(number) => format!("\"{}s\"", number.as_str()),
            _ => "\"30s\"".to_owned(),
        };
        self.parse("a duration with its unit", &example, |text| {
            value::duration(text, zero)
        })
    }

    /// The elements of an array. `example` is one of them.
    pub(crate) fn elements(&self, example: &str) -> Vec<Field<'a>> {
        let DeValue::Array(elements) = self.value.get_ref() else {
            self.expected("an array", Some(&format!("[{example}]")));
            return Vec::new();
        };
        elements.iter().map(|value| self.element(value)).collect()
    }

    /// The elements of an array, or the one value that stands for an array of itself.
    pub(crate) fn one_or_more(&self, example: &str) -> Vec<Field<'a>> {
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
