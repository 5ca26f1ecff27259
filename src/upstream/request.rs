//! A request as its exchanges send it, one after the other. Knows nothing of answers.

use http::Method;
use http_body::Body;

use super::{
    Head, buffers,
    http1::{self, Framing},
};
use crate::instance::Address;

/// A request's head, as it was written last, and its body.
#[derive(Debug)]
pub struct Request<B> {
    /// Empty before the first exchange.
    pub(super) head: Vec<u8>,
    pub(super) body: B,
    pub(super) framing: Framing,
    /// The answer has no body.
    pub(super) is_head: bool,
    pub(super) expects_continue: bool,
}

impl<B: Body> Request<B> {
    /// A request with this head, which is written by the exchanges, and a body of which nothing was
    /// read yet.
    pub fn new(head: &impl Head, body: B) -> Self {
        Self {
            head: Vec::new(),
            framing: Framing::of(&body),
            body,
            is_head: *head.method() == Method::HEAD,
            expects_continue: head.expects_continue(),
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

    /// Its body.
    pub fn body(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body of a request that is not sent any more.
    pub fn into_body(self) -> B {
        self.body
    }

    /// Writes its head for this endpoint, unless it has been written for all.
    pub(super) fn write_head(&mut self, head: &impl Head, endpoint: &Address) {
        if self.head.is_empty() {
            self.head = buffers::take_write();
        } else if head.host().is_some() {
            return;
        }
        self.head.clear();
        http1::write_head(&mut self.head, head, self.framing, endpoint);
    }
}

#[cfg(test)]
impl<B: Body> Request<B> {
    /// Its head as it is written for this endpoint.
    pub(crate) fn text(mut self, head: &impl Head, endpoint: &Address) -> String {
        self.write_head(head, endpoint);
        String::from_utf8(self.head).unwrap()
    }
}
