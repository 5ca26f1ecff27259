//! Who is in the show.

/// The services, and with how many providers each begins.
pub(super) const CAST: [(&str, usize); 2] = [("hello", 3), ("cart", 2)];
