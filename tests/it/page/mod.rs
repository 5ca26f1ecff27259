//! What changes is told as it does, what was is kept, and a page shows it.

mod sources;
