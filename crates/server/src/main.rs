//! The command line `cloudsync`: parses, runs, and prints an error as one line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match cloudsync_server::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.to_line());
            ExitCode::FAILURE
        }
    }
}
