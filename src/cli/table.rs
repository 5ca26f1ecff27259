//! Tables of text, and how times stand in them.

use super::plain::Plain;

/// A head and rows, each column as wide as its widest cell; nothing where there are no rows. Cells may be
/// of others' choice.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.map(|row| row.map(|cell| Plain(cell).to_string())));
    if lines.len() == 1 {
        return String::new();
    }
    let width = |n: usize| lines.iter().map(|row| row[n].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|n| width(n).unwrap_or(0));
    let lines = lines.iter().map(|row| {
        let cells = std::iter::zip(row, widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    });
    lines.collect()
}

/// A moment in seconds since 1970, by the second and in UTC (RFC 3339).
pub(super) fn moment(unix_seconds: f64) -> String {
    let seconds = unix_seconds as u64;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Of years that begin in March, so that a leap day is the last of its year ("civil_from_days" of
    // Howard Hinnant's chrono-compatible date algorithms).
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// How long something takes, in its largest unit.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 90.0 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 36.0 * 3_600.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_that_of_the_calendar() {
        for (seconds, said) in [
            (0.0, "1970-01-01T00:00:00Z"),
            (951_782_399.9, "2000-02-28T23:59:59Z"),
            (951_782_400.0, "2000-02-29T00:00:00Z"),
            (1_078_099_200.0, "2004-03-01T00:00:00Z"),
            (1_795_529_205.5, "2026-11-24T14:06:45Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(moment(seconds), said);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_others_words_stay_in_their_line() {
        let rows = [["a", "bb"], ["ccc\n", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["one", "two"], rows.into_iter()),
            "one    two\na      bb\nccc\\n\n"
        );
        assert_eq!(table(["one"], std::iter::empty()), "");
        let times = [0.4, 89.0, 120.0, 7_200.0, 200_000.0].map(time);
        assert_eq!(times, ["0 s", "89 s", "2 min", "2 h", "2 days"]);
    }
}
