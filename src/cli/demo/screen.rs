//! What the demo says: one screen at the start, a line for each event, the totals in place below
//! them, and a summary. Owns standard output; decides nothing.

use std::{
    io::{self, Write},
    time::Duration,
};

use crossterm::{
    cursor::{MoveToColumn, MoveUp},
    queue,
    terminal::{Clear, ClearType, size},
};
use tokio::time::Instant;

use super::{children::Provider, load::Totals, servers::Servers};

/// What runs where, and which commands to try.
pub(super) fn intro(servers: &Servers, providers: &[Provider]) {
    let Servers {
        proxy,
        registry,
        admin,
        ..
    } = servers;
    println!("Callboard on this machine: providers register, and the proxy finds them.");
    println!();
    println!("  proxy     http://{proxy}   /NAME, or the host NAME.localhost");
    println!("  registry  http://{registry}   Consul's HTTP API");
    println!("  admin     http://{admin}   /api/status, /metrics, /ready");
    for line in &servers.moved {
        println!("  {line}");
    }
    println!();
    for Provider {
        id, address, pid, ..
    } in providers
    {
        println!("  {id:<8}  http://{address}   pid {pid}");
    }
    println!();
    println!("Try, in another terminal:");
    println!("  curl http://{proxy}/hello");
    println!("  curl -H 'Host: cart.localhost' http://{proxy}/");
    println!("  curl 'http://{registry}/v1/health/service/hello?passing'");
    println!("  curl http://{admin}/api/status");
    if let Some(one) = providers.last() {
        println!("A service of your own, which no file names:");
        println!("  curl -X PUT http://{registry}/v1/agent/service/register \\");
        println!(
            "    -d '{{\"Name\":\"mine\",\"Address\":\"{}\",\"Port\":{}}}'",
            one.address.ip(),
            one.address.port()
        );
        println!("  curl http://{proxy}/mine");
    }
    println!();
}

/// The running part.
pub(super) struct Screen {
    start: Instant,
    /// What was said, and when.
    said: Vec<(Duration, String)>,
    /// Lines of totals that stand below the cursor's place.
    drawn: u16,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            said: Vec::new(),
            drawn: 0,
        }
    }

    /// Since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// One line, which stays.
    pub(super) fn say(&mut self, line: &str) {
        let at = self.elapsed();
        let text = format!("{}  {line}", clock(at));
        self.said.push((at, line.to_owned()));
        self.write(&[text], 0);
    }

    /// The totals, in the place of those before.
    pub(super) fn totals(&mut self, totals: &Totals, running: &[Provider]) {
        let columns = size().map_or(0, |(columns, _)| usize::from(columns));
        let width = if columns == 0 { 80 } else { columns };
        let mut first = format!("sent {}  failed {}", totals.sent, totals.failed);
        if let Some(reason) = totals.reasons.last() {
            first = format!("{first}  ({reason})");
        }
        let counts = totals.by_provider.iter().map(|(id, count)| {
            let here = running.iter().any(|provider| provider.id == *id);
            format!("{id}{} {count}", if here { "" } else { " (gone)" })
        });
        let mut lines = vec![first.chars().take(width).collect()];
        lines.extend(wrapped(counts, width));
        self.write(&lines, lines.len());
    }

    /// What was sent, what failed, how long it took, and what was done when.
    pub(super) fn summary(&self, totals: &Totals) {
        println!();
        println!("Summary");
        println!("  sent {}  failed {}", totals.sent, totals.failed);
        if let (Some(middle), Some(slow)) = (totals.percentile(0.5), totals.percentile(0.99)) {
            println!("  latency p50 {middle:.2} ms  p99 {slow:.2} ms");
        }
        for (id, count) in &totals.by_provider {
            println!("  {id:<8}  {count} answers");
        }
        for (at, line) in &self.said {
            println!("  {}  {line}", clock(*at));
        }
        if !totals.reasons.is_empty() {
            println!("  the first failures:");
        }
        for reason in &totals.reasons {
            println!("    {reason}");
        }
    }

    /// Replaces the totals that are drawn by these lines, of which the last `totals` will be
    /// replaced in turn. A raw terminal needs the carriage return; a pipe gets none.
    fn write(&mut self, lines: &[String], totals: usize) {
        let mut out = Vec::new();
        if self.drawn > 0 {
            let up = (
                MoveToColumn(0),
                MoveUp(self.drawn),
                Clear(ClearType::FromCursorDown),
            );
            let _ = queue!(out, up.0, up.1, up.2);
        }
        let end = if raw() { "\r\n" } else { "\n" };
        for line in lines {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(end.as_bytes());
        }
        self.drawn = u16::try_from(totals).unwrap_or(u16::MAX);
        // A terminal that has gone away ends the demo by its signal, not here.
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(&out).and_then(|()| stdout.flush());
    }
}

fn raw() -> bool {
    crossterm::terminal::is_raw_mode_enabled().unwrap_or(false)
}

fn clock(at: Duration) -> String {
    format!("{:>6.1} s", at.as_secs_f64())
}

/// Words side by side, in lines of at most `width` characters where the words allow it.
fn wrapped(words: impl Iterator<Item = String>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + word.len() <= width => {
                line.push_str("  ");
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_wrapped_to_the_terminal() {
        let words = || {
            ["hello-1 10", "hello-2 10", "cart-1 20"]
                .map(str::to_owned)
                .into_iter()
        };
        assert_eq!(wrapped(words(), 80), ["hello-1 10  hello-2 10  cart-1 20"]);
        assert_eq!(
            wrapped(words(), 22),
            ["hello-1 10  hello-2 10", "cart-1 20"]
        );
        assert_eq!(wrapped(words(), 5).len(), 3);
    }
}
