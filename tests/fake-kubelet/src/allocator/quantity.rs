//! Kubernetes quantities such as `40Gi`, as numbers to compare and to count with.
use std::{
    iter::Sum,
    ops::{Add, Sub},
    str::FromStr,
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// An amount, in billionths, which is the smallest unit that Kubernetes knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(i128);

/// A text that is no quantity, or one beyond what Kubernetes can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity")]
pub struct NotAQuantity(String);

/// Digits behind the point that are kept.
const DECIMALS: usize = 9;
/// What binary units are powers of, and their names.
const BINARY: i128 = 1024;
const BINARY_UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// Nothing.
    pub(super) const ZERO: Self = Self(0);

    /// The next amount that is `base` and some whole steps.
    pub(super) fn round_up(self, base: Self, step: Self) -> Self {
        let above = self.0.saturating_sub(base.0);
        if above <= 0 || step.0 <= 0 {
            return self.max(base);
        }
        let steps = above / step.0 + i128::from(above % step.0 != 0);
        Self(base.0.saturating_add(steps.saturating_mul(step.0)))
    }

    /// As a whole number, rounded up.
    pub(super) fn whole(self) -> i64 {
        let one = 10_i128.pow(9);
        i64::try_from(self.0 / one + i128::from(self.0 % one > 0)).unwrap_or(i64::MAX)
    }

    /// As Kubernetes writes what it has rounded: a whole number, with the largest binary unit that divides it.
    pub(super) fn binary(self) -> Text {
        let one = 10_i128.pow(9);
        let mut number = self.0 / one + i128::from(self.0 % one > 0);
        let mut unit = 0;
        while number != 0 && number % BINARY == 0 && unit + 1 < BINARY_UNITS.len() {
            number /= BINARY;
            unit += 1;
        }
        Text(format!("{number}{}", BINARY_UNITS[unit]))
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl TryFrom<&Text> for Quantity {
    type Error = NotAQuantity;

    fn try_from(text: &Text) -> Result<Self, NotAQuantity> {
        text.0.parse()
    }
}

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
    fn rounding_goes_up_in_steps_from_the_base() {
        for (amount, base, step, rounded) in [
            ("0", "1Gi", "1Gi", "1Gi"),
            ("1Gi", "1Gi", "1Gi", "1Gi"),
            ("1.5Gi", "1Gi", "1Gi", "2Gi"),
            ("4", "1", "2", "5"),
            ("1500Mi", "0", "1Mi", "1500Mi"),
            ("7", "1", "0", "7"),
        ] {
            assert_eq!(quantity(amount).round_up(quantity(base), quantity(step)).binary(), Text(rounded.to_owned()));
        }
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
        fn the_binary_text_is_the_same_amount(bytes: u64) {
            let bytes = quantity(&bytes.to_string());
            prop_assert_eq!(Quantity::try_from(&bytes.binary()), Ok(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<Quantity>();
        }
    }
}
