//! Sets of HTTP statuses: `[502, 503]`, `["5xx"]`, or one of them alone.

use super::{field::Field, reader::Table, report::Wrong};

/// A set of statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Statuses(Vec<(u16, u16)>);

impl Statuses {
    /// All that begin with this digit.
    pub(super) fn class(digit: u16) -> Self {
        Self(vec![(digit * 100, digit * 100 + 99)])
    }

    /// Whether the status is one of them.
    pub fn contains(&self, status: http::StatusCode) -> bool {
        let code = status.as_u16();
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&code))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads a set of statuses; `None` where the key is left out.
pub(super) fn read(table: &mut Table<'_>, key: &'static str) -> Option<Statuses> {
    let field = table.take(key)?;
    let elements = field.one_or_more("502");
    Some(Statuses(elements.iter().filter_map(range).collect()))
}

fn range(field: &Field<'_>) -> Option<(u16, u16)> {
    if field.is_text() {
        return field.parse("a status", "\"5xx\"", |text| {
            let class = |digit: &str| digit.parse().ok().filter(|digit| (1..=5).contains(digit));
            match text.strip_suffix("xx").and_then(class) {
                Some(digit) => Ok(Statuses::class(digit).0[0]),
                None => Err(Wrong::new(format!("`{text}` is no class of statuses"))
                    .suggest("write 503, or \"5xx\"")),
            }
        });
    }
    let code = field.count(100..=599, 503)? as u16;
    Some((code, code))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use crate::config::testing::{config, errors};

    const ROUTE: &str = "[[route]]\nservice = \"cart\"\n";

    #[test]
    fn codes_and_classes_alone_or_in_an_array() {
        let has = |text: &str, code: u16| {
            let config = config(&format!("[defaults]\neject.statuses = {text}\n{ROUTE}"));
            let statuses = config.defaults.eject.unwrap().statuses;
            statuses.contains(StatusCode::from_u16(code).unwrap())
        };
        assert!(has("\"5xx\"", 500) && has("\"5xx\"", 599) && !has("\"5xx\"", 499));
        assert!(has("[502, \"4xx\"]", 502) && has("[502, \"4xx\"]", 404));
        assert!(has("503", 503) && !has("503", 502) && !has("[]", 500));
    }

    #[test]
    fn what_is_none_is_said() {
        let wrong = |text: &str| errors(&format!("{ROUTE}[defaults]\neject.statuses = {text}\n"));
        assert_eq!(
            wrong("[\"6xx\", 99]"),
            [
                "4:19 defaults.eject.statuses: `6xx` is no class of statuses; write 503, or \"5xx\"",
                "4:26 defaults.eject.statuses: 99 is out of range; write a number from 100 to 599",
            ]
        );
    }
}
