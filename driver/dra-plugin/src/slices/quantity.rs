//! The value of a Kubernetes quantity, so that `1Gi` and `1024Mi` are the same amount.
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// An exact amount, counted in billionths (`n`, the smallest suffix there is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(i128);

/// Billionths in one.
const ONE: i128 = 1_000_000_000;

impl Amount {
    /// Reads a quantity; none where it is malformed, finer than a billionth or beyond the range.
    pub(crate) fn of(quantity: &Quantity) -> Option<Self> {
        let text = quantity.0.trim();
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let scale = i32::try_from(fraction.trim_end_matches('0').len()).ok()?;
        let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
        let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let billionths = match Suffix::read(suffix)? {
            Suffix::Decimal(exponent) => times_power_of_ten(mantissa, exponent.checked_sub(scale)?.checked_add(9)?)?,
            Suffix::Binary(bits) => times_power_of_ten(mantissa.checked_mul(1 << bits)?, 9 - scale)?,
        };
        Some(Self(if negative { -billionths } else { billionths }))
    }

    /// In whole units, as capacities of devices are counted; none where it is negative or has a fraction.
    pub(crate) fn whole(self) -> Option<u64> {
        (self.0 % ONE == 0).then(|| u64::try_from(self.0 / ONE).ok())?
    }

    /// The one spelling of this amount that stands for all its spellings.
    pub(super) fn canonical(self) -> Quantity {
        Quantity(if self.0 % ONE == 0 { (self.0 / ONE).to_string() } else { format!("{}n", self.0) })
    }

    /// Whether the amount lies at a whole number of steps from `start`; false for a step of zero.
    pub(super) fn is_aligned(self, start: Self, step: Self) -> bool {
        self.0.checked_sub(start.0).and_then(|way| way.checked_rem(step.0)) == Some(0)
    }

    pub(super) fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub(super) fn is_positive(self) -> bool {
        self.0 > 0
    }
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

enum Suffix {
    Decimal(i32),
    Binary(u32),
}

impl Suffix {
    fn read(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            _ => Self::Decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
        })
    }
}

/// `mantissa` × 10^`exponent`, where that is a whole number in range.
fn times_power_of_ten(mantissa: i128, exponent: i32) -> Option<i128> {
    if mantissa == 0 {
        return Some(0);
    }
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if exponent >= 0 { mantissa.checked_mul(power) } else { (mantissa % power == 0).then(|| mantissa / power) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(text: &str) -> Option<Amount> {
        Amount::of(&Quantity(text.to_owned()))
    }

    #[test]
    fn spellings_of_one_amount_are_equal() {
        for same in [
            &["1Gi", "1024Mi", "1073741824", "1048576Ki", "1073741824.0", "+1Gi", "1073741824000m"][..],
            &["1", "1000m", "1e0", "1E0", "1.0", "1.", "0.001k", "1000000u", "1000000000n"],
            &["0.5", ".5", "500m", "5e-1"],
            &["0", "0Gi", "-0", "0.000", "0e5"],
            &["-1k", "-1000", "-1e3"],
            &["0.5Ki", "512"],
        ] {
            for text in same {
                assert!(amount(text).is_some(), "{text}");
                assert_eq!(amount(text), amount(same[0]), "{text} and {}", same[0]);
            }
        }
        assert_ne!(amount("1G"), amount("1Gi"));
        assert!(amount("1G") < amount("1Gi"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in
            ["", " ", ".", "-", "+", "Gi", "1gi", "1 Gi", "1.2.3", "0x10", "1e", "1e99999999999", "--1", "9e40", "１"]
        {
            assert_eq!(amount(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_spelling_has_the_same_value(number in -(1i64 << 53)..(1i64 << 53), suffix in "(n|u|m||k|M|Ki|Mi|Gi)") {
            let value = amount(&format!("{number}{suffix}")).unwrap();
            prop_assert_eq!(Amount::of(&value.canonical()), Some(value));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            let _ = amount(&text);
        }

        #[test]
        fn any_number_is_read_without_a_panic(text in "[-+]?[0-9]{0,50}[.]?[0-9]{0,50}([eE][-+]?[0-9]{1,12}|[a-zA-Z]{0,2})") {
            let _ = amount(&text);
        }
    }
}
