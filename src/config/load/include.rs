//! `include`: the other files that a file is made of. Finds and reads them. Knows no key but its own.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    str::Chars,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::config::document::{
    source::{self, Source},
    variables::{Expansions, environment},
    wrong::{Flaw, Wrong},
};

/// The key.
pub(crate) const KEY: &str = "include";

/// A file, or all files of a folder whose name fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Include(PathBuf);

impl Include {
    /// What a file includes, as it says at this moment.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(crate) fn of_file(path: &Path) -> io::Result<Vec<Self>> {
        if !fs::metadata(path)?.is_file() {
            return Ok(Vec::new());
        }
        let source = Source::new("", &fs::read_to_string(path)?, 0);
        let mut table = source.table();
        let mut expansions = Expansions::default();
        // Of one that is not set is said when the file is read.
        expansions.put_in(&mut table, &environment, &mut Vec::new());
        let base = path.parent().unwrap_or(Path::new(""));
        let patterns = patterns(&table, &expansions).into_iter();
        let includes = patterns.map(|(pattern, _)| Self(base.join(pattern)));
        Ok(includes.collect())
    }

    /// The files that there are at this moment, by their names.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub(crate) fn files(&self) -> io::Result<Vec<PathBuf>> {
        let name = self.0.file_name().and_then(|name| name.to_str());
        let Some(pattern) = name.filter(|name| is_pattern(name)) else {
            return Ok(vec![self.0.clone()]);
        };
        let folder = match self.0.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            // One that is not UTF-8 is known by what of it is.
            if fits(pattern, &name.to_string_lossy()) {
                names.insert(name);
            }
        }
        let files = names.iter().map(|name| self.0.with_file_name(name));
        Ok(files.filter(|path| !path.is_dir()).collect())
    }

    /// Why it is none, where a wildcard stands elsewhere than in the name.
    fn refused(&self) -> Option<Wrong> {
        let folder = self.0.parent()?;
        let mut parts = folder.iter().map(|part| part.to_string_lossy());
        parts.any(|part| is_pattern(&part)).then(|| {
            Wrong::new("`*` and `?` stand in the last part of a path alone")
                .suggest("write it like \"conf.d/*.toml\"")
        })
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether a name fits a pattern: `*` is any text, `?` one character. What begins with a dot is hidden
/// from both, as it is from a shell: an editor's half-written file is such a one.
fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // What follows the last `*`, and what of the name this was tried at: an earlier one need not take more.
    let mut last: Option<(Chars<'_>, Chars<'_>)> = None;
    loop {
        let ahead = (pattern.clone(), name.clone());
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                last = Some((pattern.clone(), ahead.1.clone()));
                name = ahead.1;
            }
            (Some(wanted), Some(c)) if wanted == '?' || wanted == c => {}
            _ => {
                let Some((after, tried)) = &mut last else {
                    return false;
                };
                if tried.next().is_none() {
                    return false;
                }
                (pattern, name) = (after.clone(), tried.clone());
            }
        }
    }
}

/// The texts of the key, and where each stands. What else it may be is no matter here.
fn patterns(table: &DeTable<'_>, expansions: &Expansions) -> Vec<(String, std::ops::Range<usize>)> {
    let Some(value) = table.get(KEY) else {
        return Vec::new();
    };
    let several = match value.get_ref() {
        DeValue::Array(elements) => &elements[..],
        _ => std::slice::from_ref(value),
    };
    let text = |one: &Spanned<DeValue<'_>>| match one.get_ref() {
        DeValue::String(text) if !text.is_empty() => {
            let expansion = expansions.at(one.span().start);
            let is_known = expansion.is_none_or(|expansion| expansion.is_known);
            is_known.then(|| (text.to_string(), one.span()))
        }
        _ => None,
    };
    several.iter().filter_map(text).collect()
}

/// Reads the files that a table includes, each once, in the order in which they are named; and what is
/// wrong with that. `own` is the file that the table stands in, where it is one.
pub(crate) fn read(
    table: &DeTable<'_>,
    expansions: &Expansions,
    own: Option<&Path>,
    base: &Path,
    first: usize,
) -> (Vec<Source>, Vec<Flaw>) {
    let (mut sources, mut flaws): (Vec<Source>, _) = (Vec::new(), Vec::new());
    let identity = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // A file is no part of itself.
    let mut known: BTreeSet<_> = own.into_iter().map(identity).collect();
    for (pattern, at) in patterns(table, expansions) {
        let include = Include(base.join(pattern));
        if let Some(wrong) = include.refused() {
            flaws.push((at, wrong));
            continue;
        }
        let files = include.files().unwrap_or_else(|error| {
            let folder = include.0.parent().unwrap_or(Path::new(""));
            let wrong = format!("cannot read the folder {}: {error}", folder.display());
            flaws.push((at.clone(), Wrong::new(wrong)));
            Vec::new()
        });
        for path in files.iter().filter(|path| known.insert(identity(path))) {
            let start = sources.last().map_or(first, Source::end);
            match text(path) {
                Ok(text) => sources.push(Source::new(path.display().to_string(), &text, start)),
                Err(wrong) => flaws.push((at.clone(), wrong)),
            }
        }
    }
    (sources, flaws)
}

