//! Where a secret comes from: never the file's own text.

use std::{env::VarError, path::PathBuf};

/// Where a secret comes from. Its text is read when it is used, without the white space around it,
/// and never printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A file's content.
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
        let text = match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display())),
            Self::Env(name) => std::env::var(name).map_err(|error| match error {
                VarError::NotPresent => format!("the environment variable {name} is not set"),
                VarError::NotUnicode(_) => format!("the environment variable {name} is not UTF-8"),
            }),
        }?;
        Ok(bare(&text).to_owned())
    }

    /// Reads the secret now, off the runtime's threads: a file may lie on a slow disk.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub(crate) async fn read_aside(&self) -> Result<String, String> {
        let secret = self.clone();
        tokio::task::spawn_blocking(move || secret.read())
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// What was meant: `echo`, an editor or Kubernetes adds the end of a line, and Windows a byte order
/// mark.
fn bare(text: &str) -> &str {
    text.trim_start_matches('\u{feff}').trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_lines_and_a_byte_order_mark_are_no_part_of_a_secret() {
        for text in [
            "s3 cret",
            "s3 cret\n",
            "\u{feff}s3 cret\r\n",
            " s3 cret \n\n",
        ] {
            assert_eq!(bare(text), "s3 cret");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let secret = Secret::File(file.path().to_owned());
            assert_eq!(secret.read().as_deref(), Ok("s3 cret"));
        }
    }
}
