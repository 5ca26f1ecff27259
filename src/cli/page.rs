//! What may be typed stands in the page of the command line, and what the documents show may be typed.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{Arg, ArgAction, Command, CommandFactory as _, Parser as _};

use super::Cli;

const PAGE: &str = include_str!("../../docs/command-line.md");

/// The page's text below each command's heading, up to the next one.
fn sections() -> Vec<(&'static str, &'static str)> {
    let sections = PAGE.split("\n## callboard ").skip(1);
    sections
        .map(|section| section.split_once('\n').expect("a section has a text"))
        .collect()
}

/// As the page names an argument: `--listen`, `FILE`.
fn named(argument: &Arg) -> String {
    match (argument.get_long(), argument.get_value_names()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some([name, ..])) => name.to_string(),
        (None, _) => argument.get_id().as_str().to_uppercase(),
    }
}

/// The cells of the rows that show an argument.
fn rows(section: &str) -> Vec<Vec<&str>> {
    let is_argument = |row: &&str| {
        let name = row.strip_prefix("| `").unwrap_or_default();
        name.starts_with("--") || name.starts_with(|c: char| c.is_ascii_uppercase())
    };
    let rows = section.lines().filter(is_argument);
    rows.map(|row| row.split('|').map(str::trim).collect())
        .collect()
}

fn shown(command: &Command) -> Vec<&Arg> {
    let arguments = command.get_arguments();
    arguments
        .filter(|argument| !argument.is_hide_set())
        .collect()
}

#[test]
fn the_page_has_every_command_with_each_of_its_flags_once_and_no_other() {
    let cli = Cli::command();
    let commands = cli.get_subcommands().filter(|one| !one.is_hide_set());
    let commands: Vec<_> = commands.collect();
    let names: BTreeSet<_> = commands.iter().map(|one| one.get_name()).collect();
    let of_the_page: BTreeSet<_> = sections().iter().map(|(name, _)| *name).collect();
    assert_eq!(of_the_page, names);
    for command in commands {
        let name = command.get_name();
        let mut sections = sections().into_iter();
        let (_, section) = sections.find(|one| one.0 == name).unwrap();
        let mut rows = rows(section);
        for argument in shown(command) {
            let argument_name = named(argument);
            let shown = format!("`{argument_name}`");
            let of_it = rows.extract_if(.., |row| row[1] == shown).count();
            assert_eq!(of_it, 1, "{name}: {argument_name}");
        }
        assert!(rows.is_empty(), "{name}: there is no {rows:?}");
    }
    // What `callboard` alone takes, `callboard run` takes too.
    let run = cli.find_subcommand("run").expect("there is one");
    let run: Vec<_> = shown(run).into_iter().map(named).collect();
    let alone = shown(&cli).into_iter().map(named);
    assert!(alone.into_iter().all(|one| run.contains(&one)));
}

#[test]
fn the_page_has_the_default_of_every_flag_that_has_one() {
    let cli = Cli::command();
    for (name, section) in sections() {
        let command = cli.find_subcommand(name).expect("see above");
        for argument in shown(command) {
            let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
            let [default] = argument.get_default_values() else {
                continue;
            };
            if is_switch {
                continue;
            }
            let shown = format!("`{}`", named(argument));
            let rows = rows(section);
            let row = rows.iter().find(|row| row[1] == shown).unwrap();
            let default = format!("`{}`", default.display());
            assert_eq!(row[2], default, "{name}: {shown}");
        }
    }
}

/// The words of a line of a shell, without its comment. Quotes hold words together, and no more.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quote, mut before) = (None, ' ');
    for c in line.chars() {
        match (quote, c) {
            // A comment; or where the output goes.
            (None, '#' | '>') if before == ' ' => break,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().expect("there is one").push(c),
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What a line gives to `callboard`, if it starts it.
fn arguments(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let first: Vec<_> = words.iter().take(2).map(String::as_str).collect();
    match first[..] {
        ["callboard", ..] => Some(words),
        ["cargo", "run"] => {
            let given = words.into_iter().skip_while(|word| word != "--").skip(1);
            Some(["callboard".to_owned()].into_iter().chain(given).collect())
        }
        _ => None,
    }
}

#[test]
fn every_command_of_the_documents_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    let docs = fs::read_dir(root.join("docs")).unwrap();
    pages.extend(docs.map(|entry| entry.unwrap().path()));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut count = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let blocks = text.split("\n```sh\n").skip(1);
        let blocks = blocks.filter_map(|rest| rest.split("```").next());
        for line in blocks.flat_map(str::lines) {
            if let Some(arguments) = arguments(line) {
                count += 1;
                if let Err(error) = Cli::try_parse_from(arguments) {
                    panic!("{}: {line}\n{error}", page.display());
                }
            }
        }
    }
    assert!(count > 5, "{count} commands were found");
}
