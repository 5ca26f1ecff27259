//! Errors in words: libraries say that something went wrong, and their causes say what.

use std::error::Error;

/// The innermost cause, which says what happened; the outer ones say that something did.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An error and its causes, the innermost last.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| {
        (*error).source()
    });
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read")]
    struct Outer(#[source] std::fmt::Error);

    #[test]
    fn the_innermost_alone_or_all_of_them() {
        let inner = std::fmt::Error.to_string();
        assert_eq!(root_cause(&Outer(std::fmt::Error)), inner);
        assert_eq!(root_cause(&std::fmt::Error), inner);
        assert_eq!(
            with_causes(&Outer(std::fmt::Error)),
            format!("cannot read: {inner}")
        );
    }
}
