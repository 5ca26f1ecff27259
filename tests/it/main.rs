//! The integration tests, one binary. Each module says in its first line what must hold.

mod check;
