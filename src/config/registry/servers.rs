//! What several kinds of registries are reached by: the URLs of their servers, a user and a password.

use std::path::Path;

use crate::config::{
    Secret,
    document::{field::Field, report::Wrong, table::Table},
};

/// The base URLs of a registry's servers, which hold no credentials; at least one, whatever the file
/// says, so that reading goes on.
pub(super) fn urls(
    table: &mut Table<'_>,
    default: &str,
    read: fn(&str) -> Result<String, Wrong>,
) -> Vec<String> {
    let example = format!("\"{default}\"");
    let field = table.take("address");
    if let Some(field) = field.as_ref().filter(|field| field.is_empty_array()) {
        let wrong = Wrong::new("there is no address here");
        field.wrong(wrong.suggest(format!("write `address = {example}`")));
    }
    let url = |field: Field<'_>| {
        field.parse("a URL", &example, |text| {
            if text.contains('@') {
                field.hide();
                let wrong = Wrong::new("a URL here holds no user and no password");
                return Err(wrong.suggest("write `user = \"…\"` and `password = { file = \"…\" }`"));
            }
            read(text)
        })
    };
    let fields = field.iter().flat_map(|field| field.one_or_more(&example));
    let urls: Vec<_> = fields.filter_map(url).collect();
    match urls.is_empty() {
        true => vec![default.to_owned()],
        false => urls,
    }
}

/// A user and the password, which make sense together only. `user` is an example of a user.
pub(super) fn login(table: &mut Table<'_>, base: &Path, user: &str) -> Option<(String, Secret)> {
    let name = table.text("user", "\"callboard\"");
    let password = table.secret("password", base);
    table.pair([("user", user), ("password", PASSWORD)]);
    name.zip(password)
}

/// An example of where a password stands.
pub(super) const PASSWORD: &str = "{ file = \"…\" }";
