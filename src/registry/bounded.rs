//! Lists in a registry's JSON, up to a number of elements: one of the shortest that can be written
//! costs a hundred times its bytes once it is understood. Knows nothing of what they list.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// More than any registry lists: as many instances as would be read of one answer have more bytes.
pub(super) const MAX_ENTRIES: usize = 200_000;

/// The elements of an array, as they stand there.
pub(super) struct List<'a>(pub(super) Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Elements).map(Self)
    }
}

/// The fields of an object, as they stand there.
pub(super) struct Fields<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs).map(Self)
    }
}

/// Takes one more, if it may be there.
fn push<T, E: Error>(all: &mut Vec<T>, one: T) -> Result<(), E> {
    if all.len() == MAX_ENTRIES {
        return Err(E::custom(format!(
            "it lists more than {MAX_ENTRIES} entries"
        )));
    }
    all.push(one);
    Ok(())
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            push(&mut pairs, pair)?;
        }
        Ok(pairs)
    }
}

struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            push(&mut elements, element)?;
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_up_to_its_number_of_entries() {
        let of = |entries: usize| format!("[{}]", vec!["1"; entries].join(","));
        let text = of(3);
        let list: List<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(list.0.len(), 3);
        for (text, says) in [
            (
                of(MAX_ENTRIES + 1).as_str(),
                "it lists more than 200000 entries",
            ),
            ("{}", "expected a sequence"),
            ("null", "expected a sequence"),
            ("[1", "EOF"),
        ] {
            let error = serde_json::from_str::<List<'_>>(text).err().unwrap();
            assert!(error.to_string().contains(says), "{error}");
        }
        let of = |fields: usize| format!("{{{}}}", vec!["\"\":0"; fields].join(","));
        let text = of(3);
        let fields: Fields<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(fields.0.len(), 3);
        for (text, says) in [
            (
                of(MAX_ENTRIES + 1).as_str(),
                "it lists more than 200000 entries",
            ),
            ("[]", "expected a map"),
        ] {
            let error = serde_json::from_str::<Fields<'_>>(text).err().unwrap();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
