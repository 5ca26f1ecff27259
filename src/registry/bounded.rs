//! Lists in a registry's JSON, up to a number of elements: one of the shortest that can be written
//! costs a hundred times its bytes once it is understood. Knows nothing of what they list.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
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

struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            if elements.len() == MAX_ENTRIES {
                return Err(A::Error::custom(format!(
                    "it lists more than {MAX_ENTRIES} entries"
                )));
            }
            elements.push(element);
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
    }
}
