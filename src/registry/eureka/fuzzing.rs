//! What must hold of a Eureka's answers, in JSON or XML, whatever they say.

use super::{applications::Applications, entry::Reading, wire};
use crate::{
    config::{CalledAt, NamedBy},
    registry::fuzzing::assert_sound,
};

/// An answer, with services named and called either way.
pub(crate) fn answers(bytes: &[u8]) {
    for (by, host) in [
        (NamedBy::Application, CalledAt::Address),
        (NamedBy::Vip, CalledAt::Name),
    ] {
        let reading = Reading { by, host };
        let Ok(answer) = wire::read(bytes, reading) else {
            continue;
        };
        let again = wire::read(bytes, reading);
        assert_eq!(Ok(&answer), again.as_ref());
        let mut applications = Applications::default();
        applications.apply(answer.changes);
        let services = applications.by_service();
        for name in services.catalog(&[]).keys() {
            assert_sound(&services.instances(name, &[], &[]));
        }
        applications.hash();
    }
}
