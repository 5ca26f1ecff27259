//! Takes the fields of a JSON object one by one, as Go reads them into a struct: by their names
//! without regard to case (and here to underscores), null for absent. Knows no names itself.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::duration;

/// What is wrong with a body, in Consul's words where it has them.
pub(super) type Reason = String;

/// An object whose fields are taken out one by one, by their names without regard to case and
/// underscores.
pub(super) struct Fields(BTreeMap<String, (String, Value)>);

impl Fields {
    pub(super) fn read(body: &[u8]) -> Result<Self, Reason> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err("Request decode failed: EOF".to_owned());
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self::of(map)),
            Ok(Value::Null) => Ok(Self::of(Map::new())),
            Ok(other) => Err(mismatch("the body", "an object", &other)),
            Err(error) => Err(format!("Request decode failed: {error}")),
        }
    }

    pub(super) fn of(map: Map<String, Value>) -> Self {
        Self(
            map.into_iter()
                .map(|(key, value)| (folded(&key), (key, value)))
                .collect(),
        )
    }

    fn take(&mut self, name: &str) -> Value {
        self.0
            .remove(&folded(name))
            .map_or(Value::Null, |(_, value)| value)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<String, Reason> {
        match self.take(name) {
            Value::Null => Ok(String::new()),
            value => text_of(value, name),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Reason> {
        match self.take(name) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(flag),
            other => Err(mismatch(name, "true or false", &other)),
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Result<i64, Reason> {
        match self.take(name) {
            Value::Null => Ok(0),
            value => value
                .as_i64()
                .ok_or_else(|| mismatch(name, "an integer", &value)),
        }
    }

    /// Below 0 is 0.
    pub(super) fn count(&mut self, name: &str) -> Result<u32, Reason> {
        let count = self.integer(name)?.max(0);
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// A string as Go writes it, or nanoseconds; zero and below are as absent.
    pub(super) fn duration(&mut self, name: &str) -> Result<Option<Duration>, Reason> {
        let duration = match self.take(name) {
            Value::Null => Duration::ZERO,
            Value::String(text) => duration::parse(&text)
                .map_err(|reason| format!("Request decode failed: {reason}"))?,
            Value::Number(nanos) => {
                let seconds = nanos.as_f64().unwrap_or(0.0) / 1e9;
                Duration::try_from_secs_f64(seconds.max(0.0))
                    .map_err(|_| format!("Request decode failed: {name}: {nanos} is too long"))?
            }
            other => return Err(mismatch(name, "a duration", &other)),
        };
        Ok(Some(duration).filter(|duration| !duration.is_zero()))
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, Reason> {
        self.list(name)?
            .into_iter()
            .map(|value| text_of(value, name))
            .collect()
    }

    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Value>, Reason> {
        match self.take(name) {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => Ok(list),
            other => Err(mismatch(name, "an array", &other)),
        }
    }

    pub(super) fn map(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Reason> {
        match self.take(name) {
            Value::Null => Ok(None),
            Value::Object(map) => Ok(Some(map)),
            other => Err(mismatch(name, "an object", &other)),
        }
    }

    /// For what Consul can do and this registry cannot.
    pub(super) fn refuse(&mut self, name: &str) -> Result<(), Reason> {
        if is_zero(&self.take(name)) {
            Ok(())
        } else {
            Err(format!("{name} is not supported by the embedded registry"))
        }
    }

    /// A key that no reader has taken is unknown, most likely a misspelt one.
    pub(super) fn finish(self) -> Result<(), Reason> {
        match self.0.into_values().next() {
            Some((key, _)) => Err(format!(
                "Request decode failed: json: unknown field {key:?}"
            )),
            None => Ok(()),
        }
    }
}

fn folded(key: &str) -> String {
    key.chars()
        .filter(|c| *c != '_')
        .flat_map(char::to_lowercase)
        .collect()
}

pub(super) fn text_of(value: Value, name: &str) -> Result<String, Reason> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(mismatch(name, "a string", &other)),
    }
}

pub(super) fn texts_of(
    map: Map<String, Value>,
    name: &str,
) -> Result<BTreeMap<String, String>, Reason> {
    map.into_iter()
        .map(|(key, value)| Ok((key, text_of(value, name)?)))
        .collect()
}

pub(super) fn mismatch(name: &str, wanted: &str, found: &Value) -> Reason {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("Request decode failed: {name}: {wanted} is wanted, not {found}")
}

/// Whether nothing is said: null, false, "", 0, or objects and arrays of nothing.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => is_blank(map),
    }
}

pub(super) fn is_blank(map: &Map<String, Value>) -> bool {
    map.values().all(is_zero)
}
