//! Colours of a terminal, or none. Pure but for [`Paint::of_stdout`].
use std::{
    env,
    io::{IsTerminal as _, stdout},
};

use crate::args::Color;

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Style {
    #[default]
    Plain,
    /// What is looked for first.
    Strong,
    /// What is only looked at when it is wanted.
    Faint,
    /// All is well.
    Good,
    /// Somebody has to do something.
    Bad,
}

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    /// As asked for, or as the terminal and the environment have it: `NO_COLOR` (no-color.org) and `CLICOLOR_FORCE`.
    pub(super) fn of_stdout(color: Color) -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if is_set("NO_COLOR") => false,
            Color::Auto => is_set("CLICOLOR_FORCE") || (stdout().is_terminal() && !dumb),
        })
    }

    /// The text in its style (ECMA-48, select graphic rendition).
    pub(super) fn text(self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Plain => return text.to_owned(),
            Style::Strong => 1,
            Style::Faint => 2,
            Style::Good => 32,
            Style::Bad => 31,
        };
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_there_is_only_the_text() {
        assert_eq!(Paint(false).text("ill", Style::Bad), "ill");
        assert_eq!(Paint(true).text("ill", Style::Bad), "\x1b[31mill\x1b[0m");
        assert_eq!(
            (Paint(true).text("", Style::Bad), Paint(true).text("a", Style::Plain)),
            (String::new(), "a".into())
        );
    }
}
