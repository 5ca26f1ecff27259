//! Reads request bodies into the registry's model, as Consul's agent does: keys in any case and
//! in snake case, null for absent, durations as Go writes them. What Consul knows and this
//! registry does not do is refused by name, rather than accepted and never done.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde_json::{Map, Value};

use super::{
    fields::{Fields, Reason, is_blank, mismatch, text_of, texts_of},
    model::{
        Check, HttpTarget, Kind, Probe, Service, Status, TaggedAddress, Target, Thresholds, Weights,
    },
};

/// Consul raises shorter intervals to this.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// And a shorter `DeregisterCriticalServiceAfter` to this.
const LEAST_DEREGISTER: Duration = Duration::from_secs(60);
/// Bytes of a check's output that are kept.
pub(super) const OUTPUT_MAX: usize = 4096;
const META_PAIRS: usize = 64;
const META_KEY: usize = 128;
const META_VALUE: usize = 512;

/// A service's registration: the instance, and its checks without duplicates of an id.
pub(super) fn registration(body: &[u8]) -> Result<(Service, Vec<Check>), Reason> {
    let mut fields = Fields::read(body)?;
    let name = fields.text("Name")?;
    let id = Some(fields.text("ID")?).filter(|id| !id.is_empty());
    let id = id.unwrap_or_else(|| name.clone());
    let mut service = Service {
        id,
        name,
        tags: fields.texts("Tags")?,
        address: fields.text("Address")?,
        port: fields.integer("Port")?,
        socket_path: fields.text("SocketPath")?,
        tagged_addresses: tagged_addresses(&mut fields)?,
        meta: fields
            .map("Meta")?
            .map(|map| texts_of(map, "Meta"))
            .transpose()?,
        weights: Weights::default(),
        enable_tag_override: fields.flag("EnableTagOverride")?,
    };
    let weights = fields.map("Weights")?;
    let single = fields.map("Check")?.filter(|check| !is_blank(check));
    let several = fields.list("Checks")?;
    fields.text("Token")?;
    only_default(&mut fields, "Namespace")?;
    only_default(&mut fields, "Partition")?;
    for unsupported in ["Kind", "Proxy", "Connect", "Locality"] {
        fields.refuse(unsupported)?;
    }
    fields.finish()?;

    if service.name.is_empty() {
        return Err("Missing service name".to_owned());
    }
    if is_wildcard(&service.address) {
        return Err("Invalid service address".to_owned());
    }
    if let Some(weights) = weights {
        service.weights = parse_weights(weights)?;
    }
    if let Some(meta) = &service.meta {
        valid_meta(meta).map_err(|reason| format!("Invalid Service Meta: {reason}"))?;
    }
    default_tagged_addresses(&mut service);
    let checks = checks_of(&service, single, several)?;
    Ok((service, checks))
}

/// The checks that stand in a service's registration, of two with one id the last.
fn checks_of(
    service: &Service,
    single: Option<Map<String, Value>>,
    several: Vec<Value>,
) -> Result<Vec<Check>, Reason> {
    let mut bodies = Vec::from_iter(single);
    for check in several {
        match check {
            Value::Object(check) => bodies.push(check),
            Value::Null => {}
            other => return Err(mismatch("Checks", "an array of objects", &other)),
        }
    }
    let count = bodies.len();
    let mut checks = BTreeMap::new();
    for (number, body) in bodies.into_iter().enumerate() {
        let mut check = parse_check(
            Fields::of(body),
            "Status for checks must 'passing', 'warning', 'critical'",
        )?;
        if check.id.is_empty() {
            check.id = match count {
                1 => format!("service:{}", service.id),
                _ => format!("service:{}:{}", service.id, number + 1),
            };
        }
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", service.name);
        }
        check.service = Some(service.id.clone());
        checks.insert(check.id.clone(), check);
    }
    Ok(checks.into_values().collect())
}

/// A check's own registration.
pub(super) fn check(body: &[u8]) -> Result<Check, Reason> {
    let mut fields = Fields::read(body)?;
    let service = Some(fields.text("ServiceID")?).filter(|id| !id.is_empty());
    fields.text("Token")?;
    only_default(&mut fields, "Namespace")?;
    only_default(&mut fields, "Partition")?;
    let mut check = parse_check(fields, "Bad check status")?;
    if check.name.is_empty() {
        return Err("Missing check name".to_owned());
    }
    if check.id.is_empty() {
        check.id.clone_from(&check.name);
    }
    check.service = service;
    Ok(check)
}

