//! Errors as people read them.

/// An error with all its causes, in one line, without those that already say what theirs does.
pub fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Nested {
        #[error("the file can't be read")]
        Silent(#[source] std::io::Error),
        #[error("the file can't be read: {0}")]
        Telling(#[source] std::io::Error),
    }

    #[test]
    fn a_cause_is_told_once_whether_its_error_tells_it_or_not() {
        let cause = || std::io::Error::other("it is gone");
        for error in [Nested::Silent(cause()), Nested::Telling(cause())] {
            assert_eq!(report(&error), "the file can't be read: it is gone");
        }
    }
}
