//! A TOML file's text in parts, each of which is one service's: so that a part that did not change
//! is not read again, and none is held as a whole tree of values. Knows only as much of TOML as it
//! takes to find where tables begin; where it is not sure, it says so, and the whole is read.

use std::{borrow::Cow, collections::BTreeMap};

/// The text of each service's tables, with what stands before the first in the first; `None` where
/// that is not only comments, or a name is not bare.
pub(super) fn sections(text: &str) -> Option<BTreeMap<&str, Cow<'_, str>>> {
    let mut sections: BTreeMap<&str, Cow<'_, str>> = BTreeMap::new();
    let headers = headers(text)?;
    for (n, (at, name)) in headers.iter().enumerate() {
        let begins = if n == 0 { 0 } else { *at };
        let ends = headers.get(n + 1).map_or(text.len(), |(next, _)| *next);
        let part = &text[begins..ends];
        sections
            .entry(name)
            .and_modify(|before| before.to_mut().push_str(part))
            .or_insert(Cow::Borrowed(part));
    }
    Some(sections)
}

/// Where the line of each table's header begins, and the first part of its name.
fn headers(text: &str) -> Option<Vec<(usize, &str)>> {
    let bytes = text.as_bytes();
    let mut headers = Vec::new();
    let (mut at, mut line, mut begins_line, mut depth) = (0, 0, true, 0_usize);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\n' => (line, begins_line) = (at, true),
            b' ' | b'\t' | b'\r' => {}
            b'#' => at += memchr::memchr(b'\n', &bytes[at..])?,
            b'[' if begins_line && depth == 0 => {
                headers.push((line, first_part(&text[at..])?));
                (begins_line, depth) = (false, 1);
            }
            // Neither a comment nor a table: of no service that a header names.
            _ if headers.is_empty() => return None,
            _ => {
                begins_line = false;
                match byte {
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth = depth.checked_sub(1)?,
                    b'"' | b'\'' => at = end_of_string(bytes, at - 1)?,
                    _ => {}
                }
            }
        }
    }
    (depth == 0 && !headers.is_empty()).then_some(headers)
}

/// The first part of a header's name, if that is bare.
fn first_part(header: &str) -> Option<&str> {
    let name = header.strip_prefix('[').unwrap_or(header).trim_start();
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let end = name.find(|c| !is_bare(c))?;
    (end > 0).then(|| &name[..end])
}

/// What stands behind the string that begins at `at`.
fn end_of_string(bytes: &[u8], at: usize) -> Option<usize> {
    let quote = bytes[at];
    let is_long = bytes[at..].starts_with(&[quote; 3]);
    let mut at = at + if is_long { 3 } else { 1 };
    loop {
        match *bytes.get(at)? {
            b'\\' if quote == b'"' => at += 2,
            b'\n' if !is_long => return None,
            byte if byte == quote && !is_long => return Some(at + 1),
            byte if byte == quote && bytes[at..].starts_with(&[quote; 3]) => {
                // Two more may belong to what is quoted.
                let more = bytes[at + 3..].iter().take(2);
                let more = more.take_while(|byte| **byte == quote).count();
                return Some(at + 3 + more);
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_parted_where_a_services_tables_begin() {
        let text = "# all\n[cart]\nendpoints = [\n\"a:1\", # [not]\n['b:[1'],\n]\n\
            [shop.more]\na = \"\"\"\n[no]\\\"\"\"\"\"\n  [[ cart . x ]]\nb = '''\n[no]'''\n[last]\n";
        let parts = sections(text).unwrap();
        let names: Vec<_> = parts.keys().copied().collect();
        assert_eq!(names, ["cart", "last", "shop"]);
        assert!(parts["cart"].starts_with("# all\n[cart]"));
        assert!(parts["cart"].ends_with("'''\n[no]'''\n"));
        assert_eq!(parts["last"], "[last]\n");
        let length: usize = parts.values().map(|part| part.len()).sum();
        assert_eq!(length, text.len());
    }

    #[test]
    fn where_it_is_not_sure_it_says_so() {
        for text in [
            "",
            "# nothing",
            "cart = { endpoints = [] }\n[shop]\n",
            "[\"cart\"]\nendpoints = []\n",
            "[cart]\na = ]\n",
            "[cart]\na = [\n",
            "[cart]\na = \"b\nc\"\n",
            "[cart]\na = '''\n",
        ] {
            assert_eq!(sections(text), None, "{text}");
        }
    }
}
