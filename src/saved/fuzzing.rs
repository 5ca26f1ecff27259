//! What must hold of a snapshot's bytes, whatever they are.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Contents;

/// What was read is read again from what is written of it. A moment is a number of few enough digits
/// that it moves by less than a microsecond.
pub(crate) fn snapshot(bytes: &[u8]) {
    let Ok(contents) = Contents::read(bytes) else {
        return;
    };
    let mut again = Contents::read(&contents.write(&contents.registries))
        .expect("what was written can be read");
    for (again, set) in again.sets.iter_mut().zip(&contents.sets) {
        again.confirmed = at_about(again.confirmed, set.confirmed);
    }
    for (again, catalog) in again.catalogs.iter_mut().zip(&contents.catalogs) {
        again.confirmed = at_about(again.confirmed, catalog.confirmed);
    }
    assert_eq!(again, contents);
    for set in &contents.sets {
        assert!(contents.set(&set.service, &set.registry).is_some());
    }
}

/// The one moment, which the other is but for what a number of 53 bits leaves out.
fn at_about(again: SystemTime, moment: SystemTime) -> SystemTime {
    let seconds = |moment: SystemTime| {
        let since = moment.duration_since(UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    };
    let (again, once) = (seconds(again), seconds(moment));
    assert!(
        (again - once).abs() <= 1e-6 + once * 1e-15,
        "{again} of {once}"
    );
    moment
}
