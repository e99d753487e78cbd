//! What is said about a conversion: notes, warnings and faults, each in one line.
use std::{collections::HashSet, fmt};

/// How much a reader should mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// A choice, and why it was made.
    Note,
    /// Something that is lost or may surprise.
    Warning,
}

/// One choice or loss.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Note {
    level: Level,
    at: String,
    text: String,
}

impl Note {
    /// Whether something is lost or may surprise.
    pub(crate) fn is_warning(&self) -> bool {
        self.level == Level::Warning
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.is_warning() { "warning" } else { "note" };
        if self.at.is_empty() {
            write!(f, "{level}: {}", one_line(&self.text))
        } else {
            write!(f, "{level}: {}: {}", one_line(&self.at), one_line(&self.text))
        }
    }
}

/// All of them, in the order in which they came up; none twice.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    list: Vec<Note>,
    known: HashSet<Note>,
}

impl Notes {
    /// Explains a choice.
    pub(crate) fn note(&mut self, at: impl fmt::Display, text: impl Into<String>) {
        self.push(Level::Note, at, text.into());
    }

    /// Says what is lost or may surprise.
    pub(crate) fn warn(&mut self, at: impl fmt::Display, text: impl Into<String>) {
        self.push(Level::Warning, at, text.into());
    }

    /// Those that came up after the first `count`.
    pub(crate) fn since(&self, count: usize) -> &[Note] {
        self.list.get(count..).unwrap_or_default()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// As a list.
    pub(crate) fn into_vec(self) -> Vec<Note> {
        self.list
    }

    fn push(&mut self, level: Level, at: impl fmt::Display, text: String) {
        let note = Note { level, at: at.to_string(), text };
        if self.known.insert(note.clone()) {
            self.list.push(note);
        }
    }
}

/// Something that can't be converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    at: String,
    reason: String,
}

impl Fault {
    /// At a file, or a field in it.
    pub(crate) fn new(at: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { at: at.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() {
            f.write_str(&one_line(&self.reason))
        } else {
            write!(f, "{}: {}", one_line(&self.at), one_line(&self.reason))
        }
    }
}

/// Everything that can't be converted; never empty where it is an error.
#[derive(Debug, Default, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one.
    pub(crate) fn push(&mut self, at: impl fmt::Display, reason: impl Into<String>) {
        self.0.push(Fault::new(at, reason));
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { "\n" } else { "" })?;
            write!(f, "error: {fault}")?;
        }
        Ok(())
    }
}

/// Text of others without what could end a line or a comment, or steer a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    text.chars().flat_map(|c| if breaks(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A number and what it counts.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_one_line_whatever_the_input_says() {
        let note = Note { level: Level::Warning, at: "a\nb".into(), text: "x\u{1b}[31m\u{2028}y\r\n".into() };
        let line = note.to_string();
        assert_eq!(line, "warning: a\\nb: x\\u{1b}[31m\\u{2028}y\\r\\n");
        assert_eq!(Fault::new("", "a\nb").to_string(), "a\\nb");
    }

    #[test]
    fn the_same_note_is_said_once() {
        let mut notes = Notes::default();
        notes.note("x", "y");
        notes.note("x", "y");
        notes.warn("x", "y");
        assert_eq!(notes.len(), 2);
    }
}
