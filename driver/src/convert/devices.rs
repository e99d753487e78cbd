//! Which GPUs a time-sliced resource means: all, a number of them, or a list.
use serde_json::Value;

use super::{
    notes::{Faults, Notes},
    tree::{At, type_of},
};

/// The GPUs of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Devices {
    /// Each.
    All,
    /// Those that are named.
    Listed {
        /// By UUID, which a policy can match.
        uuids: Vec<String>,
        /// By index or number, which it can't: in words.
        unmatched: Vec<String>,
    },
}

/// Reads `devices`; absent means all.
pub(crate) fn decode(value: Option<&Value>, at: &At, notes: &mut Notes, faults: &mut Faults) -> Option<Devices> {
    let (mut uuids, mut unmatched) = (Vec::new(), Vec::new());
    match value {
        None => return Some(Devices::All),
        Some(Value::String(text)) if text == "all" => return Some(Devices::All),
        Some(Value::Number(count)) if count.as_u64().is_some_and(|count| count > 0) => {
            unmatched.push(format!("the first {count} of its GPUs"));
            notes.warn(
                at,
                format!("says how many GPUs ({count}) and not which, so none is matched; list their UUIDs, see nvidia-smi -L"),
            );
        }
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                let at = at.item(index);
                match reference(item) {
                    Some(Reference::Uuid(uuid)) => uuids.push(uuid),
                    Some(Reference::Index(number)) => {
                        notes.warn(
                            at,
                            format!(
                                "index {number} can't be matched, as it changes with the hardware; `nvidia-smi -L -i {number}` \
                                 on the node prints the GPU's UUID: write that instead"
                            ),
                        );
                        unmatched.push(format!("the GPU of index {number}"));
                    }
                    Some(Reference::Mig(name)) => {
                        notes.warn(at, format!("{name} is a MIG device, and isn't converted"));
                    }
                    None => faults
                        .push(at, "is neither an index nor a UUID such as GPU-b1028956-cfa2-0990-bf4a-5da9abb51763"),
                }
            }
        }
        Some(other) => {
            faults.push(at, format!("is {}, but must be \"all\", a number above 0 or a list", type_of(other)));
            return None;
        }
    }
    notes.warn(
        at,
        "NVIDIA's releases ignore this field and time-slice every GPU; here only the listed ones are offered as shares. To \
         share all of them, remove the field and convert again",
    );
    Some(Devices::Listed { uuids, unmatched })
}

enum Reference {
    Uuid(String),
    Index(u64),
    Mig(String),
}

fn reference(item: &Value) -> Option<Reference> {
    if let Some(index) = item.as_u64() {
        return Some(Reference::Index(index));
    }
    let text = item.as_str()?;
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    if let Ok(index) = text.parse() {
        Some(Reference::Index(index))
    } else if text.strip_prefix("GPU-").is_some_and(is_uuid) {
        Some(Reference::Uuid(text.to_owned()))
    } else if text.starts_with("MIG-")
        || text.split_once(':').is_some_and(|(gpu, mig)| is_number(gpu) && is_number(mig))
    {
        Some(Reference::Mig(text.to_owned()))
    } else {
        None
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_uuids_can_be_matched_and_the_rest_says_how_to_find_them() {
        let (mut notes, mut faults) = (Notes::default(), Faults::default());
        let uuid = "GPU-b1028956-cfa2-0990-bf4a-5da9abb51763";
        let value = json!([uuid, 1, "3", "0:1", "MIG-b1028956-cfa2-0990-bf4a-5da9abb51763"]);
        let devices = decode(Some(&value), &At::file("c"), &mut notes, &mut faults).unwrap();
        let unmatched = vec!["the GPU of index 1".to_owned(), "the GPU of index 3".to_owned()];
        assert!(faults.is_empty() && devices == Devices::Listed { uuids: vec![uuid.to_owned()], unmatched });
        let notes: Vec<String> = notes.into_vec().iter().map(ToString::to_string).collect();
        assert!(notes[1].contains("nvidia-smi -L -i 3") && notes.len() == 5, "{notes:#?}");
    }

    #[test]
    fn other_forms_are_refused() {
        for value in
            [json!("some"), json!(0), json!(-1), json!(1.5), json!({}), json!(["GPU-1"]), json!([-1]), json!([true])]
        {
            let (mut notes, mut faults) = (Notes::default(), Faults::default());
            decode(Some(&value), &At::file("c"), &mut notes, &mut faults);
            assert!(!faults.is_empty(), "{value}");
        }
    }
}
