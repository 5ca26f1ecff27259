//! Sets of statuses of HTTP, and of gRPC: `[502, 503]`, `["5xx"]`, `["grpc-unavailable"]`, or one of them
//! alone.

use crate::{
    config::document::{field::Field, report::Wrong, table::Table},
    grpc::Code,
};

/// A set of statuses, as a bit for each from 100 on; and those of gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Statuses {
    http: [u64; 8],
    grpc: u32,
}

impl Statuses {
    fn of(codes: impl IntoIterator<Item = u16>) -> Self {
        let mut all = Self::default();
        for code in codes {
            let (word, bit) = place(code);
            all.http[word] |= bit;
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
        self.http.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether one of an answer's two statuses is.
    pub(crate) fn holds(&self, status: http::StatusCode, grpc: Option<Code>) -> bool {
        self.contains(status) || self.holds_grpc(grpc)
    }

    /// Whether the status of gRPC is one of them.
    pub(crate) fn holds_grpc(&self, grpc: Option<Code>) -> bool {
        grpc.is_some_and(|code| self.grpc & code.bit() != 0)
    }

    /// Whether there is one of HTTP.
    pub(crate) fn has_http(&self) -> bool {
        // All of them joined: a loop that ends at the first, and so a comparison of the whole, costs more.
        self.http.iter().fold(0, |all, word| all | word) != 0
    }

    /// Whether there is one of gRPC.
    pub(crate) fn has_grpc(&self) -> bool {
        self.grpc != 0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.has_http() && !self.has_grpc()
    }

    fn and(mut self, other: Self) -> Self {
        for (word, other) in std::iter::zip(&mut self.http, other.http) {
            *word |= other;
        }
        self.grpc |= other.grpc;
        self
    }
}

fn place(code: u16) -> (usize, u64) {
    let bit = usize::from(code.saturating_sub(100));
    (bit / 64, 1 << (bit % 64))
}

/// Reads a set of statuses; `None` where the key is left out.
pub(crate) fn read(table: &mut Table<'_>, key: &'static str) -> Option<Statuses> {
    read_set(table, key, |field| grpc(field).or_else(|| some(field)))
}

/// The same of HTTP's alone.
pub(crate) fn read_http(table: &mut Table<'_>, key: &'static str) -> Option<Statuses> {
    read_set(table, key, some)
}

fn read_set(
    table: &mut Table<'_>,
    key: &'static str,
    some: impl Fn(&Field<'_>) -> Option<Statuses>,
) -> Option<Statuses> {
    let field = table.take(key)?;
    let elements = field.one_or_more("502");
    let sets = elements.iter().filter_map(some);
    Some(sets.fold(Statuses::default(), Statuses::and))
}

/// One of gRPC's, where the text begins like one.
fn grpc(field: &Field<'_>) -> Option<Statuses> {
    let code = Code::of_name(field.text()?.strip_prefix("grpc-")?)?;
    Some(Statuses {
        grpc: code.bit(),
        ..Statuses::default()
    })
}

fn some(field: &Field<'_>) -> Option<Statuses> {
    if field.is_number() || !field.is_text() {
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
    fn those_of_grpc_have_names() {
        let config = config(&format!(
            "[defaults]\nretry.on = [503, \"grpc-unavailable\"]\n{ROUTE}"
        ));
        let on = config.defaults.retry.on;
        let of = |name| crate::grpc::Code::of_name(name);
        assert!(on.holds(StatusCode::OK, of("unavailable")));
        assert!(on.holds(StatusCode::SERVICE_UNAVAILABLE, None));
        assert!(!on.holds(StatusCode::OK, of("internal")) && !on.holds(StatusCode::OK, None));
        let found = errors(&format!("{ROUTE}[defaults]\nretry.on = \"grpc-late\"\n"));
        assert!(found[0].contains("`grpc-late` is no class"), "{found:?}");
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
