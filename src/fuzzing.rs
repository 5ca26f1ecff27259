//! Every parser of strangers' bytes, with what must hold of any bytes: no panic, bounded depth, the
//! same however the bytes come, and read again as it was written. `fuzz/run` feeds them, and what
//! was found, or is worth to be tried first, stands in `fuzz/corpus` and is replayed here. Compiled
//! for tests and fuzzers only.

use crate::{
    config, embedded, grpc, listen, proxy, proxy_protocol, registry, saved, service, upstream,
};

/// Takes any bytes, and panics where what must hold does not.
pub type Target = fn(&[u8]);

/// All of them, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 24] = [
    ("answer-chunks", upstream::fuzzing::chunks),
    ("answer-heads", upstream::fuzzing::heads),
    ("client-frames", listen::fuzzing::frames),
    ("consul", registry::consul::fuzzing::answers),
    ("cookies", service::fuzzing::cookies),
    ("dns", registry::dns::fuzzing::messages),
    ("etcd", registry::etcd::fuzzing::messages),
    ("etcd2", registry::etcd2::fuzzing::answers),
    ("eureka", registry::eureka::fuzzing::answers),
    ("file", registry::file::fuzzing::files),
    ("forwarded", proxy::fuzzing::forwarded),
    ("greetings", listen::fuzzing::greetings),
    ("grpc-status", grpc::fuzzing),
    ("grpc-web", proxy::fuzzing::grpc_web),
    ("journal", embedded::fuzzing::journal),
    ("proxy-header", proxy_protocol::fuzzing::headers),
    ("proxy-toml", config::fuzzing::proxy_toml),
    ("registrations", embedded::fuzzing::registrations),
    ("request-chunks", listen::fuzzing::chunks),
    ("request-targets", listen::fuzzing::targets),
    ("snapshot", saved::fuzzing::snapshot),
    ("urlprefix", config::fuzzing::urlprefix),
    ("websocket-frames", proxy::fuzzing::frames),
    ("zookeeper", registry::zookeeper::fuzzing::nodes),
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Feeds one target with all that is kept for it, and with each cut in the middle.
    fn replay(name: &str, target: Target) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name);
        let entries = fs::read_dir(&folder).expect("each target has a corpus");
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("the corpus stays while it is read").path();
            let bytes = fs::read(&path).expect("a corpus has files only");
            println!("{}", path.display());
            target(&bytes);
            target(&bytes[..bytes.len() / 2]);
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }

    #[test]
    fn the_corpus_of_each_target_holds() {
        for (name, target) in TARGETS {
            replay(name, target);
        }
    }

    #[test]
    fn no_corpus_lacks_its_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for entry in fs::read_dir(folder).expect("there is a corpus") {
            let name = entry.expect("it stays while it is read").file_name();
            let is_known = TARGETS.iter().any(|(known, _)| name == *known);
            assert!(is_known, "{}", name.display());
        }
    }
}
