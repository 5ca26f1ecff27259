//! The floors hold: no file imports from a higher floor or from a neighbour on its own, and no
//! chain of imports closes a circle.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, fs,
    path::Path,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The floors, lowest first. A module of the crate that is missing here fails the test.
const FLOORS: &[&[&str]] = &[
    &[
        "backoff", "clock", "control", "disk", "error", "evidence", "instance", "log", "metrics",
    ],
    &["config", "saved", "tls"],
    &["registry", "route", "upstream"],
    &["service"],
    &["discovery"],
    &["client", "proxy"],
    &["admin", "embedded", "listen", "register", "worker"],
    &["app", "cli", "fuzzing", "main"],
];

/// Who may import a neighbour on its own floor.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("instance", "evidence"),
    ("control", "backoff"),
    ("tls", "config"),
    ("worker", "listen"),
    ("main", "app"),
    ("main", "cli"),
    ("cli", "app"),
];

#[test]
fn every_import_of_the_crate_points_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read_sources(&src, &src, &mut files);
    assert!(files.len() > 1, "no sources below {}", src.display());
    let findings = Crate::parse(&files).findings();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn read_sources(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder of the sources can be read") {
        let path = entry.expect("the sources stay while they are read").path();
        if path.is_dir() {
            read_sources(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            let name = path.strip_prefix(root).expect("found below it");
            files.push((format!("src/{}", name.display()), text));
        }
    }
}

/// A module's path from the crate's root. The binary's root stands at `main`.
type Module = Vec<String>;

/// One path that the code says, where it says it.
struct Mention {
    within: Module,
    path: Vec<String>,
    line: usize,
    import: Option<Import>,
}

/// What a `use` makes of a path.
struct Import {
    /// The name it has from here on; `None` for a glob.
    name: Option<String>,
    public: bool,
}

/// What one file says, `#[cfg(test)]` left out.
#[derive(Default)]
struct File {
    mentions: Vec<Mention>,
    /// Every identifier outside `use` items.
    words: BTreeSet<String>,
    /// Inline modules.
    modules: Vec<Module>,
    /// Modules declared for tests only.
    test_modules: Vec<Module>,
}

struct Crate {
    files: BTreeMap<String, File>,
    /// The file of each module.
    homes: BTreeMap<Module, String>,
    /// What each module's `use` items name: module and name → module in which the path stands,
    /// and the path.
    imports: BTreeMap<(Module, String), (Module, Vec<String>)>,
}

/// One file needs another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    line: usize,
    /// The file that the path names: `to`, or one that only hands the name on.
    named: String,
    to: String,
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: imports {}", self.from, self.line, self.to)
    }
}

impl Crate {
    /// Takes each file's path (`src/…`) and text.
    fn parse(sources: &[(String, String)]) -> Self {
        let mut files = BTreeMap::new();
        let mut homes = BTreeMap::new();
        let mut test_modules = Vec::new();
        for (path, text) in sources {
            let module = module_of(path);
            let tokens = text
                .parse::<TokenStream>()
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            let mut file = File::default();
            file.scan(tokens, &module);
            for inline in &file.modules {
                homes.insert(inline.clone(), path.clone());
            }
            test_modules.append(&mut file.test_modules);
            homes.insert(module, path.clone());
            files.insert(path.clone(), file);
        }
        homes.retain(|module, _| !test_modules.iter().any(|test| module.starts_with(test)));
        files.retain(|path, _| homes.contains_key(&module_of(path)));
        let imports = files
            .values()
            .flat_map(|file| &file.mentions)
            .filter_map(|mention| {
                let name = mention.import.as_ref()?.name.clone()?;
                let key = (mention.within.clone(), name);
                Some((key, (mention.within.clone(), mention.path.clone())))
            })
            .collect();
        Self {
            files,
            homes,
            imports,
        }
    }

    /// One line for each thing that is wrong.
    fn findings(&self) -> Vec<String> {
        let edges = self.edges();
        let strangers = self.files.keys().filter_map(|path| {
            let top = top_of(path)?;
            floor(&top)
                .is_none()
                .then(|| format!("{path}:1: `{top}` has no floor in tests/it/structure.rs"))
        });
        let climbs = edges.iter().filter_map(|edge| {
            let wrong = |to| Some((to, climb(&edge.from, to)?));
            let (to, why) = wrong(&edge.named).or_else(|| wrong(&edge.to))?;
            Some(format!("{}:{}: imports {to}: {why}", edge.from, edge.line))
        });
        let circles = circles(&edges);
        strangers.chain(climbs).chain(circles).collect()
    }

