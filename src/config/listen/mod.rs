//! `[[listen]]`: where clients come in, and what they may do. Knows nothing of sockets.

pub(super) mod acme;
pub(super) mod address;
pub(super) mod predecessors;
pub(super) mod tls;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::{
    AcmeAccount, HeaderCase, ListenAddress, ListenLimits, ListenProtocol, ListenTimeouts, Listener,
    Paths, Underscores,
    addresses::Claims,
    document::{field::Field, report::Wrong, table::Table, value},
    route::pattern,
};

/// Reads all listeners; where there is none, the default one.
pub(super) fn read<'a>(top: &mut Table<'a>, base: &Path, claims: &mut Claims<'a>) -> Vec<Listener> {
    let written = top.has("listen");
    let mut listeners = top
        .each("listen", |table| one(table, base, claims))
        .concat();
    if !written {
        let listener = Listener::default();
        claims.add(listener.address.clone(), OWNER, None);
        listeners.push(listener);
    }
    check_acme(top, &listeners);
    listeners
}

/// Notes what is wrong with all of them together.
fn check_acme(top: &Table<'_>, listeners: &[Listener]) {
    let accounts: Vec<_> = listeners
        .iter()
        .filter_map(|listener| Some(&listener.tls.as_ref()?.acme.as_ref()?.account))
        .collect();
    let of_another = |one: &&AcmeAccount| {
        let mut all = accounts.iter();
        all.any(|other| other.folder == one.folder && other != one)
    };
    if let Some(account) = accounts.iter().copied().find(of_another) {
        let folder = account.folder.display();
        let wrong = Wrong::new(format!(
            "two listeners keep certificates in {folder}, and their accounts differ"
        ));
        let advice = "give them the same `directory`, `email` and `ca`, or another `folder` each";
        top.absent_from_file("listen.tls.acme.folder", wrong.suggest(advice));
    }
    let is_asked_at = |listener: &Listener| {
        let port = listener.address.tcp().map(|address| address.port());
        matches!(
            (port, &listener.tls),
            (Some(80), None) | (Some(443), Some(_))
        )
    };
    if !accounts.is_empty() && !listeners.iter().any(is_asked_at) {
        let wrong = Wrong::new(
            "the authority asks at port 80, or by TLS at port 443, and no listener is at either",
        );
        let advice = "listen there, or have what stands in front pass one of them on";
        top.unlikely_of_file("listen.tls.acme", wrong.suggest(advice));
    }
}

const OWNER: &str = "a listener";

/// One table, which is a listener for each of its addresses.
fn one<'a>(table: &mut Table<'a>, base: &Path, claims: &mut Claims<'a>) -> Vec<Listener> {
    for key in ["ssl", "cert", "certificate", "certificates"] {
        let wrong = Wrong::new(format!("unknown key `{key}`"));
        let example = "tls = { certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }] }";
        table.refuse(key, wrong.suggest(format!("write `{example}`")));
    }
    let wrong = Wrong::new("a certificate that is ordered is shown by a listener with `tls`");
    let example = "tls = { acme = { domains = [\"shop.example.com\"] } }";
    table.refuse("acme", wrong.suggest(format!("write `{example}`")));
    let addresses = addresses(table, claims);
    let has_path = addresses.iter().any(|address| address.tcp().is_none());
    let listener = Listener {
        mode: mode(table, has_path),
        tls: tls::read(table, base),
        redirect_to_https: redirect_to_https(table),
        ..settings(table)
    };
    let at = |address| Listener {
        address,
        ..listener.clone()
    };
    addresses.into_iter().map(at).collect()
}

/// `true`, or the port of the listener that speaks TLS.
fn redirect_to_https(table: &mut Table<'_>) -> Option<u16> {
    let has_tls = table.has("tls");
    let field = table.take("redirect_to_https")?;
    let port = if field.is_number() {
        field.count(1..=65_535, HTTPS)
    } else {
        field
            .flag()
            .and_then(|redirects| redirects.then_some(HTTPS))
    };
    if has_tls && port.is_some() {
        let wrong = Wrong::new("clients of a listener with `tls` have come by it already");
        field
            .wrong(wrong.suggest("leave it out here, and write it for the listener without `tls`"));
    }
    port.and_then(|port| u16::try_from(port).ok())
}

