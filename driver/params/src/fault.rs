//! What is wrong with parameters, field by field.
use std::fmt;

/// How much of a user's own text an error repeats; events are cut at 1024 bytes.
const LONGEST: usize = 120;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    path: String,
    reason: String,
}

impl Fault {
    /// At the field `path`, empty for the whole.
    pub(crate) fn new(path: &str, reason: impl Into<String>) -> Self {
        Self { path: cut(path), reason: cut(&reason.into()) }
    }

    /// The field, for example `sharing.strategy`; empty for the whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it, without the path.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "the value" } else { &self.path };
        write!(f, "{path} {}", self.reason)
    }
}

/// Everything that is wrong; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Each by itself.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl From<Vec<Fault>> for Faults {
    fn from(faults: Vec<Fault>) -> Self {
        Self(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST);
    if end == text.len() { text.to_owned() } else { format!("{}…", text.get(..end).unwrap_or_default()) }
}