/// A TTL check's new status, and what its provider says.
pub(super) fn update(body: &[u8]) -> Result<(Status, String), Reason> {
    let mut fields = Fields::read(body)?;
    let status = fields.text("Status")?;
    let output = fields.text("Output")?;
    fields.finish()?;
    let status = Status::named(&status).ok_or(format!("Invalid check status: '{status}'"))?;
    Ok((status, output))
}

/// Fields of Consul's checks that would change what is checked, and are not supported here.
const UNSUPPORTED: [&str; 14] = [
    "Args",
    "ScriptArgs",
    "Shell",
    "DockerContainerID",
    "GRPC",
    "GRPCUseTLS",
    "H2PING",
    "H2PingUseTLS",
    "UDP",
    "OSService",
    "AliasNode",
    "AliasService",
    "TCPUseTLS",
    "TLSServerName",
];

/// A check's fields, each read by itself.
struct CheckFields {
    id: String,
    name: String,
    notes: String,
    status: String,
    target: TargetFields,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    ttl: Option<Duration>,
    thresholds: Thresholds,
    deregister_after: Option<Duration>,
    output_max: i64,
}

/// Those that say what is called, and how.
struct TargetFields {
    http: String,
    tcp: String,
    method: String,
    headers: Vec<(String, String)>,
    body: String,
    skip_verify: bool,
    disable_redirects: bool,
}

fn parse_check(fields: Fields, bad_status: &str) -> Result<Check, Reason> {
    let fields = CheckFields::read(fields)?;
    if fields.interval.is_some() && fields.ttl.is_some() {
        return invalid("Interval and TTL cannot both be specified");
    }
    let Thresholds {
        warning, critical, ..
    } = fields.thresholds;
    if warning > critical {
        return invalid("FailuresBeforeWarning can't be higher than FailuresBeforeCritical");
    }
    let kind = match (fields.target.into_target()?, fields.interval, fields.ttl) {
        (Some(_), None, _) => {
            return invalid(
                "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
            );
        }
        (None, _, None) => return invalid("TTL must be > 0 for TTL checks"),
        (None, _, Some(ttl)) => Kind::Ttl(ttl),
        (Some(target), Some(interval), _) => {
            valid_target(&target)?;
            Kind::Probe(Probe {
                target,
                interval: interval.max(LEAST_INTERVAL),
                timeout: fields.timeout,
                thresholds: Thresholds {
                    warning: if warning == 0 { critical } else { warning },
                    ..fields.thresholds
                },
                output_max: match usize::try_from(fields.output_max) {
                    Ok(0) => OUTPUT_MAX,
                    Ok(most) => most.min(OUTPUT_MAX),
                    Err(_) => return invalid("MaxOutputMaxSize must be positive"),
                },
            })
        }
    };
    let status = match fields.status.as_str() {
        "" => Status::Critical,
        name => Status::named(name).ok_or(bad_status)?,
    };
    let forgotten = fields.deregister_after;
    Ok(Check {
        id: fields.id,
        name: fields.name,
        notes: fields.notes,
        service: None,
        kind,
        deregister_after: forgotten.map(|after| after.max(LEAST_DEREGISTER)),
        status,
        output: String::new(),
    })
}

fn invalid<T>(reason: &str) -> Result<T, Reason> {
    Err(format!("Invalid check: {reason}"))
}

impl CheckFields {
    fn read(mut fields: Fields) -> Result<Self, Reason> {
        let (id, other_id) = (fields.text("CheckID")?, fields.text("ID")?);
        let check = Self {
            id: if id.is_empty() { other_id } else { id },
            name: fields.text("Name")?,
            notes: fields.text("Notes")?,
            status: fields.text("Status")?,
            target: TargetFields::read(&mut fields)?,
            interval: fields.duration("Interval")?,
            timeout: fields.duration("Timeout")?,
            ttl: fields.duration("TTL")?,
            thresholds: Thresholds {
                passing: fields.count("SuccessBeforePassing")?,
                warning: fields.count("FailuresBeforeWarning")?,
                critical: fields.count("FailuresBeforeCritical")?,
            },
            deregister_after: fields.duration("DeregisterCriticalServiceAfter")?,
            output_max: fields.integer("OutputMaxSize")?,
        };
        // Read and without a use here: the id of the service is that of the registration around it.
        fields.text("ServiceID")?;
        for unsupported in UNSUPPORTED {
            fields
                .refuse(unsupported)
                .or_else(|reason| invalid(&reason))?;
        }
        fields.finish()?;
        Ok(check)
    }
}

