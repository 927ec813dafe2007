use std::process::ExitCode;

fn main() -> ExitCode {
    aihub::cli::main()
}
