//! A line of the access log in the making: what is noted of a request for it on the way.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode, Version, request::Parts};
use tokio::time::Instant;

use super::{Client, Target};
use crate::{
    access_log::{Copied, Line, Lines},
    grpc::Code,
    instance::Address,
    service::Service,
};

/// See the module.
pub(super) struct Access {
    /// Those of the log that it came under.
    lines: Arc<Lines>,
    copied: Copied,
    method: Method,
    client: IpAddr,
    arrived: Instant,
    at: SystemTime,
    route: Option<Arc<str>>,
    service: Option<Arc<str>>,
    endpoint: Option<Address>,
    attempts: usize,
    /// When the last attempt began, and when its new connection was there, or could not be had.
    began: Option<Instant>,
    dialled: Option<Instant>,
    status: Option<StatusCode>,
    /// Of a call of gRPC.
    grpc_status: Option<Code>,
    /// When the answer's head was there.
    answered: Option<Instant>,
    request_id: Option<String>,
    bytes: u64,
    is_whole: bool,
    is_abandoned: bool,
}

impl Access {
    /// Of a request that has arrived.
    pub(super) fn of(
        lines: Arc<Lines>,
        client: &Client,
        request: &Parts,
        arrived: Instant,
    ) -> Self {
        Self {
            copied: lines.copied(request),
            lines,
            method: request.method.clone(),
            client: client.asker(&request.headers),
            arrived,
            at: SystemTime::now(),
            route: None,
            service: None,
            endpoint: None,
            attempts: 0,
            began: None,
            dialled: None,
            status: None,
            grpc_status: None,
            answered: None,
            request_id: None,
            bytes: 0,
            is_whole: false,
            is_abandoned: false,
        }
    }

    pub(super) fn goes_by(&mut self, target: &Target) {
        self.route = Some(Arc::clone(&target.name));
    }

    pub(super) fn goes_to(&mut self, service: &Service) {
        self.service = Some(Arc::clone(service.name()));
    }

    pub(super) fn attempt_begins(&mut self, at: Instant) {
        self.attempts += 1;
        (self.began, self.dialled) = (Some(at), None);
    }

    pub(super) fn has_dialled(&mut self, at: Instant) {
        self.dialled = Some(at);
    }

    pub(super) fn answered_by(&mut self, endpoint: &Address) {
        self.endpoint = Some(endpoint.clone());
    }

    /// The answer is the proxy's own.
    pub(super) fn refused(&mut self, request_id: &str) {
        self.request_id = Some(request_id.to_owned());
    }

    /// The client broke its request off.
    pub(super) fn abandoned(&mut self, request_id: &str) {
        self.request_id = Some(request_id.to_owned());
        self.is_abandoned = true;
    }

    /// The answer's head is there; `is_empty` where its body is.
    pub(super) fn answered(&mut self, status: StatusCode, at: Instant, is_empty: bool) {
        (self.status, self.answered) = (Some(status), Some(at));
        // No piece of such a body is ever asked for.
        let has_no_body = is_empty || self.method == Method::HEAD;
        self.is_whole = has_no_body && !status.is_informational();
    }

    /// The call was answered so.
    pub(super) fn called(&mut self, code: Code) {
        self.grpc_status = Some(code);
    }

    /// A piece of the answer's body has passed; `is_last` where none follows.
    pub(super) fn passed(&mut self, bytes: usize, is_last: bool) {
        self.bytes += bytes as u64;
        self.is_whole |= is_last;
    }

    /// So much has passed in a tunnel.
    pub(super) fn tunnelled(&mut self, bytes: u64, is_whole: bool) {
        (self.bytes, self.is_whole) = (bytes, is_whole);
    }

    /// The request is over. Returns whether it is a line.
    pub(super) fn log(&self, client: &Client, version: Version) -> bool {
        let since = |from: Instant| move |at: Instant| at.saturating_duration_since(from);
        let endpoint = self.endpoint.as_ref().map(ToString::to_string);
        // As nginx has it, for a client that did not wait.
        let status = self.status.filter(|_| !self.is_abandoned);
        let tls = client.tls.as_deref();
        self.lines.add(&Line {
            copied: &self.copied,
            at: self.at,
            client: self.client,
            peer: client.peer.address.ip(),
            scheme: client.scheme.as_str(),
            version,
            method: &self.method,
            status: status.map_or(499, |status| status.as_u16()),
            grpc_status: self.grpc_status.map(Code::name),
            bytes: self.bytes,
            is_whole: self.is_whole,
            took: self.arrived.elapsed(),
            first_byte: self.answered.map(since(self.arrived)),
            queue: self.began.map(since(self.arrived)),
            connect: self.connect(),
            route: self.route.as_deref(),
            service: self.service.as_deref(),
            endpoint: endpoint.as_deref(),
            attempts: self.attempts,
            request_id: self.request_id.as_deref(),
            tls_version: tls.map(|session| session.version),
            tls_cipher: tls.map(|session| session.cipher.as_str()),
            sni: tls.and_then(|session| session.name.as_deref()),
        })
    }

    /// How long the last attempt waited for a new connection.
    fn connect(&self) -> Option<Duration> {
        let (began, dialled) = (self.began?, self.dialled?);
        Some(dialled.saturating_duration_since(began))
    }
}