    fn edges(&self) -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for (from, file) in &self.files {
            for mention in &file.mentions {
                let Some((target, named)) = self.resolve(&mention.within, &mention.path) else {
                    continue;
                };
                let to = &self.homes[&target];
                if to != from && !file.only_hands_on(mention, &target) {
                    edges.insert(Edge {
                        from: from.clone(),
                        line: mention.line,
                        named: self.homes[&named].clone(),
                        to: to.clone(),
                    });
                }
            }
        }
        edges
    }

    /// The module that a path leads to when what others import and hand on is followed, and the
    /// module that the path itself names. `None` for what is outside the crate.
    fn resolve(&self, within: &Module, path: &[String]) -> Option<(Module, Module)> {
        let (named, rest) = self.descend(within, path)?;
        let (mut target, mut rest) = (named.clone(), rest.to_vec());
        let mut seen = BTreeSet::from([(within.clone(), path.to_vec())]);
        while let Some(name) = rest.first()
            && let Some((there, path)) = self.imports.get(&(target.clone(), name.clone()))
        {
            let path = [path, &rest[1..]].concat();
            if !seen.insert((there.clone(), path.clone())) {
                break;
            }
            let (onward, left) = self.descend(there, &path)?;
            (target, rest) = (onward, left.to_vec());
        }
        Some((target, named))
    }

    /// Walks a path down to its last module; the rest of the path is what is named there.
    fn descend<'p>(&self, within: &Module, path: &'p [String]) -> Option<(Module, &'p [String])> {
        let mut at = within.clone();
        let mut rest = path;
        match path[0].as_str() {
            "crate" | "callboard" => {
                let binary = path[0] == "crate" && within.first().is_some_and(|top| top == "main");
                at.truncate(usize::from(binary));
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while let [first, others @ ..] = rest
                    && first == "super"
                {
                    at.pop();
                    rest = others;
                }
            }
            first if !self.homes.contains_key(&child(&at, first)) => return None,
            _ => {}
        }
        while let [first, others @ ..] = rest
            && self.homes.contains_key(&child(&at, first))
        {
            at.push(first.clone());
            rest = others;
        }
        self.homes.contains_key(&at).then_some((at, rest))
    }
}

impl File {
    /// Whether a mention is a `pub use` of something below its own module which the file itself
    /// never says again: a name for others, not a need of this file.
    fn only_hands_on(&self, mention: &Mention, target: &Module) -> bool {
        mention.import.as_ref().is_some_and(|import| {
            let unsaid = |name| !self.words.contains(name);
            import.public
                && target.starts_with(&mention.within)
                && import.name.as_ref().is_none_or(unsaid)
        })
    }

    fn scan(&mut self, tokens: TokenStream, module: &Module) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        let mut public = false;
        while at < tokens.len() {
            let rest = &tokens[at..];
            if let Some(length) = test_item(rest) {
                if let Some(name) = declared_module(&rest[..length]) {
                    self.test_modules.push(child(module, &name));
                }
                at += length;
            } else if let Some(length) = visibility(rest) {
                public = true;
                at += length;
                continue;
            } else if is_word(rest, "use") && !is_punct(&rest[1..], '<') {
                let length = until_semicolon(rest);
                self.import(&rest[1..length - 1], Vec::new(), public, module);
                at += length;
            } else if let [_, TokenTree::Ident(name), TokenTree::Group(body), ..] = rest
                && is_word(rest, "mod")
            {
                let inner = child(module, &name.to_string());
                self.modules.push(inner.clone());
                self.scan(body.stream(), &inner);
                at += 3;
            } else if let Some(rooted) = separator(rest) {
                // What follows `::` here is another crate's or an associated item's path.
                at += rooted + path(&rest[rooted..]).1;
            } else if let TokenTree::Ident(word) = &rest[0] {
                let (path, length) = path(rest);
                self.words.insert(path[0].clone());
                if path.len() > 1 {
                    self.mentions.push(Mention {
                        within: module.clone(),
                        path,
                        line: word.span().start().line,
                        import: None,
                    });
                }
                at += length;
            } else {
                if let TokenTree::Group(group) = &rest[0] {
                    self.scan(group.stream(), module);
                }
                at += 1;
            }
            public = false;
        }
    }

    /// Takes one tree of a `use`, or several with commas between them.
    fn import(&mut self, tree: &[TokenTree], prefix: Vec<String>, public: bool, module: &Module) {
        for tree in tree.split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ',')) {
            // A leading `::` names another crate.
            if tree.is_empty() || separator(tree).is_some() {
                continue;
            }
            let (steps, length) = path(tree);
            let line = tree[0].span().start().line;
            let mut whole = [prefix.clone(), steps].concat();
            let rest = &tree[length..];
            let rest = &rest[separator(rest).unwrap_or(0)..];
            if let [TokenTree::Group(group)] = rest {
                let inner: Vec<_> = group.stream().into_iter().collect();
                self.import(&inner, whole, public, module);
                continue;
            }
            if whole.len() > 1 && whole.last().is_some_and(|last| last == "self") {
                whole.pop();
            }
            let name = match rest {
                [_, alias] if is_word(rest, "as") => Some(alias.to_string()),
                [] => whole.last().cloned(),
                _ => None,
            };
            self.mentions.push(Mention {
                within: module.clone(),
                path: whole,
                line,
                import: Some(Import { name, public }),
            });
        }
    }
}

