//! `aihub`, as this package's own binary: only such a one is built with the tests that kill it.

use std::process::ExitCode;

use aihub::cli::Cli;
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::parse().run().await
}
