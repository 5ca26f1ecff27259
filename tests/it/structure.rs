//! The floors hold: no file imports from a module that stands beside or above its own, and no chain
//! of imports closes a circle. The picture in `src/lib.rs` is the list of the floors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::support::source::{File, Names};

#[test]
fn every_import_points_down_and_no_chain_of_them_closes_a_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    read(&src, &src, &mut sources);
    let found = findings(&sources);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn read(root: &Path, folder: &Path, sources: &mut BTreeMap<Names, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            // `a/mod.rs` and `a.rs` are `a`; `lib.rs` is the root.
            let name = path.strip_prefix(root).unwrap().with_extension("");
            let names = name.iter().map(|name| name.to_str().unwrap().to_owned());
            let names = names.filter(|name| name != "mod" && name != "lib");
            sources.insert(names.collect(), fs::read_to_string(&path).unwrap());
        }
    }
}

struct Crate(BTreeMap<Names, File>);

impl Crate {
    fn parse(sources: &BTreeMap<Names, String>) -> Self {
        let files = sources.iter();
        let mut files: BTreeMap<_, _> = files
            .map(|(at, text)| (at.clone(), File::parse(text)))
            .collect();
        let for_tests = files.iter().flat_map(|(at, file)| {
            let names = file.for_tests.iter();
            names.map(|name| child(at, name))
        });
        let for_tests: Vec<_> = for_tests.collect();
        files.retain(|at, _| !for_tests.iter().any(|test| at.starts_with(test)));
        Self(files)
    }

    fn child(&self, at: &[String], name: &str) -> Option<Names> {
        Some(child(at, name)).filter(|child| self.0.contains_key(child))
    }

    /// Where a path leads that is said in a module, beyond modules that only hand its name on.
    fn lead(&self, at: &Names, path: &[String], hops: u8) -> Option<Names> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match &**first {
            "crate" | "callboard" => Vec::new(),
            "super" => at[..at.len().checked_sub(1)?].to_vec(),
            _ => self.child(at, first)?,
        };
        while let Some((name, others)) = rest.split_first() {
            match self.child(&at, name) {
                Some(child) => at = child,
                None if name == "super" => drop(at.pop()),
                None => break,
            }
            rest = others;
        }
        let onward = rest
            .first()
            .and_then(|name| self.0[&at].imports.get(name))
            .filter(|_| hops > 0)
            .and_then(|path| self.lead(&at, &[path, &rest[1..]].concat(), hops - 1));
        Some(onward.unwrap_or(at))
    }

    /// The files that one needs: not those below it of which it only hands names on.
    fn needs(&self, at: &Names) -> BTreeSet<Names> {
        let file = &self.0[at];
        let lead = |path: &Names| self.lead(at, path, 9);
        let used = file.imports.iter().filter(|(name, path)| {
            file.words.contains(*name) || !lead(path).is_some_and(|to| to.starts_with(at))
        });
        let paths = file.says.iter().chain(used.map(|(_, path)| path));
        paths.filter_map(lead).filter(|to| to != at).collect()
    }
}

fn child(at: &[String], name: &str) -> Names {
    at.iter().cloned().chain([name.to_owned()]).collect()
}

/// A line for each thing that is wrong.
fn findings(sources: &BTreeMap<Names, String>) -> Vec<String> {
    // From the top: `//! service: what it is`, or `//! client, proxy: …`.
    let lines = sources[&Names::new()].lines();
    let picture = lines.skip_while(|line| !line.ends_with("```text"));
    let mut floors = BTreeMap::new();
    for (floor, line) in picture.enumerate() {
        if let Some((names, _)) = line.trim_start_matches("//! ").split_once(": ") {
            floors.extend(names.split(", ").map(|name| (name, floor)));
        }
    }
    let files = Crate::parse(sources);
    let needs: BTreeMap<_, _> = files.0.keys().map(|at| (at, files.needs(at))).collect();
    let mut found = Vec::new();
    for (at, needs) in &needs {
        let Some(top) = at.first() else { continue };
        let Some(own) = floors.get(&**top) else {
            found.push(format!("{} has no floor in src/lib.rs", at.join("::")));
            continue;
        };
        let is_below = |to: &Names| to.first().and_then(|to| floors.get(&**to)) > Some(own);
        let up = needs
            .iter()
            .filter(|to| to.first() != Some(top) && !is_below(to));
        found.extend(up.map(|to| format!("{} may not import {}", at.join("::"), to.join("::"))));
    }
    let unknown = floors
        .keys()
        .filter(|name| files.child(&[], name).is_none());
    found.extend(unknown.map(|name| format!("{name} is no module, and has a floor")));
    let around = circles(needs).into_iter();
    found.extend(around.map(|at| format!("{at} stands in a circle")));
    found
}

