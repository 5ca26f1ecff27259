//! What a resolver's message says: records and how long they may be believed, or that it is no
//! answer. Knows nothing of who gave it.

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};

use super::fault::Fault;

/// A complete answer; without records where there are none.
#[derive(Debug)]
pub(super) struct Answer {
    records: Vec<Record>,
    additional: Vec<Record>,
    /// The shortest of the answer's TTLs; where it is empty, what the zone says of such answers
    /// (RFC 2308), or nothing.
    pub(super) ttl: Duration,
}

/// The addresses of one name, as they came along with an answer.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    pub(super) ips: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

impl Answer {
    /// Reads what was answered to a question for records of this type. A name that does not exist
    /// has none.
    pub(super) fn read(message: Message, wanted: RecordType) -> Result<Self, Fault> {
        let code = message.metadata.response_code;
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(Fault::Refused(code));
        }
        let found = has(&message.answers, wanted);
        if !found && code == ResponseCode::NoError && points_elsewhere(&message) {
            return Err(Fault::Elsewhere);
        }
        let ttl = if found {
            shortest(&message.answers)
        } else {
            negative_ttl(&message.authorities)
        };
        Ok(Self {
            records: message.answers,
            additional: message.additionals,
            ttl,
        })
    }

    /// Its SRV records.
    pub(super) fn srv(&self) -> impl Iterator<Item = &SRV> {
        self.records.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        })
    }

    /// The addresses that were asked for.
    pub(super) fn ips(&self) -> Vec<IpAddr> {
        self.records.iter().filter_map(ip).collect()
    }

    /// The addresses of a name that came along, if any did.
    pub(super) fn additional(&self, name: &Name) -> Option<Addresses> {
        let of_name = |record: &&Record| record.name == *name && ip(record).is_some();
        let records: Vec<_> = self.additional.iter().filter(of_name).collect();
        (!records.is_empty()).then(|| Addresses {
            ips: records.iter().copied().filter_map(ip).collect(),
            ttl: shortest(records),
        })
    }
}

fn has(records: &[Record], wanted: RecordType) -> bool {
    records.iter().any(|record| record.record_type() == wanted)
}

fn ip(record: &Record) -> Option<IpAddr> {
    match record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// Whether one that resolves nothing for others names an alias or another server, which is neither
/// the records nor that there are none. Where there are none, the zone's SOA says so.
fn points_elsewhere(message: &Message) -> bool {
    let header = &message.metadata;
    let alias = !message.answers.is_empty();
    let referral = !header.authoritative && has(&message.authorities, RecordType::NS);
    let none = has(&message.authorities, RecordType::SOA);
    !header.recursion_available && !none && (alias || referral)
}

fn shortest<'r>(records: impl IntoIterator<Item = &'r Record>) -> Duration {
    let ttls = records.into_iter().map(|record| seconds(record.ttl));
    ttls.min().unwrap_or_default()
}

fn negative_ttl(authorities: &[Record]) -> Duration {
    let ttls = authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(seconds(record.ttl).min(seconds(soa.minimum))),
        _ => None,
    });
    ttls.min().unwrap_or_default()
}

/// A TTL with its highest bit set is none (RFC 2181, 8).
fn seconds(ttl: u32) -> Duration {
    let ttl = i32::try_from(ttl).unwrap_or(0);
    Duration::from_secs(ttl.unsigned_abs().into())
}