impl TargetFields {
    fn read(fields: &mut Fields) -> Result<Self, Reason> {
        Ok(Self {
            http: fields.text("HTTP")?,
            tcp: fields.text("TCP")?,
            method: fields.text("Method")?,
            headers: headers(fields)?,
            body: fields.text("Body")?,
            skip_verify: fields.flag("TLSSkipVerify")?,
            disable_redirects: fields.flag("DisableRedirects")?,
        })
    }

    /// What is called; `None` for a check that calls nothing.
    fn into_target(self) -> Result<Option<Target>, Reason> {
        match (self.http.is_empty(), self.tcp.is_empty()) {
            (true, true) => Ok(None),
            (true, false) => tcp_target(self.tcp).map(Some),
            (false, true) => Ok(Some(Target::Http(HttpTarget {
                url: self.http,
                method: match self.method.is_empty() {
                    true => "GET".to_owned(),
                    false => self.method,
                },
                headers: self.headers,
                body: self.body,
                skip_verify: self.skip_verify,
                follow_redirects: !self.disable_redirects,
            }))),
            (false, false) => invalid("HTTP and TCP cannot both be specified"),
        }
    }
}

fn tcp_target(address: String) -> Result<Target, Reason> {
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(Target::Tcp(address)),
        None => Err(format!("Invalid check: TCP: {address:?} is not host:port")),
    }
}

/// Whether a probe could ever be sent. Consul finds out when it runs it.
fn valid_target(target: &Target) -> Result<(), Reason> {
    let Target::Http(http) = target else {
        return Ok(());
    };
    let url = reqwest::Url::parse(&http.url)
        .map_err(|error| format!("Invalid check: HTTP: {:?}: {error}", http.url))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        let url = &http.url;
        return Err(format!(
            "Invalid check: HTTP: {url:?} is not an http or https URL"
        ));
    }
    http.method
        .parse::<http::Method>()
        .map_err(|_| format!("Invalid check: Method: {:?}", http.method))?;
    for (name, value) in &http.headers {
        let named = name.parse::<http::HeaderName>().is_ok();
        if !named || http::HeaderValue::from_str(value).is_err() {
            return Err(format!("Invalid check: Header: {name:?} with {value:?}"));
        }
    }
    Ok(())
}

fn headers(fields: &mut Fields) -> Result<Vec<(String, String)>, Reason> {
    let mut headers = Vec::new();
    for (name, values) in fields.map("Header")?.unwrap_or_default() {
        let Value::Array(values) = values else {
            return Err(mismatch("Header", "arrays of strings", &values));
        };
        for value in values {
            headers.push((name.clone(), text_of(value, "Header")?));
        }
    }
    Ok(headers)
}

fn parse_weights(map: Map<String, Value>) -> Result<Weights, Reason> {
    let mut fields = Fields::of(map);
    let (passing, warning) = (fields.integer("Passing")?, fields.integer("Warning")?);
    fields.finish()?;
    let invalid = |reason: &str| format!("Invalid Weights: {reason}");
    if passing < 1 {
        return Err(invalid("Passing must be greater than 0"));
    }
    if warning < 0 {
        return Err(invalid("Warning must be greater or equal than 0"));
    }
    match (u16::try_from(passing), u16::try_from(warning)) {
        (Ok(passing), Ok(warning)) => Ok(Weights { passing, warning }),
        _ => Err(invalid("DNS Weight must be between 0 and 65535")),
    }
}

fn tagged_addresses(fields: &mut Fields) -> Result<BTreeMap<String, TaggedAddress>, Reason> {
    let mut addresses = BTreeMap::new();
    for (tag, value) in fields.map("TaggedAddresses")?.unwrap_or_default() {
        let Value::Object(map) = value else {
            return Err(mismatch("TaggedAddresses", "objects", &value));
        };
        let mut fields = Fields::of(map);
        let (address, port) = (fields.text("Address")?, fields.integer("Port")?);
        fields.finish()?;
        addresses.insert(tag, TaggedAddress { address, port });
    }
    Ok(addresses)
}

