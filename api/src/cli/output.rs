//! What a person or a script sees. Everything that is printed goes through here: a closed pipe is an error that the
//! command returns, where `println!` would panic.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

/// The result of the command, flushed at once: it may be a piece of a stream.
pub fn out(text: impl fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{text}")?;
    stdout.flush()
}

pub fn out_line(text: impl fmt::Display) -> io::Result<()> {
    out(format_args!("{text}\n"))
}

/// A remark for the person, which is no part of the result.
pub fn remark(text: impl fmt::Display) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}

/// Where a long command is, in one line that the next one takes the place of; for a person's terminal only.
pub fn progress(text: impl fmt::Display) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        // Whoever does not see it misses nothing.
        let _ = write!(stderr, "\r\u{1b}[K{text}").and_then(|()| stderr.flush());
    }
}

/// Takes the last one away.
pub fn progress_done() {
    progress("");
}

/// Whether stdout is a person's terminal, which knows colours and obeys control characters.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// In the background on a terminal, plain elsewhere.
pub fn dim(text: impl fmt::Display) -> String {
    if is_terminal() { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_string() }
}

pub fn bold(text: impl fmt::Display) -> String {
    if is_terminal() { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_string() }
}
