//! `aihub`, as this package's own binary: only such a one is built with the tests that kill it.

use std::process::ExitCode;

fn main() -> ExitCode {
    aihub::cli::main()
}
