//! What changes is told as it does, and what was is kept.

mod sources;
