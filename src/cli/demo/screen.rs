//! What the demo says: one screen at the start, a line for each event, the totals in place below
//! them, and a summary. Owns standard output; decides nothing. Every error is standard output's.

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
pub(super) fn intro(servers: &Servers, providers: &[Provider]) -> io::Result<()> {
    let Servers { proxy, admin, .. } = servers;
    let registry = servers.registry.address;
    let indented = |line: &String| format!("  {line}\n");
    let moved: String = servers.moved.iter().map(indented).collect();
    let cast: String = providers
        .iter()
        .map(|one| {
            format!(
                "  {:<8}  http://{}   pid {}\n",
                one.id, one.address, one.pid
            )
        })
        .collect();
    // An alias for a provider that stays until late.
    let port = providers.last().map_or(9000, |one| one.address.port());
    write!(
        io::stdout(),
        r#"Callboard on this machine: providers register, and the proxy finds them.

  proxy     http://{proxy}   /NAME, or the host NAME.localhost
  registry  http://{registry}   Consul's HTTP API
  admin     http://{admin}   /api/status, /metrics, /ready
{moved}
{cast}
Try, in another terminal:
  curl http://{proxy}/hello
  curl -H 'Host: cart.localhost' http://{proxy}/
  curl 'http://{registry}/v1/health/service/hello?passing'
  curl http://{admin}/api/status
A service of your own, which no file names:
  curl -X PUT http://{registry}/v1/agent/service/register \
    -d '{{"Name":"mine","Address":"127.0.0.1","Port":{port}}}'
  curl http://{proxy}/mine

"#
    )
}

/// Which keys do something.
pub(super) fn keys() -> io::Result<()> {
    let keys = "Keys: a adds a provider, d drains one, k kills one, r kills the registry or starts it \
                again, q quits";
    writeln!(io::stdout(), "{keys}")
}

/// The running part.
pub(super) struct Screen {
    start: Instant,
    /// Lines of totals that stand below the cursor's place.
    drawn: u16,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            drawn: 0,
        }
    }

    /// Since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// One line, which stays.
    pub(super) fn say(&mut self, line: &str) -> io::Result<()> {
        let text = format!("{}  {line}", clock(self.elapsed()));
        self.write(&[text], 0)
    }

    /// The totals, in the place of those before.
    pub(super) fn totals(&mut self, totals: &Totals, running: &[Provider]) -> io::Result<()> {
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
        self.write(&lines, lines.len())
    }

    /// What was sent, what failed, and how long it took.
    pub(super) fn summary(&self, totals: &Totals) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out)?;
        writeln!(out, "Summary")?;
        writeln!(out, "  sent {}  failed {}", totals.sent, totals.failed)?;
        if let (Some(middle), Some(slow)) = (totals.percentile(0.5), totals.percentile(0.99)) {
            writeln!(out, "  latency p50 {middle:.2} ms  p99 {slow:.2} ms")?;
        }
        for (id, count) in &totals.by_provider {
            writeln!(out, "  {id:<8}  {count} answers")?;
        }
        if !totals.reasons.is_empty() {
            writeln!(out, "  the first failures:")?;
        }
        for reason in &totals.reasons {
            writeln!(out, "    {reason}")?;
        }
        Ok(())
    }

    /// Replaces the totals that are drawn by these lines, of which the last `totals` will be
    /// replaced in turn. A raw terminal needs the carriage return; a pipe gets none.
    fn write(&mut self, lines: &[String], totals: usize) -> io::Result<()> {
        let mut out = Vec::new();
        if self.drawn > 0 {
            let up = MoveUp(self.drawn);
            queue!(out, MoveToColumn(0), up, Clear(ClearType::FromCursorDown))?;
        }
        let end = if raw() { "\r\n" } else { "\n" };
        for line in lines {
            write!(out, "{line}{end}")?;
        }
        self.drawn = u16::try_from(totals).unwrap_or(u16::MAX);
        let mut stdout = io::stdout().lock();
        stdout.write_all(&out)?;
        stdout.flush()
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
