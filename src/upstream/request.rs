//! A request as its exchanges send it, one after the other. Knows nothing of answers.

use http::Method;
use http_body::Body;

use super::{
    Head, Upgrade, buffers,
    http1::{self, Framing},
};
use crate::instance::Address;

/// A request's head, as it was written last, and its body.
#[derive(Debug)]
pub struct Request<B> {
    /// Empty before the first exchange.
    pub(super) head: Vec<u8>,
    /// `None` while an exchange sends it, and once it is answered.
    pub(super) body: Option<B>,
    pub(super) framing: Framing,
    /// The answer has no body.
    pub(super) is_head: bool,
    pub(super) expects_continue: bool,
    /// What its head asks the connection to go over to.
    pub(super) upgrade: Option<Box<Upgrade>>,
}

impl<B: Body> Request<B> {
    /// A request with a body of which nothing was read yet. An endpoint that is to want the body first
    /// (`expects_continue`) gets it when it has said so.
    pub fn new(method: &Method, body: B, expects_continue: bool) -> Self {
        Self {
            head: Vec::new(),
            framing: Framing::of(&body),
            body: Some(body),
            is_head: *method == Method::HEAD,
            expects_continue,
            upgrade: None,
        }
    }

    /// How many bytes its body has; `None` where that shows only at its end.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }

    /// Its body; `None` while an exchange sends it, and once it is answered.
    pub fn body(&mut self) -> Option<&mut B> {
        self.body.as_mut()
    }

    /// Its head as HTTP/1.1 writes it for this endpoint, for people.
    pub(crate) fn text(mut self, head: &impl Head, endpoint: &Address) -> String {
        self.write_head(head, endpoint);
        String::from_utf8_lossy(&self.head).into_owned()
    }

    /// Its head is another one from now on.
    pub fn forget_head(&mut self) {
        self.head.clear();
    }

    /// Writes its head for this endpoint, unless it has been written for all.
    pub(super) fn write_head(&mut self, head: &impl Head, endpoint: &Address) {
        if self.head.capacity() == 0 {
            self.head = buffers::take_write();
        } else if !self.head.is_empty() && head.host().is_some() {
            return;
        }
        self.head.clear();
        let expects_continue = self.expects_continue && self.framing.has_body();
        self.upgrade = head.upgrade();
        http1::write_head(
            &mut self.head,
            head,
            self.framing,
            expects_continue,
            self.upgrade.as_deref(),
            endpoint,
        );
    }
}
