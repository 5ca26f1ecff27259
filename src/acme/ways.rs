//! In which ways an authority can ask for a proof, by the listeners that there are.

use instant_acme::ChallengeType;

use crate::config::Listener;

/// In which ways the authority can ask the listeners for a proof, the first choice first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ways(Vec<ChallengeType>);

impl Ways {
    /// Those of these listeners. What stands in front may pass other ports on.
    pub(crate) fn of(listeners: &[Listener]) -> Self {
        let is_at = |listener: &Listener, port| {
            let own = listener.address.tcp().map(|address| address.port());
            own == Some(port)
        };
        let (by_tls, by_http): (Vec<_>, Vec<_>) = listeners
            .iter()
            .partition(|listener| listener.tls.is_some());
        let (http, tls) = (ChallengeType::Http01, ChallengeType::TlsAlpn01);
        let has_port_80 = by_http.iter().any(|listener| is_at(listener, 80));
        let has_port_443 = by_tls.iter().any(|listener| is_at(listener, 443));
        Self(match (by_http.is_empty(), has_port_80, has_port_443) {
            (true, ..) => vec![tls],
            (false, false, true) => vec![tls, http],
            (false, ..) => vec![http, tls],
        })
    }

    /// That of an order after so many failures in a row: each has its turn.
    pub(super) fn after(&self, failures: u32) -> &ChallengeType {
        &self.0[failures as usize % self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_asks_where_there_are_listeners_and_by_turns_after_failures() {
        let (http, tls) = (ChallengeType::Http01, ChallengeType::TlsAlpn01);
        let listeners = |ports: &[(u16, bool)]| {
            let listener = |(port, has_tls): &(u16, bool)| {
                let tls = "\ntls = { certificates = [{ cert = \"a\", key = \"b\" }] }";
                let tls = if *has_tls { tls } else { "" };
                format!("[[listen]]\naddress = \"127.0.0.1:{port}\"{tls}\n")
            };
            let text: String = ports.iter().map(listener).collect();
            let route = "[[route]]\nservice = \"a\"\n";
            let config =
                crate::config::Config::parse(&format!("{text}{route}"), std::path::Path::new("."));
            config.unwrap().listeners
        };
        for (ports, ways) in [
            (&[(443, true)][..], vec![&tls]),
            (&[(443, true), (8080, false)], vec![&tls, &http]),
            (&[(443, true), (80, false)], vec![&http, &tls]),
            (&[(8443, true), (8080, false)], vec![&http, &tls]),
        ] {
            let found = Ways::of(&listeners(ports));
            assert_eq!(found.0.iter().collect::<Vec<_>>(), ways, "{ports:?}");
            let third = ways.get(2 % ways.len()).copied();
            assert_eq!(Some(found.after(2)), third);
        }
    }
}
