//! Writes values as YAML, and reads them again to be sure.
use serde_json::Value;

use super::{
    notes::Faults,
    tree::{At, documents},
};

/// Appends one document after its comment, with a line between it and any before it.
pub(crate) fn document(text: &mut String, comment: &str, value: &Value, faults: &mut Faults) {
    // CEL and shell scripts are read by people: a long line stays one.
    let options = serde_saphyr::ser_options! {folded_wrap_chars: usize::MAX};
    if !text.is_empty() {
        text.push_str("---\n");
    }
    text.push_str(comment);
    match serde_saphyr::to_string_with_options(value, options) {
        Ok(yaml) => {
            let is_same =
                documents(&At::file(""), &yaml).is_ok_and(|read| read.as_slice() == std::slice::from_ref(value));
            if !is_same {
                faults.push("", format!("the result can't be written so that it is read as it was: {}", shown(value)));
            }
            text.push_str(&yaml);
        }
        Err(error) => faults.push("", format!("the result can't be written as YAML: {error}")),
    }
}

fn shown(value: &Value) -> String {
    let text = |name: &str| value.pointer(name).and_then(Value::as_str).unwrap_or("?");
    format!("{} {}", text("/kind"), text("/metadata/name"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn is_written(value: &Value) -> bool {
        let (mut text, mut faults) = (String::new(), Faults::default());
        document(&mut text, "# x\n", value, &mut faults);
        faults.is_empty()
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts() {
        for text in [
            "yes",
            "n",
            "0644",
            "1e3",
            "12:30",
            "null",
            "~",
            "",
            " x",
            "x ",
            "a\n",
            "a\n\n",
            "\n a",
            "a: b",
            "# c",
            "- d",
            "\t",
            "---",
            "2026-01-01",
            "0x1f",
            "1_000",
            ".5",
            "+1",
            "{{ x }}",
            "\u{85}",
            "\u{feff}a",
            "a\r\nb",
        ] {
            assert!(is_written(&json!({"kind": "x", "v": text, text: [text]})), "{text:?}");
        }
        assert!(is_written(&json!({"v": [[], {}, null, true, 0, -1, 1.5, u64::MAX, i64::MIN, [[1]], [{"a": [{}]}]]})));
    }

    proptest! {
        #[test]
        fn what_people_write_is_read_as_it_was(text in "[ -~\\n\\täß…]{0,60}") {
            prop_assert!(is_written(&json!({"a": text, "b": [text, {"c": text}]})), "{:?}", text);
        }
    }
}
