//! Routes choose among requests, services and endpoints as they say, under updates, drains and
//! retries too.

mod conditions;
