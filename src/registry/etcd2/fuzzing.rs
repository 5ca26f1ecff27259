//! What must hold of the answers of etcd's API v2, whatever they say.

use super::node::{Change, Content, Node, Refusal};
use crate::registry::{
    etcd::gather::{Gather as _, Instances},
    fuzzing::assert_sound,
};

/// An answer to each question.
pub(crate) fn answers(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Refusal>(bytes);
    let node = serde_json::from_slice(bytes).map(|change: Change| change.node);
    let node = node.or_else(|_| serde_json::from_slice(bytes).map(|content: Content| content.node));
    let Ok(node) = node else { return };
    let mut instances = Instances::default();
    put(&node, &mut instances, 0);
    assert_sound(&instances.state());
}

fn put(node: &Node, instances: &mut Instances, depth: usize) {
    assert!(depth < 128, "deeper than any answer may be");
    if let Some(value) = &node.value {
        let key = node.below("/services/").unwrap_or_default();
        instances.put(key.as_bytes(), value.as_bytes());
    }
    for node in &node.nodes {
        put(node, instances, depth + 1);
    }
}