/// `a::b::c` at the start of `tokens`: its words, and how many tokens they take.
fn path(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let mut words = Vec::new();
    let mut length = 0;
    while let Some(TokenTree::Ident(word)) = tokens.get(length) {
        words.push(word.to_string());
        length += 1;
        match (separator(&tokens[length..]), tokens.get(length + 2)) {
            (Some(two), Some(TokenTree::Ident(_))) => length += two,
            _ => break,
        }
    }
    (words, length)
}

/// How many tokens the `::` at the start takes.
fn separator(tokens: &[TokenTree]) -> Option<usize> {
    (is_punct(tokens, ':') && is_punct(&tokens[1..], ':')).then_some(2)
}

/// How many tokens the `pub` or `pub(…)` at the start takes.
fn visibility(tokens: &[TokenTree]) -> Option<usize> {
    let scoped = |token: &TokenTree| {
        let TokenTree::Group(group) = token else {
            return false;
        };
        let inner: Vec<_> = group.stream().into_iter().collect();
        let words = ["crate", "super", "self", "in"];
        group.delimiter() == Delimiter::Parenthesis
            && words.iter().any(|word| is_word(&inner, word))
    };
    is_word(tokens, "pub").then(|| 1 + usize::from(tokens.get(1).is_some_and(scoped)))
}

/// How many tokens the item takes which `#[cfg(test)]` at the start leaves out of the crate: up
/// to its `;` or its braces.
fn test_item(tokens: &[TokenTree]) -> Option<usize> {
    if !is_test_attribute(tokens) {
        return None;
    }
    let mut at = 2;
    while is_punct(&tokens[at..], '#') {
        at += 2;
    }
    at += visibility(&tokens[at..]).unwrap_or(0);
    let end = if is_word(&tokens[at..], "use") {
        until_semicolon(&tokens[at..])
    } else {
        let ends = |token: &TokenTree| match token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            _ => false,
        };
        let item = &tokens[at..];
        item.iter().position(ends).map_or(item.len(), |end| end + 1)
    };
    Some(at + end)
}

fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    is_punct(tokens, '#')
        && matches!(tokens.get(1), Some(TokenTree::Group(group))
            if group.stream().to_string().replace(' ', "") == "cfg(test)")
}

/// The name of the `mod name;` at the end.
fn declared_module(tokens: &[TokenTree]) -> Option<String> {
    match tokens {
        [.., TokenTree::Ident(word), name, TokenTree::Punct(_)] if word == "mod" => {
            Some(name.to_string())
        }
        _ => None,
    }
}

fn until_semicolon(tokens: &[TokenTree]) -> usize {
    let is_end = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ';');
    1 + tokens.iter().position(is_end).expect("a `use` ends in `;`")
}

fn is_word(tokens: &[TokenTree], word: &str) -> bool {
    matches!(tokens.first(), Some(TokenTree::Ident(ident)) if ident == word)
}

fn is_punct(tokens: &[TokenTree], punct: char) -> bool {
    matches!(tokens.first(), Some(TokenTree::Punct(found)) if found.as_char() == punct)
}

fn child(module: &Module, name: &str) -> Module {
    let mut child = module.clone();
    child.push(name.to_owned());
    child
}

/// `src/a/mod.rs` and `src/a.rs` are `a`, `src/lib.rs` is the root.
fn module_of(path: &str) -> Module {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let segments = path.split('/').map(str::to_owned);
    segments.filter(|segment| segment != "lib").collect()
}

/// The module of the crate's root that a file belongs to; `None` for the root itself.
fn top_of(path: &str) -> Option<String> {
    module_of(path).into_iter().next()
}

fn floor(top: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&top))
}

