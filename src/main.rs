//! The `callboard` binary: hands over to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    callboard::cli::main()
}
