//! The command line `cloudsync`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloudsync_server::cli::run()
}
