//! `${NAME}` and `${NAME:-default}` in the texts of a file: what they stand for is put in once the file
//! is parsed, so that it never changes the file's structure. Before a `{`, `$$` is a literal `$`.

use std::{collections::HashMap, env::VarError};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::wrong::{Flaw, Wrong};

/// Reads a variable of the environment.
pub(crate) type Lookup<'l> = &'l dyn Fn(&str) -> Result<String, VarError>;

/// A variable of the environment.
///
/// # Errors
/// Where it is not set, or not UTF-8.
pub(crate) fn environment(name: &str) -> Result<String, VarError> {
    std::env::var(name)
}

/// The texts in which something was put in, by the number of their first byte.
#[derive(Default)]
pub(crate) struct Expansions {
    texts: HashMap<usize, Expansion>,
}

/// A text in which something was put in.
pub(crate) struct Expansion {
    /// As the file has it.
    pub(crate) written: String,
    /// Whether it is a single `${…}`, which may stand for a number or a boolean, too.
    pub(crate) is_whole: bool,
    /// Whether what it stands for is known.
    pub(crate) is_known: bool,
}

impl Expansion {
    /// What is wrong with the value, without a word of it: it may be a secret that is named in the wrong
    /// place. Where the value stands in quotes, the text stands there as the file has it; what says any
    /// other part of the value is left out.
    pub(crate) fn hide(&self, value: &str, wrong: Wrong) -> Wrong {
        let written = format!("`{}`", self.written);
        let hidden = |text: &str| {
            let text = text.replace(&format!("the text {value:?}"), &written);
            let text = text.replace(&format!("{value:?}"), &written);
            let text = text.replace(&format!("`{value}`"), &written);
            let rest = text.replace(&self.written, "").to_lowercase();
            let mut words = words(value).map(str::to_lowercase);
            (!words.any(|word| rest.contains(&word))).then_some(text)
        };
        let message = hidden(&wrong.message);
        Wrong {
            message: message
                .unwrap_or_else(|| format!("what {written} stands for is not right here")),
            suggestion: wrong.suggestion.and_then(|text| hidden(&text)),
        }
    }
}

/// What could be known again of a value: shorter words stand in any sentence.
fn words(value: &str) -> impl Iterator<Item = &str> {
    let words = value.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| word.chars().count() > 2)
}

/// A value's key, as a list of the keys that it is within.
struct KeyPath<'p>(Option<&'p Self>, &'p str);

/// What is wrong with a value, with its key.
pub(crate) type KeyedFlaw = (String, Flaw);

impl Expansions {
    /// The value that begins at a byte, where something was put in.
    pub(crate) fn at(&self, byte: usize) -> Option<&Expansion> {
        self.texts.get(&byte)
    }

    /// Puts in what variables stand for.
    pub(crate) fn put_in(
        &mut self,
        table: &mut DeTable<'_>,
        lookup: Lookup<'_>,
        flaws: &mut Vec<KeyedFlaw>,
    ) {
        self.table(table, None, lookup, flaws);
    }

    fn table(
        &mut self,
        table: &mut DeTable<'_>,
        path: Option<&KeyPath<'_>>,
        lookup: Lookup<'_>,
        flaws: &mut Vec<KeyedFlaw>,
    ) {
        for (key, value) in table.iter_mut() {
            self.value(value, &KeyPath(path, key.get_ref()), lookup, flaws);
        }
    }

    fn value(
        &mut self,
        value: &mut Spanned<DeValue<'_>>,
        path: &KeyPath<'_>,
        lookup: Lookup<'_>,
        flaws: &mut Vec<KeyedFlaw>,
    ) {
        let at = value.span();
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, Some(path), lookup, flaws),
            DeValue::Array(all) => {
                for one in all.iter_mut() {
                    self.value(one, path, lookup, flaws);
                }
            }
            DeValue::String(text) if text.contains("${") => {
                let read = expand(text, lookup);
                let expansion = Expansion {
                    written: text.to_string(),
                    is_whole: read.as_ref().is_ok_and(|(_, is_whole)| *is_whole),
                    is_known: read.is_ok(),
                };
                self.texts.insert(at.start, expansion);
                match read {
                    Ok((expanded, _)) => *text = expanded.into(),
                    Err(wrong) => flaws.push((path.to_string(), (at, wrong))),
                }
            }
            _ => {}
        }
    }
}

impl std::fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(Some(within), key) => write!(f, "{within}.{key}"),
            Self(None, key) => f.write_str(key),
        }
    }
}

