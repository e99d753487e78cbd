//! Patterns of product names, where `*` stands for any text, as CEL.

/// A text as CEL and YAML both read it in double quotes.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The condition that `value`, a CEL expression, matches the pattern; none where every text does.
pub(crate) fn condition(pattern: &str, value: &str) -> Option<String> {
    let parts: Vec<&str> = pattern.split('*').collect();
    if parts.len() > 1 && parts.iter().all(|part| part.is_empty()) {
        return None;
    }
    Some(match parts.as_slice() {
        [whole] => format!("{value} == {}", quoted(whole)),
        [start, ""] => format!("{value}.startsWith({})", quoted(start)),
        ["", end] => format!("{value}.endsWith({})", quoted(end)),
        ["", middle, ""] => format!("{value}.contains({})", quoted(middle)),
        parts => {
            let parts: Vec<String> = parts.iter().map(|part| literal(part)).collect();
            format!("{value}.matches({})", quoted(&format!("^{}$", parts.join(".*"))))
        }
    })
}

/// A text that a regular expression takes as it is.
fn literal(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '-' | '_') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_becomes_the_simplest_expression() {
        for (pattern, expected) in [
            ("*", None),
            ("**", None),
            ("NVIDIA L40S", Some("p == \"NVIDIA L40S\"")),
            ("", Some("p == \"\"")),
            ("NVIDIA H100*", Some("p.startsWith(\"NVIDIA H100\")")),
            ("*80GB", Some("p.endsWith(\"80GB\")")),
            ("*A100*", Some("p.contains(\"A100\")")),
            ("*A100*80GB", Some("p.matches(\"^.*A100.*80GB$\")")),
            ("a.b*c+", Some("p.matches(\"^a\\\\.b.*c\\\\+$\")")),
            ("say \"x\"", Some("p == \"say \\\"x\\\"\"")),
        ] {
            assert_eq!(condition(pattern, "p").as_deref(), expected, "{pattern}");
        }
    }
}
