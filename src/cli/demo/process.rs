//! A process of this same executable, beside the demo's own: started, and ended with its parent. Knows
//! nothing of what it does.

use std::{ffi::OsStr, io, net::SocketAddr, process::Stdio, thread, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::cli::registry::CONSUL_TOKEN;

/// A process that takes longer until it is ready has failed.
const START: Duration = Duration::from_secs(10);

/// Starts this executable with these arguments. Returns it once it has printed its line, which ends
/// with an address.
pub(super) async fn start(
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> anyhow::Result<(Child, SocketAddr)> {
    let program = std::env::current_exe().context("cannot find this executable")?;
    let mut process = Command::new(program)
        .args(arguments)
        // The demo's registry asks for none, and is no place for one that is meant for Consul.
        .env_remove(CONSUL_TOKEN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        // A group of its own, so that Ctrl-C reaches the demo alone.
        .process_group(0)
        .spawn()?;
    let output = process.stdout.take().expect("standard output is piped");
    let mut line = String::new();
    timeout(START, BufReader::new(output).read_line(&mut line))
        .await
        .map_err(|_| anyhow!("it was not ready in {START:?}"))??;
    let address = address_of(&line).context("it ended before it was ready")?;
    Ok((process, address))
}

fn address_of(ready_line: &str) -> Option<SocketAddr> {
    ready_line.trim_end().rsplit(' ').next()?.parse().ok()
}

/// Ends this process when standard input closes, as it does when the parent process dies.
pub(super) fn tie_to_parent() {
    // A plain thread: a runtime would wait for its blocked read.
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_at_the_end_of_the_line() {
        let line = "hello-1 is registered and listens at 127.0.0.1:4123\n";
        assert_eq!(address_of(line), Some("127.0.0.1:4123".parse().unwrap()));
        assert_eq!(address_of("error: the port is taken"), None);
    }
}
