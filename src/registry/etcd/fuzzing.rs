//! What must hold of an etcd's messages, whatever they say.

use prost::Message as _;

use super::{
    gather::{Gather, Instances, Names},
    message::WatchResponse,
};
use crate::registry::fuzzing::assert_sound;

/// The events of a watch. What was put and deleted again leaves nothing.
pub(crate) fn messages(bytes: &[u8]) {
    let Ok(response) = WatchResponse::decode(bytes) else {
        return;
    };
    let (mut instances, mut names) = (Instances::default(), Names::default());
    let entries: Vec<_> = response
        .events
        .into_iter()
        .filter_map(|event| event.kv)
        .collect();
    for entry in &entries {
        instances.put(&entry.key, &entry.value);
        names.put(&entry.key, &entry.value);
    }
    assert_sound(&instances.state());
    for entry in &entries {
        instances.delete(&entry.key);
        names.delete(&entry.key);
    }
    assert!(instances.state().instances.is_empty() && names.state().is_empty());
}