/// The text of a file. What is no file, such as a pipe, is not waited for.
fn text(path: &Path) -> Result<String, Wrong> {
    let shown = path.display();
    let cannot = |error: io::Error| Wrong::new(format!("cannot read {shown}: {error}"));
    if !fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(Wrong::new(format!("{shown} is no file")));
    }
    let bytes = fs::read(path).map_err(cannot)?;
    source::decode(bytes).map_err(|line| Wrong::new(format!("line {line} of {shown} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Report};

    use super::*;

    /// A folder with these files, of which the first is read.
    fn read(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Config, Report>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let read = Config::load(&folder.path().join(files[0].0));
        (folder, read)
    }

    /// `file:line:column key: message; suggestion` of each error, without the folder.
    fn errors(files: &[(&str, &str)]) -> Vec<String> {
        let (folder, read) = read(files);
        let report = read.expect_err("it is wrong");
        let lines = report.diagnostics().iter().map(|error| {
            let place = error.place.as_ref();
            let place = place.map(|at| format!("{}:{}:{} ", at.file, at.line, at.column));
            let key = error.key.as_deref().unwrap_or("syntax");
            let suggestion = error.suggestion.as_deref().unwrap_or("nothing");
            let line = format!(
                "{}{key}: {}; {suggestion}",
                place.unwrap_or_default(),
                error.message
            );
            line.replace(&format!("{}/", folder.path().display()), "")
        });
        lines.collect()
    }

    const ALL: &str = "include = \"conf.d/*.toml\"\n";

    #[test]
    fn files_are_read_in_the_order_of_their_names_and_make_one_configuration() {
        let route = |path: &str| format!("[[route]]\npath = \"{path}\"\nservice = \"cart\"\n");
        let (folder, read) = read(&[
            (
                "proxy.toml",
                &format!(
                    "include = [\"conf.d/b*.toml\", \"conf.d/?.toml\", \"last\"]\n{}",
                    route("/0")
                ),
            ),
            ("conf.d/a.toml", &route("/a")),
            (
                "conf.d/b.toml",
                &format!("\n{}[service.cart]\ntls.ca = \"ca.pem\"\n", route("/b")),
            ),
            ("conf.d/.a.toml", "no TOML"),
            ("conf.d/c.toml.old", "no TOML"),
            (
                "last",
                "[drain]\nnotice = \"1s\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n",
            ),
        ]);
        let config = read.unwrap();
        let named = |name: &str| format!("{}/{name}", folder.path().display());
        let routes: Vec<_> = config
            .routes
            .iter()
            .map(|route| (route.path.to_string(), route.place_in_file()))
            .collect();
        assert_eq!(
            routes,
            [
                ("/0".to_owned(), "line 2".to_owned()),
                (
                    "/b".to_owned(),
                    format!("line 2 of {}", named("conf.d/b.toml"))
                ),
                (
                    "/a".to_owned(),
                    format!("line 1 of {}", named("conf.d/a.toml"))
                ),
            ]
        );
        let included: Vec<_> = config.included.iter().map(ToString::to_string).collect();
        assert_eq!(
            included,
            ["conf.d/b.toml", "conf.d/a.toml", "last"].map(named)
        );
        assert_eq!(config.drain.notice, std::time::Duration::from_secs(1));
        assert_eq!(config.listeners.len(), 1);
        // Paths are those of the file that includes.
        let ca = format!("{:?}", config.services["cart"].tls);
        assert!(ca.contains(&named("ca.pem")), "{ca}");
    }

    #[test]
    fn an_error_has_the_file_and_the_place_in_which_it_is() {
        let errors = errors(&[
            ("proxy.toml", &format!("{ALL}[drain]\nfoo = 1\n")),
            (
                "conf.d/a.toml",
                "\u{feff}[[route]]\npath = \"a\"\nservice = \"cart\"\n",
            ),
            ("conf.d/b.toml", "[log]\nlevel = warn\nformat = \"xml\"\n"),
        ]);
        assert_eq!(
            errors,
            [
                "proxy.toml:3:1 drain.foo: unknown key `foo`; it may be `notice` or `deadline`",
                "conf.d/a.toml:2:1 route.path: the path `a` does not begin with a slash; did you mean \"/a\"?",
                "conf.d/b.toml:2:9 syntax: this is not a value; a text stands in quotes, such as \"30s\"",
                "conf.d/b.toml:3:1 log.format: `xml` is not known here; for now it may be `auto`, `text` or `json`",
            ]
        );
    }

    #[test]
    fn what_stands_in_two_files_is_an_error_that_names_both() {
        let errors = errors(&[
            (
                "proxy.toml",
                &format!("{ALL}workers = 1\n[service.cart]\n[[route]]\nservice = \"cart\"\n"),
            ),
            (
                "conf.d/a.toml",
                "workers = 2\n[service.hat]\n[log]\nlevel = \"info\"\n",
            ),
            (
                "conf.d/b.toml",
                "\n\n[service.cart]\n[log]\n[service.hat]\n[[route]]\nservice = \"hat\"\n",
            ),
        ]);
        assert_eq!(
            errors,
            [
                "conf.d/a.toml:1:1 workers: `workers` stands in proxy.toml:2, too; keep one of them",
                "conf.d/b.toml:3:10 service.cart: `service.cart` stands in proxy.toml:3, too; keep one of them",
                "conf.d/b.toml:4:2 log: `log` stands in conf.d/a.toml:3, too; keep one of them",
                "conf.d/b.toml:5:10 service.hat: `service.hat` stands in conf.d/a.toml:2, too; keep one of them",
                "conf.d/b.toml:6:1 route: the route of line 4 takes the same requests; give one of them another host, path or condition",
            ]
        );
    }

    #[test]
    fn a_file_that_cannot_be_included_is_an_error_where_it_is_named_and_no_others_are_made_up() {
        let text = "include = [\"none.toml\", \"none/*.toml\", \"*/a.toml\", \"conf.d\", \"\", 3,\n\
                    \"b.toml\"]\n";
        let errors = errors(&[
            ("proxy.toml", text),
            ("b.toml", "include = \"conf.d/a.toml\"\n"),
            ("conf.d/a.toml", "foo = 1\n"),
        ]);
        let missing = "No such file or directory (os error 2)";
        assert_eq!(
            errors,
            [
                format!("proxy.toml:1:12 include: cannot read none.toml: {missing}; nothing"),
                format!("proxy.toml:1:25 include: cannot read the folder none: {missing}; nothing"),
                "proxy.toml:1:40 include: `*` and `?` stand in the last part of a path alone; write it like \"conf.d/*.toml\"".to_owned(),
                "proxy.toml:1:52 include: conf.d is no file; nothing".to_owned(),
                "proxy.toml:1:62 include: this text is empty; fill it in, or leave the key out".to_owned(),
                "proxy.toml:1:66 include: expected a text, found the number 3; write `\"conf.d/*.toml\"`".to_owned(),
                "b.toml:1:1 include: a file that is included includes no others; name them in the file that includes this one".to_owned(),
            ]
        );
    }

    #[test]
    fn a_file_that_its_own_pattern_fits_is_no_part_of_itself() {
        let text = "include = \"*.toml\"\n[[route]]\nservice = \"cart\"\n";
        let (_folder, read) = read(&[("proxy.toml", text)]);
        assert!(read.unwrap().included.is_empty());
    }

    #[test]
    fn a_pattern_fits_as_a_shells_does() {
        let many = "a".repeat(200);
        for (pattern, name, is_fitting) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", false),
            ("*.toml", ".a.toml", false),
            (".*.toml", ".a.toml", true),
            ("*.toml", "a.toml.swp", false),
            ("?.toml", "é.toml", true),
            ("?.toml", "ab.toml", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("*", "a", true),
            ("*", "", true),
            ("a**", "a", true),
            ("*a?", "aaab", true),
            ("*a*a*a*a*a*a*a*a*a*b", many.as_str(), false),
        ] {
            assert_eq!(fits(pattern, name), is_fitting, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_said_of_the_admin_server_is_known_whatever_is_wrong_elsewhere() {
        let admin = "[admin]\naddress = \"127.0.0.1:9911\"\n";
        for (of_b, port) in [
            ("foo = 1\n", Some(9911)),
            ("[log]\nlevel = \"${NONE}\"\n", Some(9911)),
            // What it says may be anywhere in such a text.
            ("foo = \n", None),
            ("include = \"none\"\n", None),
            ("[admin]\naddress = \"127.0.0.1:9912\"\n", None),
        ] {
            let files = [
                ("proxy.toml", ALL),
                ("conf.d/a.toml", admin),
                ("conf.d/b.toml", of_b),
            ];
            let (folder, _) = read(&files);
            let known = Config::admin_of(&folder.path().join("proxy.toml"));
            assert_eq!(known.map(|admin| admin.address.port()), port, "{of_b}");
        }
    }

    #[test]
    fn a_table_of_another_kind_than_the_one_before_is_not_one_too_many() {
        let errors = errors(&[
            (
                "proxy.toml",
                &format!("{ALL}[[route]]\nservice = \"cart\"\n"),
            ),
            ("conf.d/a.toml", "[route]\nservice = \"hat\"\n"),
        ]);
        assert_eq!(
            errors,
            ["conf.d/a.toml:1:2 route: there may be several `route`; write `[[route]]`"]
        );
    }
}