/// Why one file may not import from another.
fn climb(from: &str, to: &str) -> Option<String> {
    let from = top_of(from)?;
    let Some(to) = top_of(to) else {
        return Some("what is shared needs a module with a floor".to_owned());
    };
    let (above, below) = (floor(&from)?, floor(&to)?);
    if from == to || below < above || NEIGHBOURS.contains(&(&*from, &*to)) {
        return None;
    }
    let (above, below) = (above + 1, below + 1);
    Some(format!("floor {above} may not import from floor {below}"))
}

/// One line for each circle, told by its shortest way round, from its first file.
fn circles(edges: &BTreeSet<Edge>) -> Vec<String> {
    let starts: BTreeSet<_> = edges.iter().map(|edge| &edge.from).collect();
    let mut told = BTreeSet::new();
    let mut lines = Vec::new();
    for start in starts {
        let Some(way) = way_round(start, edges) else {
            continue;
        };
        let members: BTreeSet<_> = way.iter().map(|edge| edge.from.clone()).collect();
        if told.insert(members) {
            let steps: Vec<_> = way.iter().map(Edge::to_string).collect();
            lines.push(format!("{}: closes a circle", steps.join(", ")));
        }
    }
    lines
}

/// The shortest chain of imports from a file back to itself.
fn way_round(start: &str, edges: &BTreeSet<Edge>) -> Option<Vec<Edge>> {
    let mut seen = BTreeSet::new();
    let mut queue = VecDeque::from([(start.to_owned(), Vec::new())]);
    while let Some((file, way)) = queue.pop_front() {
        for edge in edges.iter().filter(|edge| edge.from == file) {
            let mut onward = way.clone();
            onward.push(edge.clone());
            if edge.to == start {
                return Some(onward);
            }
            if seen.insert(edge.to.clone()) {
                queue.push_back((edge.to.clone(), onward));
            }
        }
    }
    None
}

