//! Standard output and standard error of the commands that print and end.
use std::{
    fmt,
    io::{self, Write as _},
};

/// Prints a text. A reader that has left has seen enough, which is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_to_reader(text).map(drop)
}

/// The same, and whether the reader is still there.
pub(crate) fn print_to_reader(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}

/// Says something in one line on standard error. Where that can't be written, there is nobody to tell.
pub(crate) fn tell(line: impl fmt::Display) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
