//! Foreign text on a terminal and in a log of lines: names, paths and answers are others' to choose,
//! and a line's end, a terminal's control sequence or a turn of the writing direction in them would
//! be taken for ours.

use std::fmt::{self, Write};

/// What is shown as it is but for what a terminal or a reader of lines would obey, which is
/// escaped as Rust has it: `\n`, `\u{9b}`.
pub(super) struct Plain<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{:?}", self.0)
    }
}

/// JSON that is shown as it is but for the same, which is escaped as JSON has it. Nothing of that stands
/// outside of its texts but a line's end, which is left.
pub(super) fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => escaped.push(c),
            c if is_obeyed(c) => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_obeyed(*c)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// C0 and C1 controls, line and paragraph separators, and what turns the direction of text.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_or_a_reader_of_lines_would_obey_is_escaped_and_nothing_else() {
        for (text, shown) in [
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}31m\u{85}\u{7f}", "\\u{9b}31m\\u{85}\\u{7f}"),
            (
                "a\u{2028}b\u{202e}c\u{2066}",
                "a\\u{2028}b\\u{202e}c\\u{2066}",
            ),
            ("Ünïcode – \"as it is\" \\", "Ünïcode – \"as it is\" \\"),
            ("", ""),
        ] {
            assert_eq!(Plain(text).to_string(), shown);
        }
        assert_eq!(format!("{:?}", Plain("a\u{9b}")), "\"a\\u{9b}\"");
        assert_eq!(
            json("{\"a\": \"\u{9b}\u{202e}ü\u{7f}\"}\n"),
            "{\"a\": \"\\u009b\\u202eü\\u007f\"}\n"
        );
        // Also where it comes in pieces.
        assert_eq!(Plain(format_args!("{}{}", "\n", 1)).to_string(), "\\n1");
    }
}
