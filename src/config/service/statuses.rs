//! Sets of HTTP statuses: `[502, 503]`, `["5xx"]`, or one of them alone.

use crate::config::document::{field::Field, report::Wrong, table::Table};

/// A set of statuses, as a bit for each from 100 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Statuses([u64; 8]);

impl Statuses {
    fn of(codes: impl IntoIterator<Item = u16>) -> Self {
        let mut all = Self::default();
        for code in codes {
            let (word, bit) = place(code);
            all.0[word] |= bit;
        }
        all
    }

    /// All that begin with this digit.
    pub(crate) fn class(digit: u16) -> Self {
        Self::of(digit * 100..digit * 100 + 100)
    }

    /// Whether the status is one of them.
    pub fn contains(&self, status: http::StatusCode) -> bool {
        let (word, bit) = place(status.as_u16());
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 8]
    }

    fn and(mut self, other: Self) -> Self {
        for (word, other) in std::iter::zip(&mut self.0, other.0) {
            *word |= other;
        }
        self
    }
}

fn place(code: u16) -> (usize, u64) {
    let bit = usize::from(code.saturating_sub(100));
    (bit / 64, 1 << (bit % 64))
}

/// Reads a set of statuses; `None` where the key is left out.
pub(crate) fn read(table: &mut Table<'_>, key: &'static str) -> Option<Statuses> {
    let field = table.take(key)?;
    let elements = field.one_or_more("502");
    let sets = elements.iter().filter_map(some);
    Some(sets.fold(Statuses::default(), Statuses::and))
}

fn some(field: &Field<'_>) -> Option<Statuses> {
    if !field.is_text() {
        let code = field.count(100..=599, 503)?;
        return Some(Statuses::of([code as u16]));
    }
    field.parse("a status", "\"5xx\"", |text| {
        let class = |digit: &str| digit.parse().ok().filter(|digit| (1..=5).contains(digit));
        match text.strip_suffix("xx").and_then(class) {
            Some(digit) => Ok(Statuses::class(digit)),
            None if text
                .parse()
                .is_ok_and(|code: u16| (100..=599).contains(&code)) =>
            {
                Err(
                    Wrong::new(format!("`{text}` is a text, and a status is a number"))
                        .suggest(format!("write {text}, without quotes")),
                )
            }
            None => Err(Wrong::new(format!("`{text}` is no class of statuses"))
                .suggest("write 503, or \"5xx\"")),
        }
    })
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
            wrong("[\"6xx\", 99, \"503\"]"),
            [
                "4:19 defaults.eject.statuses: `6xx` is no class of statuses; write 503, or \"5xx\"",
                "4:26 defaults.eject.statuses: 99 is out of range; write a number from 100 to 599",
                "4:30 defaults.eject.statuses: `503` is a text, and a status is a number; write 503, without quotes",
            ]
        );
    }
}
