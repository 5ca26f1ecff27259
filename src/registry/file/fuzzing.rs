//! What must hold of the text of a file of endpoints, whatever it says.

use super::parse;
use crate::{config::FileFormat, registry::fuzzing::assert_sound};

/// A file in either format.
pub(crate) fn files(bytes: &[u8]) {
    for format in [FileFormat::Toml, FileFormat::Json] {
        let Ok(services) = parse::services(bytes, format, None) else {
            continue;
        };
        assert_eq!(parse::catalog(&services).len(), services.len());
        for name in services.keys() {
            if let Ok(set) = parse::set(&services, name, &[]) {
                assert_sound(&set);
            }
        }
    }
}
