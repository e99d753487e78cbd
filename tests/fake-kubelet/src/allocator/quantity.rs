//! Kubernetes quantities such as `40Gi`, as numbers that can be compared.
use std::str::FromStr;

/// An amount, in billionths, which is the smallest unit that Kubernetes knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(i128);

/// A text that is no quantity, or one beyond what Kubernetes can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity")]
pub(super) struct NotAQuantity(String);

/// Digits behind the point that are kept.
const DECIMALS: usize = 9;

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        parse(text).map(Self).ok_or_else(|| NotAQuantity(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<i128> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > DECIMALS || fraction.contains('.') {
        return None;
    }
    let billionths: i128 = format!("{whole}{fraction:0<DECIMALS$}").parse().ok()?;
    let (multiplier, divisor) = scale(suffix)?;
    Some(sign * billionths.checked_mul(multiplier)? / divisor)
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let power = |base: i128, exponent: u32| base.checked_pow(exponent).map(|factor| (factor, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, factor) } else { (factor, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_amount_in_other_units_is_equal() {
        assert_eq!(quantity("1Gi"), quantity("1024Mi"));
        assert_eq!(quantity("1.5"), quantity("1500m"));
        assert_eq!(quantity("12e3"), quantity("12k"));
        assert_eq!(quantity("5e-1"), quantity("0.5"));
        assert_eq!(quantity("1E"), quantity("1000P"));
        assert_eq!(quantity("-1"), quantity("-1000m"));
    }

    #[test]
    fn binary_units_are_larger_than_decimal_ones() {
        assert!(quantity("40Gi") > quantity("40G"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", ".", "Gi", "1GiB", "1.2.3", "1 Gi", "--1", "1e99"] {
            assert_eq!(text.parse::<Quantity>(), Err(NotAQuantity(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn bytes_are_ordered_as_numbers_are(a: u64, b: u64) {
            prop_assert_eq!(quantity(&a.to_string()).cmp(&quantity(&b.to_string())), a.cmp(&b));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<Quantity>();
        }
    }
}