/// The port of `https`.
const HTTPS: u32 = 443;

/// The addresses of one table.
fn addresses<'a>(table: &mut Table<'a>, claims: &mut Claims<'a>) -> Vec<ListenAddress> {
    let example = format!("\"{}\"", Listener::default().address);
    let mut addresses = Vec::new();
    if let Some(field) = table.required("address", &example) {
        for field in field.one_or_more(&example) {
            if let Some(address) = field.parse("an address", &example, address::read) {
                claims.add(address.clone(), OWNER, Some(field));
                addresses.push(address);
            }
        }
    }
    addresses
}

/// The permissions of the sockets that have a path.
fn mode(table: &mut Table<'_>, has_path: bool) -> u32 {
    let default = Listener::default().mode;
    let Some(field) = table.take("mode") else {
        return default;
    };
    let example = format!("\"{default:04o}\"");
    let mode = field.parse("the permissions of a file", &example, |text| {
        let digits = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(text, 8).ok();
        let mode = mode.filter(|mode| digits && (3..=4).contains(&text.len()) && *mode <= 0o777);
        let wrong = || Wrong::new(format!("`{text}` is not the permissions of a file"));
        mode.ok_or_else(|| wrong().suggest(format!("write them in octal, like {example}")))
    });
    let mode = mode.unwrap_or(default);
    if !has_path && mode != default {
        let wrong =
            Wrong::new("`mode` is of the file of a unix socket, and no address here is one");
        field.wrong(wrong.suggest("leave it out"));
    }
    mode
}

/// What the listeners of one table have in common, which is all but their addresses.
fn settings(table: &mut Table<'_>) -> Listener {
    let default = Listener::default();
    let trusted = table.take("trusted_proxies");
    let trusted = trusted.map(|field| field.elements("\"10.0.0.0/8\""));
    let trusted = trusted.unwrap_or_default();
    let network = |field: &Field<'_>| field.parse("a network", "\"10.0.0.0/8\"", value::network);
    Listener {
        trusted_proxies: trusted.iter().filter_map(network).collect(),
        proxy_protocol: proxy_protocol(table, !trusted.is_empty()),
        timeout: table.within("timeout", |table| ListenTimeouts {
            header: table.duration("header", default.timeout.header),
            body: table.duration("body", default.timeout.body),
            write: table.duration("write", default.timeout.write),
            idle: table.duration("idle", default.timeout.idle),
            handshake: table.duration("handshake", default.timeout.handshake),
            ping: table.duration("ping", default.timeout.ping),
        }),
        limits: table.within("limits", |table| limits(table, default.limits)),
        half_close: table.flag("half_close", default.half_close),
        grpc_web: table.flag("grpc_web", default.grpc_web),
        health_path: table
            .take("health_path")
            .and_then(|field| field.parse("a path", "\"/health\"", pattern::literal_path)),
        underscores: table.choice(
            "underscore_headers",
            &[
                ("drop", Underscores::Drop),
                ("reject", Underscores::Reject),
                ("allow", Underscores::Allow),
            ],
            default.underscores,
        ),
        paths: table.choice(
            "paths",
            &[("forward", Paths::Forward), ("strict", Paths::Strict)],
            default.paths,
        ),
        header_case: table.choice(
            "header_case",
            &[
                ("lower", HeaderCase::Lower),
                ("title", HeaderCase::Title),
                ("preserve", HeaderCase::Preserve),
            ],
            default.header_case,
        ),
        max_passes: table.size("max_passes", 1..=100, default.max_passes),
        protocol: table.choice(
            "protocol",
            &[
                ("auto", ListenProtocol::Auto),
                ("http1", ListenProtocol::Http1),
            ],
            default.protocol,
        ),
        ..default
    }
}

/// Whether connections begin with a PROXY header, which is believed of trusted proxies alone.
fn proxy_protocol(table: &mut Table<'_>, trusts: bool) -> bool {
    let Some(field) = table.take("proxy_protocol") else {
        return false;
    };
    let expects = field.flag().unwrap_or_default();
    if expects && !trusts {
        let wrong = Wrong::new("no proxy may connect, since `trusted_proxies` names none");
        field.wrong(wrong.suggest("add `trusted_proxies = [\"10.0.0.0/8\"]`, with its address"));
    }
    expects
}

