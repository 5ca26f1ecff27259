//! What `callboard check` says beyond what is wrong: what is probably not meant, and what a machine
//! lacks that runs the file. `run` starts all the same, for what is missing may come.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use crate::config::document::{field::Field, report::Wrong, table::Table};

/// Where a table `[service.NAME]` stands.
pub(crate) struct Placed {
    name: Arc<str>,
    header: Range<usize>,
}

impl Placed {
    pub(crate) fn of(name: &Arc<str>, table: &Table<'_>) -> Self {
        Self {
            name: Arc::clone(name),
            header: table.header(),
        }
    }
}

/// Notes the tables of services to which nothing leads.
pub(crate) fn check_use(top: &Table<'_>, placed: &[Placed], is_used: impl Fn(&str) -> bool) {
    for Placed { name, header } in placed {
        if !is_used(name) {
            let wrong = Wrong::new(format!(
                "nothing leads to `{name}`: no route, split or fallback names it"
            ));
            let key = format!("service.{name}");
            top.unlikely(
                header.clone(),
                &key,
                wrong.suggest("name it in a route, or leave it out"),
            );
        }
    }
}

/// Notes what is odd about a service that is named outright.
pub(crate) fn check_name<T>(field: &Field<'_>, name: &str, tables: &BTreeMap<Arc<str>, T>) {
    if tables.contains_key(name) {
        return;
    }
    let described = tables.keys().find(|table| is_misspelt(name, table));
    if let Some(meant) = described {
        let wrong = Wrong::new(format!(
            "`{name}` has no table, and there is `[service.{meant}]`"
        ));
        field.unlikely(wrong.suggest(format!(
            "did you mean \"{meant}\"? If not, write an empty table `[service.{name}]`"
        )));
    } else if let Some((host, port)) = name.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        let wrong = Wrong::new(format!(
            "`{name}` is a host and a port, and a service is a name"
        ));
        field.unlikely(wrong.suggest(format!(
            "write `endpoints = [\"{name}\"]` in a table `[service.{host}]`, and name that here"
        )));
    } else if name.contains(char::is_whitespace) {
        let wrong = Wrong::new(format!("the name `{name}` has white space in it"));
        field.unlikely(wrong.suggest("write the name as the registry has it"));
    }
}

