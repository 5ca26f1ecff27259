//! `[snapshot]`: where the last good sets are kept on disk, and how long they are of use.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::document::table::Table;

/// `[snapshot]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedSets {
    /// The file.
    pub file: PathBuf,
    /// Whatever its registry confirmed longer ago than this is not used at the start.
    pub max_age: Duration,
}

/// Reads it; `None` where it is turned off.
pub(super) fn read(top: &mut Table<'_>, base: &Path) -> Option<SavedSets> {
    let field = top.take("snapshot");
    if field.is_some_and(|field| field.is_false()) {
        return None;
    }
    Some(top.within("snapshot", |table| {
        SavedSets {
            file: table
                .file("file", base, "\"callboard-data/snapshot.json\"")
                .unwrap_or_else(|| base.join("callboard-data/snapshot.json")),
            max_age: table.duration("max_age", Duration::from_secs(7 * 24 * 3600)),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ROUTE, config, error};
    use super::*;

    fn snapshot(text: &str) -> Option<SavedSets> {
        config(&format!("{text}\n{ROUTE}")).snapshot
    }

    #[test]
    fn it_is_on_beside_the_file_unless_it_is_turned_off() {
        let default = snapshot("").unwrap();
        let file = Path::new("/etc/callboard/callboard-data/snapshot.json");
        assert_eq!(default.file, file);
        assert_eq!(default.max_age, Duration::from_secs(604_800));
        let own = snapshot("snapshot = { file = \"x.json\", max_age = \"1h\" }").unwrap();
        assert_eq!(own.file, Path::new("/etc/callboard/x.json"));
        assert_eq!(own.max_age, Duration::from_secs(3600));
        assert_eq!(snapshot("snapshot = false"), None);
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        for (text, expected) in [
            (
                "snapshot = true",
                "1:1 snapshot: expected a table, found true; write `snapshot = { max_age = \"168h\" }`",
            ),
            (
                "[snapshot]\nmax_age = \"0s\"",
                "2:1 snapshot.max_age: this duration must be more than nothing",
            ),
            (
                "[snapshot]\nfiel = \"x\"",
                "2:1 snapshot.fiel: unknown key `fiel`; did you mean `file`?",
            ),
        ] {
            assert_eq!(error(&format!("{text}\n{ROUTE}")), expected);
        }
    }
}
