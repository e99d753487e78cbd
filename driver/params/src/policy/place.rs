//! Where in a policy file something stands.
use std::fmt;

use serde_saphyr::Spanned;

/// A place in a text; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    line: u64,
    column: u64,
}

impl Place {
    /// Where a value stands.
    pub(super) fn of<T>(value: &Spanned<T>) -> Self {
        Self { line: value.referenced.line(), column: value.referenced.column() }
    }

    /// The place of what follows a text.
    pub(super) fn behind(text: &str) -> Self {
        let last = text.rsplit('\n').next().unwrap_or_default();
        Self { line: text.split('\n').count() as u64, column: last.chars().count() as u64 + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_characters_are_counted_from_one() {
        for (text, told) in [
            ("", "line 1, column 1"),
            ("ab", "line 1, column 3"),
            ("ab\n", "line 2, column 1"),
            ("ab\n\nü: ", "line 3, column 4"),
        ] {
            assert_eq!(Place::behind(text).to_string(), told);
        }
    }
}