fn default_tagged_addresses(service: &mut Service) {
    let tags = match service.address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => ["lan_ipv4", "wan_ipv4"],
        Ok(IpAddr::V6(_)) => ["lan_ipv6", "wan_ipv6"],
        Err(_) => return,
    };
    for tag in tags {
        let (address, port) = (service.address.clone(), service.port);
        service
            .tagged_addresses
            .entry(tag.to_owned())
            .or_insert(TaggedAddress { address, port });
    }
}

fn is_wildcard(address: &str) -> bool {
    matches!(address, "0.0.0.0" | "::" | "[::]")
}

fn valid_meta(meta: &BTreeMap<String, String>) -> Result<(), Reason> {
    if meta.len() > META_PAIRS {
        return Err(format!(
            "Node metadata cannot contain more than {META_PAIRS} key/value pairs"
        ));
    }
    for (key, value) in meta {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let reason = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.chars().all(word) {
            "Key contains invalid characters".to_owned()
        } else if key.len() > META_KEY {
            format!("Key is too long (limit: {META_KEY} characters)")
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use".to_owned()
        } else if value.len() > META_VALUE {
            format!("Value is too long (limit: {META_VALUE} characters)")
        } else {
            continue;
        };
        return Err(format!(
            "Couldn't load metadata pair ('{key}', '{value}'): {reason}"
        ));
    }
    Ok(())
}

