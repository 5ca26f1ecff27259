//! Everything at one moment, in parts of JSON that are compared with those of a moment before; and what
//! of it is sent. Knows nothing of what the parts say.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::value::RawValue;

/// Everything at one moment.
#[derive(Debug)]
pub(in crate::admin) struct Picture {
    /// Parts of the status, by their names.
    pub(super) parts: BTreeMap<String, Box<RawValue>>,
    pub(super) services: BTreeMap<Arc<str>, ServicePicture>,
}

#[derive(Debug)]
pub(super) struct ServicePicture {
    /// All of it but its endpoints.
    pub(super) own: Box<RawValue>,
    /// By their keys.
    pub(super) endpoints: BTreeMap<String, Box<RawValue>>,
}

/// What is sent.
#[derive(Serialize)]
struct Frame<'p> {
    /// Whether it is everything, and what was known before is forgotten.
    whole: bool,
    parts: BTreeMap<&'p str, &'p RawValue>,
    services: Vec<ServiceFrame<'p>>,
    /// Services that there are no more.
    gone: Vec<&'p str>,
}

#[derive(Serialize)]
struct ServiceFrame<'p> {
    name: &'p str,
    /// What it is, where that has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<&'p RawValue>,
    /// Those that have changed.
    endpoints: Vec<&'p RawValue>,
    /// Keys of those that there are no more.
    gone: Vec<&'p str>,
}

impl Picture {
    /// Everything, for a client that knows nothing.
    pub(super) fn whole(&self) -> String {
        let nothing = Self {
            parts: BTreeMap::new(),
            services: BTreeMap::new(),
        };
        let mut frame = self.differences(&nothing);
        frame.whole = true;
        frame.text()
    }

    /// What is not as it was; `None` where everything is.
    pub(super) fn since(&self, before: &Self) -> Option<String> {
        let frame = self.differences(before);
        let is_empty = frame.parts.is_empty() && frame.services.is_empty() && frame.gone.is_empty();
        (!is_empty).then(|| frame.text())
    }

    fn differences<'p>(&'p self, before: &'p Self) -> Frame<'p> {
        let parts = self.parts.iter();
        let parts =
            parts.filter(|(name, part)| differs(part, before.parts.get(*name).map(AsRef::as_ref)));
        let services = self.services.iter();
        Frame {
            whole: false,
            parts: parts.map(|(name, part)| (&**name, &**part)).collect(),
            services: services
                .filter_map(|(name, one)| one.since(name, before.services.get(name)))
                .collect(),
            gone: gone(&self.services, &before.services)
                .map(|name| &**name)
                .collect(),
        }
    }
}

impl Frame<'_> {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("names and JSON are JSON")
    }
}

impl ServicePicture {
    fn since<'p>(&'p self, name: &'p str, before: Option<&'p Self>) -> Option<ServiceFrame<'p>> {
        let was = |key: &String| Some(&**before?.endpoints.get(key)?);
        let endpoints = self.endpoints.iter();
        let endpoints = endpoints.filter(|(key, one)| differs(one, was(key)));
        let gone = before
            .into_iter()
            .flat_map(|before| gone(&self.endpoints, &before.endpoints));
        let own = differs(&self.own, before.map(|before| &*before.own));
        let frame = ServiceFrame {
            name,
            own: own.then_some(&*self.own),
            endpoints: endpoints.map(|(_, one)| &**one).collect(),
            gone: gone.map(String::as_str).collect(),
        };
        let is_same = !own && frame.endpoints.is_empty() && frame.gone.is_empty();
        (!is_same).then_some(frame)
    }
}

fn differs(now: &RawValue, before: Option<&RawValue>) -> bool {
    before.is_none_or(|before| before.get() != now.get())
}

/// What is no more.
fn gone<'p, K: Ord, A, B>(
    now: &'p BTreeMap<K, A>,
    before: &'p BTreeMap<K, B>,
) -> impl Iterator<Item = &'p K> {
    before.keys().filter(|name| !now.contains_key(*name))
}