/// What is left when all is taken away that needs nothing, or that nothing needs; over and over.
fn circles(mut needs: BTreeMap<&Names, BTreeSet<Names>>) -> Vec<String> {
    loop {
        let before = needs.len();
        let there: BTreeSet<_> = needs.keys().map(|at| (*at).clone()).collect();
        needs.retain(|_, to| !to.is_disjoint(&there));
        let needed: BTreeSet<_> = needs.values().flatten().cloned().collect();
        needs.retain(|at, _| needed.contains(*at));
        if needs.len() == before {
            return needs.keys().map(|at| at.join("::")).collect();
        }
    }
}

#[test]
fn what_points_up_or_round_is_found_however_it_is_spelt() {
    let of = |sources: &[(&str, &str)]| {
        let root = "//! ```text\n//! proxy: a\n//! route, upstream: b\n//! config: c";
        let root = [("", root)];
        let empty = ["proxy", "route", "upstream", "config"].map(|name| (name, ""));
        let sources = root.iter().chain(&empty).chain(sources);
        let sources = sources.map(|(at, text)| {
            let names = at.split("::").filter(|name| !name.is_empty());
            (names.map(String::from).collect(), (*text).to_owned())
        });
        findings(&sources.collect())
    };
    let proxy = ("proxy", "pub use body::Body; mod body;");
    let body = ("proxy::body", "pub struct Body; use crate::config::Config;");
    assert!(of(&[proxy, body, ("config", "pub struct Config;")]).is_empty());
    for spelt in [
        "use crate::proxy::Body;",
        "pub use crate::{config::A, proxy::{body::{self}}};",
        "use super::proxy::body::*;",
        "fn f() -> Vec<crate::proxy::Body> { todo!() }",
        "fn f() { println!(\"{}\", crate::proxy::Body) }",
        "#[cfg(test)] mod tests { use x::Y; } use crate::proxy::Body as Other;",
    ] {
        let body = ("proxy::body", "pub struct Body;");
        let found = of(&[proxy, body, ("config", spelt)]);
        assert_eq!(found, ["config may not import proxy::body"], "{spelt}");
    }
    for fine in [
        "#[cfg(test)] use crate::proxy::Body;",
        "// crate::proxy::Body",
        "use proxy::x::Y;",
    ] {
        assert!(of(&[proxy, body, ("config", fine)]).is_empty(), "{fine}");
    }
    let found = of(&[("route", "use crate::upstream::Pool;"), ("upstream", "")]);
    assert_eq!(found, ["route may not import upstream"]);
    assert_eq!(
        of(&[("helpers", "")]),
        ["helpers has no floor in src/lib.rs"]
    );
    let root = "//! ```text\n//! proxy, route, upstream: a\n//! config, old: b";
    let found = of(&[("", root)]);
    assert_eq!(found, ["old is no module, and has a floor"]);
    let circle = [
        ("proxy", "pub use a::A; pub use b::B;"),
        ("proxy::a", "use super::B;"),
        ("proxy::b", "use super::A; use super::c;"),
        ("proxy::c", ""),
    ];
    assert_eq!(
        of(&circle),
        ["proxy::a stands in a circle", "proxy::b stands in a circle"]
    );
}
