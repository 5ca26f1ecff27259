//! `kind = "file"`: a file in which an operator lists services and their endpoints by hand.

use std::path::{Path, PathBuf};

use crate::config::document::{report::Wrong, table::Table};

/// `[registry.file]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it lies.
    pub path: PathBuf,
    /// How it is written, by its ending.
    pub format: FileFormat,
}

/// How a file of endpoints is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `.toml`
    Toml,
    /// `.json`
    Json,
}

pub(super) fn read(table: &mut Table<'_>, base: &Path) -> File {
    const EXAMPLE: &str = "\"services.toml\"";
    let format = |path: &str| -> Result<File, Wrong> {
        let ending = Path::new(path).extension().unwrap_or_default();
        let format = match ending.to_ascii_lowercase().to_str() {
            Some("toml") => FileFormat::Toml,
            Some("json") => FileFormat::Json,
            _ => {
                let wrong = Wrong::new(format!("`{path}` ends neither in .toml nor in .json"));
                return Err(wrong.suggest("give the file the ending of what it holds"));
            }
        };
        Ok(File {
            path: base.join(path),
            format,
        })
    };
    table
        .required("path", EXAMPLE)
        .and_then(|field| field.parse("a path", EXAMPLE, format))
        .unwrap_or_else(|| File {
            path: base.join("services.toml"),
            format: FileFormat::Toml,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        RegistryKind,
        testing::{ROUTE, config, error},
    };

    fn file(path: &str) -> File {
        let config = config(&format!("[registry.file]\npath = \"{path}\"\n{ROUTE}"));
        match &config.registries["file"].kind {
            RegistryKind::File(file) => file.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn its_ending_says_how_it_is_written() {
        for (path, format) in [
            ("services.toml", FileFormat::Toml),
            ("/etc/callboard/services.JSON", FileFormat::Json),
        ] {
            let path_of = Path::new("/etc/callboard").join(path);
            assert_eq!((file(path).path, file(path).format), (path_of, format));
        }
    }

    #[test]
    fn a_path_that_is_missing_or_says_nothing_is_named() {
        assert_eq!(
            error(&format!("[registry.file]\n{ROUTE}")),
            "1:1 registry.file.path: the key `path` is missing; write `path = \"services.toml\"`"
        );
        for path in ["services", "services.yaml", ""] {
            assert_eq!(
                error(&format!("[registry.file]\npath = \"{path}\"\n{ROUTE}")),
                format!(
                    "2:1 registry.file.path: `{path}` ends neither in .toml nor in .json; give the file the ending of what it holds"
                )
            );
        }
    }
}
