//! What was changed of this process for a while, and ends with it.

use crate::{discovery::Directory, proxy::Shared};

/// See the module. Each is said as a person names it.
#[derive(Debug, Default)]
pub(super) struct Temporary {
    /// Services that are pinned.
    pub(super) pins: Vec<String>,
    /// Endpoints that are drained, each behind its service.
    pub(super) drains: Vec<String>,
    /// Endpoints that have another weight, each behind its service.
    pub(super) weights: Vec<String>,
    /// Routes that have other shares than the file's.
    pub(super) shares: Vec<String>,
}

impl Temporary {
    /// What there is now.
    pub(super) fn of(shared: &Shared) -> Self {
        let directory = shared.directory();
        let mut all = Self {
            shares: shares(&directory),
            ..Self::default()
        };
        for service in directory.services() {
            let name = service.name();
            if service.is_pinned() {
                all.pins.push(name.to_string());
            }
            let drains = service.drains().into_iter();
            let drains = drains.map(|drain| format!("{name}: {}", drain.endpoint));
            all.drains.extend(drains);
            // The end of one without effect changes nothing.
            let others = service.other_weights().into_iter();
            let others = others.filter(|other| other.heeded);
            let others = others.map(|other| format!("{name}: {}", other.endpoint));
            all.weights.extend(others);
        }
        all
    }

    /// What an upgrade would end.
    pub(super) fn in_words(self) -> Vec<String> {
        let all = [
            ("pin", self.pins),
            ("drain", self.drains),
            ("weight", self.weights),
            ("shares", self.shares),
        ];
        let each = all.into_iter();
        let each = each.flat_map(|(what, of)| of.into_iter().map(move |of| (what, of)));
        each.map(|(what, of)| format!("the {what} of {of}"))
            .collect()
    }
}

fn shares(directory: &Directory) -> Vec<String> {
    let splits = directory.splits().values();
    let changed = splits.filter(|split| split.changed().is_some());
    changed.map(|split| split.of().to_owned()).collect()
}
