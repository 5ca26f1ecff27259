//! What a file of Rust says: its imports, its paths, and what of it is for tests alone.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The path of a module from the crate's root, or of anything as the code says it.
pub(crate) type Names = Vec<String>;

/// What one file says, code for tests left out.
#[derive(Default)]
pub(crate) struct File {
    /// Paths outside of imports, and their first words.
    pub(crate) says: BTreeSet<Names>,
    pub(crate) words: BTreeSet<String>,
    /// Each import, under the name that it gives.
    pub(crate) imports: BTreeMap<String, Names>,
    pub(crate) for_tests: BTreeSet<String>,
}

/// Braces and words of a stream, one after the other.
fn flat(stream: TokenStream, into: &mut Vec<String>) {
    for tree in stream {
        match tree {
            TokenTree::Group(group) => {
                let braces = match group.delimiter() {
                    Delimiter::Brace => ["{", "}"],
                    _ => ["(", ")"],
                };
                into.push(braces[0].into());
                flat(group.stream(), into);
                into.push(braces[1].into());
            }
            TokenTree::Punct(punct) => into.push(punct.as_char().into()),
            TokenTree::Ident(word) => into.push(word.to_string()),
            TokenTree::Literal(_) => into.push("\"\"".into()),
        }
    }
}

impl File {
    pub(crate) fn parse(text: &str) -> Self {
        let (mut file, mut tokens) = (Self::default(), Vec::new());
        flat(text.parse().expect("sources are Rust"), &mut tokens);
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let mut at = 0;
        while at < tokens.len() {
            at += match &tokens[at..] {
                ["#", "(", "cfg", "(", "test", ")", ")", item @ ..] => 7 + file.leave_out(item),
                ["use", tree @ ..] if tree[0] != "<" => 1 + file.import(tree, &[]),
                ["pub", "(", scope @ ..] => {
                    3 + scope.iter().position(|token| *token == ")").unwrap_or(0)
                }
                [":", ":", ..] => 2 + path(&tokens[at + 2..]).1,
                rest => file.say(path(rest)),
            };
        }
        file
    }

    fn say(&mut self, (names, length): (Names, usize)) -> usize {
        self.words.extend(names.first().cloned());
        self.says.extend((names.len() > 1).then_some(names));
        length.max(1)
    }

    /// The length of an item: up to its `;` or the end of its braces.
    fn leave_out(&mut self, item: &[&str]) -> usize {
        let (mut depth, mut at) = (0, 0);
        loop {
            match item[at] {
                "{" | "(" => depth += 1,
                "}" | ")" => depth -= 1,
                "mod" => drop(self.for_tests.insert(item[at + 1].into())),
                _ => {}
            }
            at += 1;
            if depth == 0 && matches!(item[at - 1], "}" | ";") {
                return at;
            }
        }
    }

    /// Takes an import's tree behind a prefix, and returns its length.
    fn import(&mut self, tree: &[&str], prefix: &[String]) -> usize {
        let (names, mut at) = path(tree);
        let mut names = [prefix, &names].concat();
        match &tree[at..] {
            [":", ":", "{", ..] => {
                at += 3;
                while tree[at] != "}" {
                    at += self.import(&tree[at..], &names);
                    at += usize::from(tree[at] == ",");
                }
                return at + 1;
            }
            [":", ":", "*", ..] => (names.push("*".into()), at += 3).1,
            _ => {}
        }
        names.pop_if(|last| last == "self" && at == 1);
        let mut name = names.last().cloned().unwrap_or_default();
        if tree[at] == "as" {
            name = tree[at + 1].into();
            at += 2;
        }
        self.imports.insert(name, names);
        at
    }
}

/// `a::b::c` at the start: its words, and how many tokens they take.
fn path(tokens: &[&str]) -> (Names, usize) {
    let is_word = |word: &&str| word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(word) = tokens.get(at).filter(|word| is_word(word)) {
        names.push((*word).to_owned());
        match &tokens[at + 1..] {
            [":", ":", next, ..] if is_word(next) => at += 3,
            _ => return (names, at + 1),
        }
    }
    (names, at)
}
