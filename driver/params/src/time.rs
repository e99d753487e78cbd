//! Times as people write them, and the length of a GPU's time slice.
use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long a process computes before the next one's turn, where several share a GPU.
///
/// The driver knows these four (`nvidia-smi compute-policy --set-timeslice`); what they are in milliseconds is its own
/// business and differs between generations of GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum TimeSlice {
    /// As the GPU comes.
    #[default]
    Default,
    /// For latency: many turns.
    Short,
    /// Between the two.
    Medium,
    /// For throughput: few turns.
    Long,
}

impl TimeSlice {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Default, Self::Short, Self::Medium, Self::Long];

    /// Their names, in the same order.
    pub(crate) const NAMES: [&str; 4] =
        [Self::Default.as_str(), Self::Short.as_str(), Self::Medium.as_str(), Self::Long.as_str()];

    /// The name, as it is written in parameters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "Default",
            Self::Short => "Short",
            Self::Medium => "Medium",
            Self::Long => "Long",
        }
    }

    /// The number that `nvidia-smi compute-policy --set-timeslice` takes.
    pub fn number(self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Short => 1,
            Self::Medium => 2,
            Self::Long => 3,
        }
    }
}

impl fmt::Display for TimeSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// It has no number or no unit.
    #[error("a time is a whole number and a unit (ms, s or m), such as 35s")]
    Form,
    /// It is beyond any use.
    #[error("it is too long")]
    TooLong,
    /// It is nothing.
    #[error("it must be more than 0")]
    Zero,
}

/// `35s`, `500ms` or `2m`; more than nothing.
pub fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(InvalidDuration::Form);
    }
    let number: u64 = number.parse().map_err(|_| InvalidDuration::TooLong)?;
    let time = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60).ok_or(InvalidDuration::TooLong)?),
        _ => return Err(InvalidDuration::Form),
    };
    if time.is_zero() { Err(InvalidDuration::Zero) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("35s"), Ok(Duration::from_secs(35)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("0s"), Err(InvalidDuration::Zero));
        for text in ["", "35", "s", "-1s", "1.5s", "1h"] {
            assert_eq!(duration(text), Err(InvalidDuration::Form), "{text:?}");
        }
        assert_eq!(duration("99999999999999999999m"), Err(InvalidDuration::TooLong));
    }

    #[test]
    fn names_and_numbers_are_those_of_nvidia_smi() {
        let all: Vec<_> = TimeSlice::ALL.iter().map(|slice| (slice.number(), slice.as_str())).collect();
        assert_eq!(all, [(0, "Default"), (1, "Short"), (2, "Medium"), (3, "Long")]);
    }
}
