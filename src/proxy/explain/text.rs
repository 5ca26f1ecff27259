//! An explanation for a person, at night: what happens first, then why.

use std::fmt::{self, Display, Formatter};

use super::account::{
    AnswerAccount, Destination, EndpointAccount, Explanation, FollowUpAccount, LimitsAccount,
    RateAccount, RequestAccount, RouteAccount,
};

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.request)?;
        if let Some(answer) = &self.answer {
            writeln!(f, "answered by the proxy: {answer}\n")?;
        }
        if let Some(route) = &self.route {
            writeln!(f, "route     {route}")?;
        }
        for route in &self.passed_over {
            writeln!(f, "     not  {route}")?;
        }
        for route in &self.near_misses {
            writeln!(f, "nearly    {route}")?;
        }
        for registry in &self.unread_tags {
            let said = "the routes that its tags make are not known: the list was not read";
            writeln!(f, "routes    of {registry}: {said}")?;
        }
        if let Some(rate) = &self.rate {
            writeln!(f, "rate      {rate}")?;
        }
        if let Some(name) = &self.unlisted {
            let said = "whether there is such a service is not known: the list was not read";
            writeln!(f, "service   {name}: {said}")?;
        }
        for (count, destination) in self.destinations.iter().enumerate() {
            if count > 0 {
                writeln!(f)?;
            }
            destination.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for RequestAccount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or_default();
        write!(
            f,
            "{} {host}{} from {}",
            self.method, self.target, self.client
        )?;
        if self.asker != self.client {
            write!(f, ", who asks for {}", self.asker)?;
        }
        write!(f, ", at {}", self.listener)
    }
}

impl Display for AnswerAccount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.why)
    }
}

impl Display for RouteAccount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(host) = &self.host {
            write!(f, " of {host}")?;
        }
        if let Some(conditions) = &self.conditions {
            write!(f, ", {conditions}")?;
        }
        match (self.line, &self.file) {
            (Some(line), Some(file)) => write!(f, " (line {line} of {file})")?,
            (Some(line), None) => write!(f, " (line {line})")?,
            (None, _) => f.write_str(" (by tags)")?,
        }
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

impl Display for RateAccount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let by = self.by.as_deref().unwrap_or("all together");
        write!(
            f,
            "{} in {}, {} at once, by {by}: {} left",
            self.requests,
            seconds(self.per_seconds),
            self.burst,
            self.left
        )
    }
}

impl Display for LimitsAccount {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let most = |limit: Option<u32>| limit.map_or("any number".to_owned(), |n| n.to_string());
        write!(
            f,
            "{} at once, {} at each endpoint: {} at work, {} of {} wait",
            most(self.concurrent),
            most(self.per_endpoint),
            self.in_use,
            self.waiting,
            self.pending
        )?;
        match self.waits {
            Some(limit) => write!(f, "; it waits, for {} at most", seconds(limit)),
            None => Ok(()),
        }
    }
}

impl Display for Destination {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.service_line(f)?;
        if let Some(answer) = &self.answer {
            writeln!(f, "answer    {answer}")?;
        }
        if let Some(goes_over) = &self.goes_over {
            writeln!(f, "upgrade   {goes_over}")?;
        }
        if let Some(limits) = &self.limits {
            writeln!(f, "limits    {limits}")?;
        }
        self.endpoint_lines(f)?;
        writeln!(f, "\nforwarded as")?;
        for line in self.head.trim_end().lines() {
            writeln!(f, "  {line}")?;
        }
        self.retry_lines(f)
    }
}

impl Destination {
    fn service_line(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "service   {}", self.service)?;
        if self.chance < 1.0 {
            write!(f, ", {} of the requests", percent(self.chance))?;
        }
        if let Some(other) = &self.instead_of {
            write!(f, ", the fallback of {other}, which has no endpoint")?;
        }
        match &self.registries[..] {
            [] => f.write_str(", whose endpoints stand in the file")?,
            names => write!(f, ", {} at {}", self.registered_name, names.join(", "))?,
        }
        write!(f, "; balance {}", self.balance)?;
        if let Some(subset) = &self.subset {
            write!(f, ", of those with {subset}")?;
        }
        match self.pinned_to {
            Some(set) => writeln!(f, "; pinned to set {set}, whatever its registries say"),
            None => writeln!(f),
        }
    }

    fn endpoint_lines(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.is_read {
            let why = match self.is_watched {
                true => "its registry was not read",
                false => "no request has named it yet",
            };
            return writeln!(f, "\nits endpoints are not known: {why}");
        }
        let address = |one: &EndpointAccount| one.address.chars().count();
        let width = self.endpoints.iter().map(address).max().unwrap_or(0);
        if !self.endpoints.is_empty() {
            writeln!(f)?;
        }
        for one in &self.endpoints {
            let (address, state, chance) = (&one.address, &one.state, percent(one.chance));
            write!(f, "{chance:>5}  {address:width$}  {state}")?;
            match &one.why {
                Some(why) => writeln!(f, ": {why}")?,
                None => writeln!(f)?,
            }
        }
        match self.more_endpoints {
            0 => Ok(()),
            more => writeln!(f, "       and {more} more"),
        }
    }

    fn retry_lines(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (attempts, left) = (self.retry.attempts, self.retry.left);
        writeln!(f, "\nattempts  {attempts} at most; {left} retries left")?;
        let event = |one: &FollowUpAccount| one.event.chars().count();
        let width = self.retry.follow_ups.iter().map(event).max().unwrap_or(0);
        for one in &self.retry.follow_ups {
            writeln!(f, "  {:width$}  {}", one.event, one.then)?;
        }
        let timeouts = self.timeout.iter();
        let timeouts = timeouts.filter_map(|(name, limit)| Some((name, (*limit)?)));
        let timeouts = timeouts.map(|(name, limit)| format!("{name} {}", seconds(limit)));
        let timeouts: Vec<_> = timeouts.collect();
        writeln!(f, "timeouts  {}", timeouts.join(", "))
    }
}

fn percent(part: f64) -> String {
    match part * 100.0 {
        little if little > 0.0 && little < 0.5 => "< 1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 1.0 => format!("{} ms", (short * 1e3).round()),
        long => format!("{} s", (long * 1e3).round() / 1e3),
    }
}