mod can_fail {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (format!("src/{path}"), (*text).to_owned()))
            .collect();
        Crate::parse(&files).findings()
    }

    #[track_caller]
    fn assert_found(files: &[(&str, &str)], expected: &[&str]) {
        let findings = findings(files);
        assert_eq!(findings.len(), expected.len(), "{findings:#?}");
        for (finding, start) in findings.iter().zip(expected) {
            assert!(finding.starts_with(start), "{finding}\nis not\n{start}");
        }
    }

    const CONFIG: (&str, &str) = ("config/mod.rs", "pub struct Config;");
    const PROXY: (&str, &str) = ("proxy/mod.rs", "pub mod body; pub struct Proxy;");
    const BODY: (&str, &str) = ("proxy/body.rs", "pub struct Body;");

    #[test]
    fn an_import_that_points_down_is_fine() {
        let user = (
            "proxy/retry.rs",
            "use crate::config::Config; use super::body::Body;",
        );
        assert_found(&[CONFIG, PROXY, BODY, user], &[]);
    }

    #[test]
    fn an_import_that_points_up_is_found_in_every_spelling() {
        let spellings = [
            "\nuse crate::proxy::body::Body;",
            "\npub use crate::proxy::body::Body as Other;",
            "\nuse crate::{proxy::{body::{self}}};",
            "\nuse crate::{instance::Address, proxy::body::*};",
            "\nuse super::proxy::{body::Body};",
            "\nfn f() -> crate::proxy::body::Body { todo!() }",
            "\nfn f() { println!(\"{}\", crate::proxy::body::Body) }",
            "\nmod inner { use super::super::proxy::body::Body; }",
            "\nfn f() -> impl Iterator + use<> { super::proxy::body::Body }",
            "\npub(crate) static BODY: [crate::proxy::body::Body; 0] = [];",
        ];
        for text in spellings {
            assert_found(
                &[PROXY, BODY, ("config/mod.rs", text), ("instance.rs", "")],
                &["src/config/mod.rs:2: imports src/proxy/body.rs: floor 2 may not"],
            );
        }
    }

    #[test]
    fn a_name_that_is_handed_on_leads_to_where_it_comes_from() {
        let error = ("error.rs", "pub struct Error;");
        let parent = (
            "upstream/mod.rs",
            "pub mod http1; pub use crate::error::Error;",
        );
        let child = ("upstream/http1.rs", "use super::Error;");
        let sibling = ("upstream/pool.rs", "use super::http1::Error;");
        assert_found(&[error, parent, child, sibling], &[]);
    }

    #[test]
    fn a_name_taken_from_a_neighbour_is_found_wherever_it_comes_from() {
        let error = ("error.rs", "pub struct Error;");
        let facade = ("upstream/mod.rs", "pub use crate::error::Error;");
        let user = ("route/mod.rs", "use crate::upstream::Error;");
        let expected = ["src/route/mod.rs:1: imports src/upstream/mod.rs: floor 3"];
        assert_found(&[error, facade, user], &expected);
    }

    #[test]
    fn neighbours_on_a_floor_do_not_import_each_other() {
        assert_found(
            &[
                ("route/mod.rs", "use crate::upstream::Pool;"),
                ("upstream/mod.rs", ""),
            ],
            &[
                "src/route/mod.rs:1: imports src/upstream/mod.rs: floor 3 may not import from floor 3",
            ],
        );
        assert_found(
            &[
                ("worker.rs", "use crate::listen::Accept;"),
                ("listen/mod.rs", ""),
            ],
            &[],
        );
        assert_found(
            &[
                ("listen/mod.rs", "use crate::worker::Worker;"),
                ("worker.rs", ""),
            ],
            &["src/listen/mod.rs:1: imports src/worker.rs"],
        );
    }

    #[test]
    fn the_binary_stands_on_the_highest_floor() {
        let main = ("main.rs", "use callboard::cli; fn main() { cli::main() }");
        assert_found(
            &[main, ("cli/mod.rs", "use crate::app::App;"), ("app.rs", "")],
            &[],
        );
    }

    #[test]
    fn a_circle_of_files_within_a_module_is_found_once() {
        let a = ("upstream/a.rs", "\nuse super::b::B;");
        let b = ("upstream/b.rs", "use crate::upstream::c;");
        let c = ("upstream/c.rs", "use super::a::A;");
        assert_found(
            &[("upstream/mod.rs", "mod a; mod b; mod c;"), a, b, c],
            &[
                "src/upstream/a.rs:2: imports src/upstream/b.rs, src/upstream/b.rs:1: imports \
               src/upstream/c.rs, src/upstream/c.rs:1: imports src/upstream/a.rs: closes a circle",
            ],
        );
    }

    #[test]
    fn a_module_and_its_child_close_a_circle_only_when_each_needs_the_other() {
        let child = ("upstream/http1.rs", "use super::Pool;");
        let hands_on = ("upstream/mod.rs", "pub use http1::Http1; pub struct Pool;");
        assert_found(&[hands_on, child], &[]);
        for needs in [
            "pub use http1::Http1; pub struct Pool(Http1);",
            "use http1::Http1; pub struct Pool;",
            "pub struct Pool(http1::Http1);",
            "pub struct Pool(self::http1::Http1);",
        ] {
            assert_found(
                &[("upstream/mod.rs", needs), child],
                &["src/upstream/http1.rs:1: imports src/upstream/mod.rs, src/upstream/mod.rs:1"],
            );
        }
    }

    #[test]
    fn a_circle_behind_a_name_that_is_handed_on_is_found() {
        let parent = ("upstream/mod.rs", "pub use a::A; pub use b::B;");
        let a = ("upstream/a.rs", "use super::B;");
        let b = ("upstream/b.rs", "use super::A;");
        assert_found(
            &[parent, a, b],
            &["src/upstream/a.rs:1: imports src/upstream/b.rs"],
        );
    }

    #[test]
    fn a_module_without_a_floor_is_found() {
        assert_found(
            &[("helpers/mod.rs", "")],
            &["src/helpers/mod.rs:1: `helpers` has no floor"],
        );
    }

    #[test]
    fn an_item_of_the_root_has_no_floor_either() {
        assert_found(
            &[
                ("lib.rs", "pub struct Everything;"),
                ("config/mod.rs", "use crate::Everything;"),
            ],
            &["src/config/mod.rs:1: imports src/lib.rs"],
        );
    }

    #[test]
    fn code_for_tests_is_left_out_and_nothing_more() {
        let text = "
            #[cfg(test)] use crate::proxy::{Proxy};
            #[cfg(test)] #[allow(dead_code)] pub(crate) mod tests { use crate::proxy::Proxy; }
            #[cfg(test)] mod more;
            #[cfg(test)] fn helper(_: [u8; 2]) -> crate::proxy::Proxy { todo!() }
            // use crate::proxy::Comment;
            /* crate::proxy::Comment */
            const TEXT: &str = \"crate::proxy::Text\";
            use crate::proxy::Real;
        ";
        let more = ("config/more.rs", "use crate::proxy::Proxy;");
        assert_found(
            &[PROXY, ("config/mod.rs", text), more],
            &["src/config/mod.rs:9: imports src/proxy/mod.rs"],
        );
    }

    #[test]
    fn another_crate_is_no_module_of_ours() {
        let text =
            "use proxy_wasm::proxy::X; use ::proxy::Y; fn f(x: ::proxy::Z, y: std::proxy::Z) {}";
        assert_found(&[PROXY, ("config/mod.rs", text)], &[]);
    }
}
