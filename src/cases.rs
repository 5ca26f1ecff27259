//! The cases of a test as lines of text, for tables of texts and of what comes of them. Knows nothing of what is
//! tested.

/// The cases of a table: the lines above an arrow, or in front of it, and the lines behind it, or behind it and
/// the arrows right below.
pub(crate) fn cases(table: &str) -> Vec<(String, String)> {
    let (mut cases, mut above) = (Vec::<(String, String)>::new(), Vec::new());
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (front, behind) = match (line.strip_prefix("=> "), line.split_once(" => ")) {
            (Some(behind), _) => (None, Some(behind)),
            (None, Some((front, behind))) => (Some(front), Some(behind)),
            (None, None) => (Some(line), None),
        };
        above.extend(front);
        match (behind, cases.last_mut()) {
            (None, _) => {}
            (Some(more), Some((_, says))) if above.is_empty() => *says += &format!("\n{more}"),
            (Some(says), _) => cases.push((above.join("\n"), says.to_owned())),
        }
        if behind.is_some() {
            above.clear();
        }
    }
    assert!(above.is_empty(), "nothing comes of {above:?}");
    cases
}

#[test]
fn a_case_has_a_line_or_several_on_either_side_of_its_arrow() {
    let table = "\n  => none\n  a => one\n  b\n  c => two\n\n  d\n  => x => y\n  => z\n";
    let expected = [
        ("", "none"),
        ("a", "one"),
        ("b\nc", "two"),
        ("d", "x => y\nz"),
    ];
    let expected = expected.map(|(above, says)| (above.to_owned(), says.to_owned()));
    assert_eq!(cases(table), expected);
}