/// Two letters are in the other order, or one is missing or too much: what a slip of the hand does.
/// One letter in the place of another, or another digit, makes another name.
fn is_misspelt(name: &str, meant: &str) -> bool {
    let letters = |text: &str| {
        let mut letters: Vec<_> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    let plain = |text: &str| text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name.chars().count() >= 4
        && strsim::damerau_levenshtein(name, meant) == 1
        && plain(name) == name.len()
        && plain(meant) == meant.len()
        && (name.len() != meant.len() || letters(name) == letters(meant))
}

/// Notes where a file that a key names cannot be read, or holds nothing of what it should.
pub(crate) fn check_file(field: &Field<'_>, path: &Path, wanted: &str) {
    if !field.problems.is_strict() {
        return;
    }
    let wrong = match std::fs::read_to_string(path) {
        Err(error) => format!("cannot read {}: {error}", path.display()),
        Ok(text) if text.contains(&format!("{wanted}-----")) => return,
        Ok(_) => {
            let wanted = wanted.to_lowercase();
            format!("{} holds no {wanted} in PEM form", path.display())
        }
    };
    field.unlikely(Wrong::new(wrong));
}

/// Notes where a file that a key names cannot be read.
pub(crate) fn check_readable(field: &Field<'_>, path: &Path) {
    if field.problems.is_strict()
        && let Err(error) = std::fs::File::open(path)
    {
        let wrong = format!("cannot read {}: {error}", path.display());
        field.unlikely(Wrong::new(wrong));
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{config, strictly};

    #[test]
    fn what_is_probably_not_meant_is_said_by_check_and_no_more() {
        let route = |service: &str| format!("[[route]]\nservice = \"{service}\"\n");
        for (text, says) in [
            (
                format!("[service.cart]\n{}", route("catr")),
                "did you mean \"cart\"?",
            ),
            (
                format!("[service.cart]\n{}", route("carts")),
                "did you mean \"cart\"?",
            ),
            (
                format!("[service.cart]\n{}", route("hats")),
                "nothing leads to `cart`",
            ),
            (
                format!(
                    "[service.cart]\n{}fallback = \"sory\"\n[service.sorry]\n",
                    route("cart")
                ),
                "did you mean \"sorry\"?",
            ),
            (
                "[service.cart]\n[[route]]\nsplit = [{ service = \"crat\", weight = 1 }]\n"
                    .to_owned(),
                "did you mean \"cart\"?",
            ),
            (
                format!(
                    "[service.cart]\nendpoints = [\"127.0.0.1:1\"]\nfallback = \"sorry\"\n{}",
                    route("cart")
                ),
                "the fallback is hardly called; give the service `health`",
            ),
            (route("cart:8080"), "write `endpoints = [\"cart:8080\"]`"),
            (route("a/b c"), "has white space in it"),
        ] {
            config(&text);
            let said = strictly(&text);
            assert!(
                said.iter().any(|error| error.contains(says)),
                "{text}: {said:?}"
            );
        }
        for text in [
            format!(
                "[service.cart]\n[service.sorry]\n{}fallback = \"sorry\"\n",
                route("cart")
            ),
            format!(
                "[service.cart]\nendpoints = [\"127.0.0.1:1\"]\nfallback = \"sorry\"\n\
                 panic_percent = 0\nhealth.path = \"/\"\n{}",
                route("cart")
            ),
            format!(
                "[service.api-v1]\n[[route]]\npath = \"/2\"\nservice = \"api-v2\"\n{}",
                route("api-v1")
            ),
            format!(
                "[service.card]\n[[route]]\npath = \"/2\"\nservice = \"cart\"\n{}",
                route("card")
            ),
            // A template may lead to any.
            "[service.cart]\n[[route]]\npath = \"/{service}\"\nservice = \"{service}\"\n"
                .to_owned(),
            "[service.cart]\n[registry.consul]\nroutes = \"urlprefix\"\n".to_owned(),
        ] {
            assert_eq!(strictly(&text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_the_machine_lacks_is_said_by_check_and_no_more() {
        let cart = "[[route]]\nservice = \"cart\"\n";
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (empty, pem) = (path("empty"), path("pem"));
        std::fs::write(&empty, " \n").unwrap();
        std::fs::write(
            &pem,
            "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n",
        )
        .unwrap();
        let secret = |from: &str| format!("[registry.consul]\ntoken = {{ {from} }}\n{cart}");
        let tls = |keys: &str| format!("[service.cart]\ntls = {{ {keys} }}\n{cart}");
        for (text, says) in [
            (
                secret("env = \"CALLBOARD_NOT_SET\""),
                "the environment variable CALLBOARD_NOT_SET is not set",
            ),
            (
                secret(&format!("file = \"{}\"", path("none"))),
                "cannot read",
            ),
            (secret(&format!("file = \"{empty}\"")), "it is empty"),
            (tls(&format!("ca = \"{}\"", path("none"))), "cannot read"),
            (
                tls(&format!("ca = \"{empty}\"")),
                "holds no certificate in PEM form",
            ),
            (
                tls(&format!("certificate = \"{pem}\", key = \"{empty}\"")),
                "holds no private key in PEM form",
            ),
        ] {
            config(&text);
            let said = strictly(&text);
            assert!(
                said.len() == 1 && said[0].contains(says),
                "{text}: {said:?}"
            );
        }
        let well = tls(&format!(
            "ca = \"{pem}\", certificate = \"{pem}\", key = \"{pem}\""
        ));
        assert_eq!(strictly(&well), [""; 0]);
    }
}
