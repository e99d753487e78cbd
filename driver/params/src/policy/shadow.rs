//! Finds rules that can never decide, since an earlier one matches all that they match.
use super::file::{Match, Rule};

/// How many rules are warned of one by one.
const MOST_WARNINGS: usize = 10;

/// A warning for each such rule; the number of rules bounds the work, which grows with its square.
pub(super) fn warnings(rules: &[Rule]) -> Vec<String> {
    let shadow_of =
        |at: usize, rule: &Rule| rules.iter().take(at).position(|earlier| covers(&earlier.r#match, &rule.r#match));
    let warning = |(at, rule)| {
        let by = shadow_of(at, rule)?;
        Some(format!("rules[{at}] never decides: rules[{by}] comes first and matches every GPU that it matches"))
    };
    let mut warnings: Vec<String> = rules.iter().enumerate().filter_map(warning).collect();
    let more = warnings.len().saturating_sub(MOST_WARNINGS);
    if more > 0 {
        warnings.truncate(MOST_WARNINGS);
        warnings.push(format!("{more} more rules never decide"));
    }
    warnings
}

/// Whether every GPU that `narrow` matches is matched by `wide`, as far as the two texts tell.
fn covers(wide: &Match, narrow: &Match) -> bool {
    let uuid = wide.uuid.is_none() || wide.uuid == narrow.uuid;
    let place = wide.pci_address.is_none() || wide.pci_address == narrow.pci_address;
    let product = match (&wide.product_name, &narrow.product_name) {
        (None, _) => true,
        (Some(_), None) => false,
        // Two patterns: one that takes the other's text, stars and all, takes whatever the other takes.
        (Some(wide), Some(narrow)) => glob(&wide.value, &narrow.value),
    };
    uuid && place && product
}

/// Whether `text` is what `pattern` says, where `*` stands for any text.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let Some((middle, tail)) = rest.rsplit_once('*') else {
        return text.ends_with(rest);
    };
    // The leftmost place for each part leaves the most for those after it.
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, is) in [
            ("NVIDIA H100*", "NVIDIA H100 80GB HBM3", true),
            ("*H100*", "NVIDIA H100 80GB HBM3", true),
            ("NVIDIA*80GB*", "NVIDIA H100 80GB HBM3", true),
            ("*", "", true),
            ("NVIDIA H100", "NVIDIA H100 80GB HBM3", false),
            ("*A100*", "NVIDIA H100 80GB HBM3", false),
            ("ab*b", "ab", false),
            ("a*b*c", "axc", false),
        ] {
            assert_eq!(glob(pattern, text), is, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_with_parts_replaced_by_stars_matches_itself(parts in proptest::collection::vec("[ab]{0,3}", 1..5),
                                                                between in proptest::collection::vec("[abc]{0,3}", 5)) {
            let text: Vec<&str> = parts.iter().zip(&between).flat_map(|(part, between)| [part.as_str(), between]).collect();
            let text = text.concat();
            let pattern = parts.join("*") + "*";
            prop_assert!(glob(&pattern, &text), "{pattern} {text}");
        }
    }
}
