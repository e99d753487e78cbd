//! Driver versions as the strict semantic versions that a device attribute of type version takes.

/// `580.65.06` as `580.65.6`: three numbers without leading zeros, as semver 2.0 and with it the API server demand.
///
/// Missing parts are zero, further ones are cut; `None` when a part is no number.
pub fn semver(text: &str) -> Option<String> {
    let mut parts = [0u64; 3];
    for (slot, part) in parts.iter_mut().zip(text.trim().split('.')) {
        let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        *slot = plain.then(|| part.parse().ok())??;
    }
    let [major, minor, patch] = parts;
    Some(format!("{major}.{minor}.{patch}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_and_short_forms_become_semver() {
        assert_eq!(semver("580.65.06").as_deref(), Some("580.65.6"));
        assert_eq!(semver("12.8").as_deref(), Some("12.8.0"));
        assert_eq!(semver("9").as_deref(), Some("9.0.0"));
        assert_eq!(semver("1.2.3.4").as_deref(), Some("1.2.3"));
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "550.x", "r570", "1..2", "-1.0", "99999999999999999999.1"] {
            assert_eq!(semver(text), None, "{text:?}");
        }
    }
}
