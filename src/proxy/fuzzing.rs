//! What must hold of fields that say who asks and how long they wait, whatever stands there.

use super::{client::hop_address, grpc_timeout};

/// `X-Forwarded-For`, and `grpc-timeout`. An address is the same however it is written.
pub(crate) fn forwarded(bytes: &[u8]) {
    grpc_timeout::of(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for hop in text.rsplit(',').map(str::trim) {
        let Some(ip) = hop_address(hop) else { continue };
        assert_eq!(hop_address(&ip.to_string()), Some(ip));
        let socket = std::net::SocketAddr::new(ip, 80);
        assert_eq!(hop_address(&socket.to_string()), Some(ip));
    }
}
