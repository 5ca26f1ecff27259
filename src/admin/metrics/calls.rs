//! The samples of calls of gRPC.

use std::fmt;

use super::scrape::{Samples, Scrape};
use crate::grpc::Code;

/// Answers by their status; a status that no answer had is left out.
pub(super) fn answers(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    scrape.called().try_for_each(|(service, _)| {
        Code::all().try_for_each(|code| {
            let calls: u64 = service.all_stats().map(|stats| stats.calls(code)).sum();
            match calls {
                0 => Ok(()),
                calls => samples.add(&[service.name(), code.name()], calls),
            }
        })
    })
}