/// The text with what its variables stand for, and whether it is one of them and nothing else.
fn expand(text: &str, lookup: Lookup<'_>) -> Result<(String, bool), Wrong> {
    let (mut expanded, mut rest) = (String::new(), text);
    let mut is_whole = false;
    while let Some(dollar) = rest.find("${") {
        let (before, variable) = rest.split_at(dollar);
        let text = before.trim_end_matches('$');
        let dollars = before.len() - text.len() + 1;
        expanded += text;
        expanded += &"$".repeat(dollars / 2);
        if dollars % 2 == 0 {
            expanded += "{";
            rest = &variable[2..];
            continue;
        }
        let Some((inner, after)) = variable[2..].split_once('}') else {
            let wrong = Wrong::new("a `${` has no `}`");
            return Err(wrong.suggest("write `${NAME}`, or `$${` where no variable is meant"));
        };
        is_whole = before.is_empty() && after.is_empty() && expanded.is_empty();
        expanded += &stands_for(inner, lookup)?;
        rest = after;
    }
    Ok((expanded + rest, is_whole))
}

/// What a variable stands for: a default counts where it is not set, or empty.
fn stands_for(inner: &str, lookup: Lookup<'_>) -> Result<String, Wrong> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let is_name = |name: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !name.is_empty()
            && name.chars().all(is_letter)
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    if default.is_some_and(|default| default.contains("${")) {
        let wrong = Wrong::new(format!("the default of `{name}` has a variable"));
        return Err(wrong.suggest("write what it stands for"));
    }
    if !is_name(name) {
        let wrong = Wrong::new(format!("`${{{inner}}}` names no variable"));
        return Err(wrong.suggest("write `${NAME}` or `${NAME:-default}`, or `$${` for itself"));
    }
    match (lookup(name), default) {
        (Ok(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Ok(value), _) => Ok(value),
        (Err(VarError::NotPresent), Some(default)) => Ok(default.to_owned()),
        (Err(VarError::NotPresent), None) => {
            let wrong = Wrong::new(format!("the environment variable {name} is not set"));
            Err(wrong.suggest(format!("set it, or write `${{{name}:-default}}`")))
        }
        (Err(VarError::NotUnicode(_)), _) => Err(Wrong::new(format!(
            "the environment variable {name} is not UTF-8"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use crate::{cases::cases, config::testing::config_with};

    use super::*;

    fn expanded(text: &str) -> Result<(String, bool), String> {
        let lookup = |name: &str| match name {
            "A" => Ok("a".to_owned()),
            "_B2" => Ok("${A}".to_owned()),
            "EMPTY" => Ok(String::new()),
            "NOT_UTF8" => Err(VarError::NotUnicode("x".into())),
            _ => Err(VarError::NotPresent),
        };
        expand(text, &lookup).map_err(Wrong::into_line)
    }

    #[test]
    fn a_variable_stands_for_its_value_and_a_default_for_one_that_is_not_set_or_empty() {
        for (text, becomes, is_whole) in [
            ("${A}", "a", true),
            ("${A}${A}", "aa", false),
            ("x${A}", "xa", false),
            ("${A}x", "ax", false),
            ("${NONE:-d}", "d", true),
            ("${NONE:-}", "", true),
            ("${EMPTY:-d}", "d", true),
            ("${EMPTY}", "", true),
            ("${A:-d}", "a", true),
            ("${NONE:-a:-b}", "a:-b", true),
            // What a value says is no variable again.
            ("${_B2}", "${A}", true),
            ("$${A}", "${A}", false),
            ("$${A}${A}", "${A}a", false),
            ("$$${A}", "$a", false),
            ("x$$$${A}", "x$${A}", false),
            ("$$ $$$$${A}", "$$ $$a", false),
            ("$A $ {A}", "$A $ {A}", false),
            ("ü${A}ü", "üaü", false),
        ] {
            assert_eq!(expanded(text), Ok((becomes.to_owned(), is_whole)), "{text}");
        }
    }

    #[test]
    fn what_names_no_variable_or_one_that_is_not_set_is_an_error() {
        for (text, says) in cases(
            r#"
            ${NONE}
            => the environment variable NONE is not set; set it, or write `${NONE:-default}`
            ${NOT_UTF8:-d} => the environment variable NOT_UTF8 is not UTF-8
            ${A => a `${` has no `}`; write `${NAME}`, or `$${` where no variable is meant
            ${}
            => `${}` names no variable; write `${NAME}` or `${NAME:-default}`, or `$${` for itself
            ${1A}
            => `${1A}` names no variable; write `${NAME}` or `${NAME:-default}`, or `$${` for itself
            ${A:-${B:-c}} => the default of `A` has a variable; write what it stands for
            ${A-d}
            => `${A-d}` names no variable; write `${NAME}` or `${NAME:-default}`, or `$${` for itself
            "#,
        ) {
            assert_eq!(expanded(&text), Err(says), "{text}");
        }
    }

    #[test]
    fn a_variable_may_stand_for_a_text_a_number_or_a_boolean_and_changes_no_structure() {
        let text = "workers = \"${WORKERS}\"\nwatch_config = \"${WATCH}\"\n\
            drain.notice = \"${SECONDS}s\"\nlog.level = \"${LEVEL:-warn}\"\n\
            [[listen]]\naddress = [\"127.0.0.1:${PORT:-0}\"]\nredirect_to_https = \"${TLS}\"\n\
            [service.cart]\nendpoints = [\"10.0.0.1:80\"]\nguard = \"${GUARD}\"\n\
            eject.max_percent = \"${PERCENT}\"\nretry.budget.ratio = \"${RATIO}\"\n\
            [[route]]\nquery = { a = \"${TEXT}\", b = \"$${TEXT}\" }\nservice = \"cart\"\n";
        let read = config_with(
            text,
            &[
                ("WORKERS", "3"),
                ("WATCH", "true"),
                ("SECONDS", "7"),
                ("TLS", "8443"),
                ("GUARD", "false"),
                ("PERCENT", "20"),
                ("RATIO", "0.25"),
                ("TEXT", "\"\n[[route]]\n"),
            ],
        );
        let config = read.unwrap();
        assert_eq!(config.workers.get(), 3);
        assert!(config.watch_config);
        assert_eq!(config.drain.notice.as_secs(), 7);
        assert_eq!(config.log.level, "warn");
        assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:0");
        assert_eq!(config.listeners[0].redirect_to_https, Some(8443));
        let cart = &config.services["cart"];
        assert_eq!(cart.guard, None);
        assert_eq!(cart.eject.as_ref().unwrap().max_percent, 20);
        assert_eq!(cart.retry.budget_ratio, 0.25);
        assert_eq!(config.routes.len(), 1);
        let conditions = format!("{:?}", config.routes[0].conditions());
        assert!(conditions.contains("\\\"\\n[[route]]\\n"), "{conditions}");
        assert!(conditions.contains("Exactly(\"${TEXT}\")"), "{conditions}");
    }

    #[test]
    fn an_error_has_its_place_and_names_the_variable_and_not_its_value() {
        let text = "workers = \"${WORKERS}\"\nwatch_config = \"${SECRET}\"\n\
            drain = { notice = \"${NONE}\", deadline = \"${SECRET}\" }\n\
            admin = { address = \"${SECRET}\", token = \"${SECRET}\" }\n\
            [[route]]\nheader = { a = \"${LINES}\" }\nservice = \"cart\"\n";
        let variables = [
            ("WORKERS", "1025"),
            ("SECRET", "hunter2"),
            ("LINES", "a\nb"),
        ];
        let errors = config_with(text, &variables).unwrap_err();
        assert_eq!(
            errors,
            [
                "1:1 workers: `${WORKERS}` is out of range; write a number from 1 to 1024",
                "2:1 watch_config: expected true or false, found `${SECRET}`; write `watch_config = true`",
                "3:20 drain.notice: the environment variable NONE is not set; set it, or write `${NONE:-default}`",
                "3:31 drain.deadline: `${SECRET}` is not a duration; write whole numbers with their units, such as \"500ms\", \"30s\" or \"1m30s\"",
                "4:11 admin.address: `${SECRET}` is not an IP address with a port; write it like \"127.0.0.1:8080\" or \"[::1]:8080\"",
                "4:34 admin.token: a secret does not stand in this file; write `token = { file = \"…\" }` or `token = { env = \"…\" }`",
                "6:12 route.header.a: no header's value is `${LINES}`; leave out what is not printed, and spaces at both ends",
            ]
        );
    }

    #[test]
    fn no_part_of_what_a_variable_stands_for_is_said() {
        let text = "log.level = \"${SECRET}\"\nadmin = { address = \"${SECRET}\" }\n\
            [[listen]]\naddress = \"${SECRET}\"\ntrusted_proxies = [\"${SECRET}\"]\n\
            [registry.consul]\naddress = \"${SECRET}\"\n[registry.other]\nkind = \"consul\"\n\
            [service.cart]\nendpoints = [\"${SECRET}\"]\n[service.cart.health]\npath = \"${SECRET}\"\n\
            header = { Authorization = \"${SECRET}\\n\" }\n\
            [service.hat]\nregistry = \"${SECRET}\"\nbalance = \"${SECRET}\"\n\
            [[route]]\nhost = \"${SECRET}\"\npath = \"${SECRET}\"\nservice = \"hat\"\n";
        for value in [
            "warn,hunter2",
            "http://Hunter2",
            "/hunter2 {a}",
            "hunter2\n",
        ] {
            let errors = config_with(text, &[("SECRET", value)]).unwrap_err();
            assert!(errors.len() > 5, "{errors:#?}");
            for error in errors {
                assert!(
                    !error.to_lowercase().contains("hunter2"),
                    "{value:?}: {error}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_made_up_of_a_variable_that_is_not_set() {
        let text = "include = \"${NONE}/*.toml\"\n[service.cart]\nregistry = \"${NONE}\"\n\
            [[route]]\nservice = \"cart\"\n";
        let errors = config_with(text, &[]).unwrap_err();
        let said = "the environment variable NONE is not set; set it, or write `${NONE:-default}`";
        assert_eq!(
            errors,
            [
                format!("1:11 include: {said}"),
                format!("3:12 service.cart.registry: {said}"),
            ]
        );
    }
}