fn limits(table: &mut Table<'_>, default: ListenLimits) -> ListenLimits {
    ListenLimits {
        connections: table.size("connections", 1..=10_000_000, default.connections),
        connections_per_address: table.size(
            "connections_per_address",
            1..=10_000_000,
            default.connections_per_address,
        ),
        // The HTTP parser's buffer is never smaller than 8 KiB.
        header_bytes: table.size("header_bytes", 8192..=1_048_576, default.header_bytes),
        headers: table.size("headers", 1..=100, default.headers),
        // A request's target cannot be longer than this in the `http` crate.
        target_bytes: table.size("target_bytes", 1..=65_534, default.target_bytes),
        handshakes: table.size("handshakes", 1..=1_000_000, default.handshakes),
        streams: table.size("streams", 1..=10_000, default.streams),
        requests_per_connection: table.size(
            "requests_per_connection",
            1..=1_000_000_000,
            default.requests_per_connection,
        ),
    }
}

impl Default for Listener {
    /// What a `[[listen]]` has where it says nothing: port 8080 of every IPv4 address.
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)).into(),
            mode: 0o660,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            timeout: ListenTimeouts {
                header: Duration::from_secs(10),
                body: Duration::from_secs(30),
                write: Duration::from_secs(30),
                idle: Duration::from_secs(75),
                handshake: Duration::from_secs(10),
                ping: Duration::from_secs(30),
            },
            limits: ListenLimits {
                connections: 20_000,
                connections_per_address: 10_000,
                header_bytes: 65_536,
                headers: 100,
                target_bytes: 8192,
                handshakes: 2000,
                streams: 100,
                requests_per_connection: 10_000,
            },
            half_close: false,
            health_path: None,
            underscores: Underscores::Drop,
            paths: Paths::Forward,
            header_case: HeaderCase::Lower,
            max_passes: 3,
            grpc_web: false,
            protocol: ListenProtocol::Auto,
            tls: None,
            redirect_to_https: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ROUTE, config, error, errors, strictly};
    use super::*;
    use crate::cases::cases;

    #[test]
    fn without_a_table_there_is_one_listener_with_the_defaults() {
        let listeners = config(ROUTE).listeners;
        assert_eq!(
            format!("{listeners:?}"),
            format!("{:?}", [Listener::default()])
        );
    }

    #[test]
    fn each_address_is_a_listener_with_the_tables_settings() {
        let text = r#"
            [[listen]]
            address = ["127.0.0.1:80", "[::1]:80"]
            trusted_proxies = ["10.0.0.0/8", "::1"]
            timeout = { header = "1s", ping = "2s" }
            protocol = "http1"
            half_close = true
            grpc_web = true
            health_path = "/up"
            underscore_headers = "reject"
            paths = "strict"
            header_case = "title"
            max_passes = 1
            [listen.limits]
            connections = 7
            connections_per_address = 3
            headers = 9
            handshakes = 5
            streams = 8
            requests_per_connection = 6
            [[listen]]
            address = "127.0.0.1:81"
        "#;
        let listeners = config(&format!("{text}{ROUTE}")).listeners;
        let addresses = listeners
            .iter()
            .map(|listener| listener.address.to_string());
        assert_eq!(
            addresses.collect::<Vec<_>>(),
            ["127.0.0.1:80", "[::1]:80", "127.0.0.1:81"]
        );
        for listener in &listeners[..2] {
            assert_eq!(listener.trusted_proxies.len(), 2);
            assert_eq!(listener.timeout.header, Duration::from_secs(1));
            assert_eq!(listener.timeout.body, Duration::from_secs(30));
            assert_eq!(
                (listener.limits.connections, listener.limits.headers),
                (7, 9)
            );
            assert_eq!(listener.limits.connections_per_address, 3);
            assert_eq!(listener.limits.target_bytes, 8192);
            assert_eq!(listener.limits.handshakes, 5);
            assert_eq!(listener.timeout.handshake, Duration::from_secs(10));
            assert!(listener.half_close && listener.grpc_web);
            assert_eq!(listener.health_path.as_deref(), Some("/up"));
            assert_eq!(listener.underscores, Underscores::Reject);
            assert_eq!((listener.paths, listener.max_passes), (Paths::Strict, 1));
            assert_eq!(listener.header_case, HeaderCase::Title);
            assert_eq!(listener.protocol, ListenProtocol::Http1);
            assert_eq!(listener.timeout.ping, Duration::from_secs(2));
            let of_http2 = [
                listener.limits.streams,
                listener.limits.requests_per_connection,
            ];
            assert_eq!(of_http2, [8, 6]);
        }
        assert!(!listeners[2].half_close && !listeners[2].grpc_web);
        let plain = &listeners[2];
        assert_eq!((plain.paths, plain.max_passes), (Paths::Forward, 3));
        assert_eq!(plain.header_case, HeaderCase::Lower);
        assert_eq!(plain.protocol, ListenProtocol::Auto);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let text = "[[listen]]\n\
            trusted_proxies = [\"10.0.0.0/8\", \"friend\", 7]\n\
            timeout = { header = \"0s\", tunnel = \"1s\" }\n\
            limits = { headers = 101, header_bytes = 100, connections = \"many\" }\n\
            half_close = \"yes\"\n\
            health_path = \"up\"\n\
            underscore_headers = \"dorp\"\n\
            paths = \"strikt\"\n\
            max_passes = 0\n\
            header_case = \"titel\"\n\
            protocol = \"http3\"\n";
        assert_eq!(
            errors(&format!("{text}{ROUTE}")),
            [
                "1:1 listen.address: the key `address` is missing; write `address = \"0.0.0.0:8080\"`",
                "2:34 listen.trusted_proxies: `friend` is not an IP address or a network; write it like \"10.0.0.0/8\" or \"192.168.1.7\"",
                "2:44 listen.trusted_proxies: expected a network, found the number 7; write `\"10.0.0.0/8\"`",
                "3:13 listen.timeout.header: this duration must be more than nothing",
                "3:28 listen.timeout.tunnel: unknown key `tunnel`; it may be `header`, `body`, `write`, `idle`, `handshake` or `ping`",
                "4:12 listen.limits.headers: 101 is out of range; write a number from 1 to 100",
                "4:27 listen.limits.header_bytes: 100 is out of range; write a number from 8192 to 1048576",
                "4:47 listen.limits.connections: expected a whole number, found the text \"many\"; write `connections = 20000`",
                "5:1 listen.half_close: expected true or false, found the text \"yes\"; write `half_close = true`",
                "6:1 listen.health_path: the path `up` does not begin with a slash; did you mean \"/up\"?",
                "7:1 listen.underscore_headers: `dorp` is not known here; did you mean \"drop\"?",
                "8:1 listen.paths: `strikt` is not known here; did you mean \"strict\"?",
                "9:1 listen.max_passes: 0 is out of range; write a number from 1 to 100",
                "10:1 listen.header_case: `titel` is not known here; did you mean \"title\"?",
                "11:1 listen.protocol: `http3` is not known here; did you mean \"http1\"?",
            ]
        );
    }

    #[test]
    fn a_listener_in_the_clear_may_send_its_clients_to_https() {
        for (text, port) in [("true", Some(443)), ("8443", Some(8443)), ("false", None)] {
            let text = format!("redirect_to_https = {text}\n{ROUTE}");
            let text = format!("[[listen]]\naddress = \"127.0.0.1:80\"\n{text}");
            assert_eq!(config(&text).listeners[0].redirect_to_https, port);
        }
        let text = "address = \"127.0.0.1:80\"\nredirect_to_https = true\n\
            tls = { certificates = [{ cert = \"a\", key = \"b\" }] }\n";
        let said = error(&format!("[[listen]]\n{text}{ROUTE}"));
        assert!(said.contains("have come by it already"), "{said}");
        for (text, says) in [
            ("0", "0 is out of range"),
            ("\"yes\"", "expected true or false"),
        ] {
            let text = format!("address = \"127.0.0.1:80\"\nredirect_to_https = {text}\n");
            let said = error(&format!("[[listen]]\n{text}{ROUTE}"));
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn a_listener_may_have_the_path_of_a_unix_socket() {
        let listen = |lines: &str| format!("[[listen]]\n{lines}\n{ROUTE}");
        let both = "address = [\"unix:/run/c.sock\", \"127.0.0.1:80\"]";
        let listeners = config(&listen(both)).listeners;
        let path = ListenAddress::Unix("/run/c.sock".into());
        assert_eq!((&listeners[0].address, listeners[0].mode), (&path, 0o660));
        let listeners = config(&listen(&format!("{both}\nmode = \"0666\""))).listeners;
        assert_eq!(listeners[0].mode, 0o666);
        for (lines, says) in cases(
            r#"
            address = "unix:c.sock" => `c.sock` is not the whole path
            address = "/run/c.sock" => did you mean "unix:/run/c.sock"?
            address = ["unix:/a", "unix:/a"] => give one of them another path
            address = "unix:/a"
            mode = "rw" => write them in octal, like "0660"
            address = "unix:/a"
            mode = "1777" => is not the permissions
            address = "unix:/a"
            mode = 660 => expected the permissions
            address = "127.0.0.1:1"
            mode = "0600" => no address here is one
            "#,
        ) {
            let said = error(&listen(&lines));
            assert!(said.contains(&says), "{said}");
        }
    }

    #[test]
    fn a_proxy_header_is_believed_of_proxies_that_the_file_names() {
        let listener = "[[listen]]\naddress = \"127.0.0.1:80\"\nproxy_protocol = ";
        let trusted = "trusted_proxies = [\"10.0.0.0/8\"]";
        let text = format!("{listener}true\n{trusted}\n{ROUTE}");
        assert!(config(&text).listeners[0].proxy_protocol);
        let text = format!("{listener}false\n{ROUTE}");
        assert!(!config(&text).listeners[0].proxy_protocol);
        for trusted in ["", "trusted_proxies = []\n"] {
            assert_eq!(
                error(&format!("{listener}true\n{trusted}{ROUTE}")),
                "3:1 listen.proxy_protocol: no proxy may connect, since `trusted_proxies` names none; \
                 add `trusted_proxies = [\"10.0.0.0/8\"]`, with its address"
            );
        }
    }

    #[test]
    fn a_single_table_is_told_its_brackets() {
        assert_eq!(
            error(&format!("[listen]\naddress = \"127.0.0.1:1\"\n{ROUTE}")),
            "1:2 listen: there may be several `listen` tables; write `[[listen]]`"
        );
    }

    #[test]
    fn a_bad_element_of_an_array_is_pointed_at() {
        let text = format!("[[listen]]\naddress = [\n  \"127.0.0.1:1\",\n  \":2\",\n]\n{ROUTE}");
        assert_eq!(
            error(&text),
            "4:3 listen.address: `:2` is not an IP address with a port; did you mean \"0.0.0.0:2\"?"
        );
    }
    /// A listener whose certificates are ordered.
    fn acme_at(port: u16, tls: &str) -> String {
        format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {tls} }}\n")
    }

    #[test]
    fn a_folder_is_one_accounts() {
        let one = acme_at(443, "acme = { domains = \"a.b\" }");
        let same = acme_at(444, "acme = { domains = \"c.d\" }");
        config(&format!("{one}{same}{ROUTE}"));
        let other = acme_at(444, "acme = { domains = \"c.d\", email = \"a@b\" }");
        let said = error(&format!("{one}{other}{ROUTE}"));
        assert!(said.contains("their accounts differ"), "{said}");
    }

    #[test]
    fn it_is_said_by_check_where_no_listener_can_be_asked() {
        let acme = "acme = { domains = \"a.b\" }";
        let said = strictly(&format!("{}{ROUTE}", acme_at(8443, acme)));
        assert!(said.len() == 1 && said[0].contains("port 80"), "{said:?}");
        let clear = "[[listen]]\naddress = \"0.0.0.0:80\"\n";
        for well in [
            acme_at(443, acme),
            format!("{}{clear}", acme_at(8443, acme)),
        ] {
            assert_eq!(strictly(&format!("{well}{ROUTE}")), [""; 0]);
        }
    }
}