fn only_default(fields: &mut Fields, name: &str) -> Result<(), Reason> {
    match fields.text(name)?.as_str() {
        "" | "default" => Ok(()),
        _ => Err(format!("{name} is a Consul Enterprise feature")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::cases;

    fn registered(body: &str) -> (Service, Vec<Check>) {
        registration(body.as_bytes()).unwrap_or_else(|reason| panic!("{body}: {reason}"))
    }

    #[test]
    fn keys_come_in_any_case_and_in_snake_case() {
        let (service, checks) = registered(
            r#"{"name":"web","ADDRESS":"10.0.0.7","port":80,"tags":["a"],"meta":{"My_Key":"v"},
                "enable_tag_override":true,"weights":{"passing":7,"Warning":0},
                "check":{"http":"https://10.0.0.7/","interval":"10s","tls_skip_verify":true,
                         "deregister_critical_service_after":"90m","status":"passing"}}"#,
        );
        assert_eq!((service.id.as_str(), service.port), ("web", 80));
        assert_eq!(service.meta.unwrap()["My_Key"], "v");
        assert!(service.enable_tag_override);
        assert_eq!((service.weights.passing, service.weights.warning), (7, 0));
        let [check] = checks.as_slice() else {
            panic!("{checks:?}")
        };
        assert_eq!(
            (check.id.as_str(), check.name.as_str()),
            ("service:web", "Service 'web' check")
        );
        assert_eq!(check.status, Status::Passing);
        assert_eq!(check.deregister_after, Some(Duration::from_secs(5400)));
        let Kind::Probe(Probe {
            target: Target::Http(http),
            ..
        }) = &check.kind
        else {
            panic!("{check:?}")
        };
        assert!(http.skip_verify && http.follow_redirects);
        assert_eq!(http.method, "GET");
    }

    #[test]
    fn null_is_absent() {
        let (service, checks) = registered(
            r#"{"ID":"i","Name":"n","Tags":null,"Port":null,"Address":null,"Meta":null,
                "Weights":null,"Check":null,"Checks":null,"TaggedAddresses":null,"Proxy":null,
                "Connect":null,"Namespace":"","Partition":"default","Kind":""}"#,
        );
        assert_eq!((service.tags, service.meta, checks), (vec![], None, vec![]));
        assert_eq!(service.weights, Weights::default());
        assert_eq!(registered(r#"{"Name":"n","Check":{},"Checks":[]}"#).1, []);
    }

    #[test]
    fn several_checks_are_numbered_from_one() {
        let (_, checks) = registered(
            r#"{"Name":"x","Checks":[{"TTL":"10s"},{"TTL":"10s","CheckID":"mine","Name":"My"},
                {"TCP":"127.0.0.1:1","Interval":"100ms","Timeout":"500ms"}]}"#,
        );
        let ids: Vec<_> = checks.iter().map(|check| check.id.as_str()).collect();
        assert_eq!(ids, ["mine", "service:x:1", "service:x:3"]);
        let Kind::Probe(probe) = &checks[2].kind else {
            panic!("{checks:?}")
        };
        assert_eq!(probe.interval, LEAST_INTERVAL);
        assert_eq!(probe.timeout, Some(Duration::from_millis(500)));
    }

    #[test]
    fn an_ip_address_is_also_a_tagged_one() {
        let (service, _) = registered(r#"{"Name":"x","Address":"::1","Port":8}"#);
        let tags: Vec<_> = service
            .tagged_addresses
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(tags, ["lan_ipv6", "wan_ipv6"]);
        assert!(
            registered(r#"{"Name":"x","Address":"name"}"#)
                .0
                .tagged_addresses
                .is_empty()
        );
    }

    #[test]
    fn what_consul_refuses_is_refused_in_its_words() {
        for (body, reason) in cases(
            r#"
            => Request decode failed: EOF
            null => Missing service name
            {} => Missing service name
            {"Name":"x","Unknown":1} => Request decode failed: json: unknown field "Unknown"
            {"Name":"x","Address":"0.0.0.0"} => Invalid service address
            {"Name":"x","Address":"[::]"} => Invalid service address
            {"Name":"x","Weights":{"Passing":0,"Warning":1}}
            => Invalid Weights: Passing must be greater than 0
            {"Name":"x","Weights":{"Passing":1,"Warning":-1}}
            => Invalid Weights: Warning must be greater or equal than 0
            {"Name":"x","Weights":{"Passing":70000}}
            => Invalid Weights: DNS Weight must be between 0 and 65535
            {"Name":"x","Meta":{"a b":"c"}}
            => Invalid Service Meta: Couldn't load metadata pair ('a b', 'c'): Key contains invalid characters
            {"Name":"x","Check":{"TTL":"10s","Interval":"5s"}}
            => Invalid check: Interval and TTL cannot both be specified
            {"Name":"x","Check":{"HTTP":"http://127.0.0.1/"}}
            => Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks
            {"Name":"x","Check":{"Name":"only"}}
            => Invalid check: TTL must be > 0 for TTL checks
            {"Name":"x","Checks":[{}]} => Invalid check: TTL must be > 0 for TTL checks
            {"Name":"x","Check":{"TTL":"10"}}
            => Request decode failed: time: missing unit in duration "10"
            {"Name":"x","Check":{"TTL":"10s","Status":"bogus"}}
            => Status for checks must 'passing', 'warning', 'critical'
            {"Name":"x","Check":{"TTL":"10s","FailuresBeforeWarning":3,"FailuresBeforeCritical":2}}
            => Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical
            "#,
        ) {
            assert_eq!(registration(body.as_bytes()).unwrap_err(), reason, "{body}");
        }
        let bad = check(br#"{"Name":"x","Status":"bogus","TTL":"15s"}"#).unwrap_err();
        assert_eq!(bad, "Bad check status");
        assert_eq!(
            check(br#"{"TTL":"15s"}"#).unwrap_err(),
            "Missing check name"
        );
        let bad = update(br#"{"Status":"bogus","Output":"up"}"#).unwrap_err();
        assert_eq!(bad, "Invalid check status: 'bogus'");
    }

    #[test]
    fn what_cannot_be_done_here_is_refused_by_name() {
        for (body, named) in cases(
            r#"
            {"Name":"x","Check":{"GRPC":"127.0.0.1:1","Interval":"5s"}} => GRPC
            {"Name":"x","Check":{"Args":["true"],"Interval":"5s"}} => Args
            {"Name":"x","Kind":"connect-proxy"} => Kind
            {"Name":"x","Connect":{"SidecarService":{"Port":1}}} => Connect
            {"Name":"x","Check":{"HTTP":"localhost:80/","Interval":"5s"}} => HTTP
            {"Name":"x","Check":{"TCP":"localhost","Interval":"5s"}} => TCP
            {"Name":"x","Check":{"HTTP":"http://a/","Method":"A B","Interval":"5s"}} => Method
            {"Name":"x","Check":{"HTTP":"http://a/","Header":{"a b":["c"]},"Interval":"5s"}}
            => Header
            {"Name":"x","Namespace":"team"} => Namespace
            {"Name":"x","Port":"80"} => Port: an integer is wanted, not a string
            {"Name":"x","Meta":{"a":1}} => Meta: a string is wanted, not a number
            "#,
        ) {
            let reason = registration(body.as_bytes()).unwrap_err();
            assert!(reason.contains(&named), "{body}: {reason}");
        }
    }
}
