//! A figure that the README has is one of the page of benchmarks.

use super::page::Page;

/// The numbers with two decimals in a text.
fn ratios(text: &str) -> Vec<f64> {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let ratios =
        words.filter(|word| matches!(word.split_once('.'), Some((_, cents)) if cents.len() == 2));
    ratios.map(|word| word.parse().unwrap()).collect()
}

#[test]
fn the_readme_has_the_least_and_the_most_of_all_runs_beside_a_peer() {
    let page = Page::read("docs/benchmarks.md");
    let runs = page.rows("CPU per request");
    let (head, runs) = runs.split_first().unwrap();
    let readme = Page::read("README.md");
    for peer in ["nginx", "HAProxy"] {
        let column = head.iter().position(|cell| *cell == format!("÷ {peer}"));
        let column = column.expect(peer);
        let measured = runs.iter().filter(|row| row[0] != "held to");
        let all: Vec<_> = measured.flat_map(|row| ratios(&row[column])).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(0.0, f64::max);
        let rows = readme.rows("Beside others");
        let row = rows.iter().find(|row| row[0] == peer).expect(peer);
        assert_eq!(row[2], format!("{least:.2}–{most:.2}"), "{peer}");
    }
}

#[test]
fn each_figure_that_the_readme_lists_stands_on_the_page_too() {
    let page = Page::read("docs/benchmarks.md").text;
    let rows = Page::read("README.md").rows("Measured");
    for row in &rows[1..] {
        let (figure, beside) = row[1].split_once(" (").unwrap_or((&row[1], ""));
        let peers = ratios(beside)
            .into_iter()
            .map(|ratio| format!("{ratio:.2}"));
        for figure in peers.chain([figure.to_owned()]) {
            assert!(page.contains(&figure), "{}: {figure}", row[0]);
        }
        let command = row[2].trim_matches('`');
        let (program, only) = command.split_once(' ').unwrap();
        let only = only.trim_start_matches("--only ");
        assert!(page.contains(program) && page.contains(only), "{command}");
    }
}
