//! Where a secret comes from: never the file's own text.

use std::path::PathBuf;

/// Where a secret comes from. Its text is read when it is used, and never printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A file's content, without the white space around it.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl Secret {
    /// Reads the secret now.
    ///
    /// # Errors
    /// One line that names the file or the variable, and why it could not be read.
    pub fn read(&self) -> Result<String, String> {
        match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| format!("cannot read {}: {error}", path.display())),
            Self::Env(name) => std::env::var(name)
                .map_err(|_| format!("the environment variable {name} is not set")),
        }
    }
}
