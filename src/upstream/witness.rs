//! Who hears how an exchange ends. Knows nothing of answers.

/// Kept for as long as an exchange lasts, and called with how it ends.
pub trait Witness: Send + Sync {
    /// The answer was not whole with its head, and now is; or it broke off by the endpoint's doing.
    /// Not called where it broke off for another cause.
    fn ended(&self, whole: bool);
}
