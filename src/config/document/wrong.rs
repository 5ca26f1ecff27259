//! What is wrong with a part of a text, before it is known in which file that is. Knows nothing of how it
//! is shown.

use std::ops::Range;

/// What is wrong with a value, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            suggestion: None,
        }
    }

    /// As one line.
    pub(crate) fn into_line(self) -> String {
        match self.suggestion {
            Some(suggestion) => format!("{}; {suggestion}", self.message),
            None => self.message,
        }
    }

    pub(crate) fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }
}

/// What is wrong with a value, behind the bytes at which the value stands.
pub(crate) type Flaw = (Range<usize>, Wrong);
