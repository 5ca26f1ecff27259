//! The argument that names proxy.toml, which several commands take.

use std::path::PathBuf;

use clap::Args;

#[derive(Args)]
pub(super) struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    pub(super) config: PathBuf,
}
