//! The status page shows what is so, as it changes, in a real browser; and what it is made of.

mod browser;
mod sources;
