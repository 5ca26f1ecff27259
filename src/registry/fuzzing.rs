//! What must hold of the sets that registries' answers make, whatever these say.

use crate::instance::{Address, InstanceSet, MAX_WEIGHT};

/// Every instance of a set can be called and written down, and each is there once.
pub(super) fn assert_sound(set: &InstanceSet) {
    for instance in &set.instances {
        assert!((1..=MAX_WEIGHT).contains(&instance.weight), "{instance:?}");
        let text = instance.address.to_string();
        assert_eq!(
            Address::of_text(&text),
            Ok((instance.address.clone(), false)),
            "an address that cannot be read again"
        );
        let port = i64::from(instance.address.port());
        let again = Address::new(&instance.address.host(), port);
        assert_eq!(again, Ok(instance.address.clone()));
    }
    let again = InstanceSet::of(
        set.instances
            .iter()
            .cloned()
            .map(Ok)
            .chain(set.skipped.iter().cloned().map(Err)),
    );
    assert_eq!(&again, set, "a set that is not in the order of sets");
}
