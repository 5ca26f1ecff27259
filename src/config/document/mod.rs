//! The text of a proxy.toml and its values: what of it is TOML, which keys a table has, and what is
//! wrong where. Knows no key's meaning.

pub(super) mod field;
pub(super) mod recover;
pub(super) mod report;
pub(super) mod secret;
pub(super) mod source;
pub(super) mod table;
pub(super) mod value;
pub(super) mod variables;
pub(super) mod wrong;
