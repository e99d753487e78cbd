//! Reads a policy file: bytes to a checked [`Policy`], or everything that is wrong with them.
use serde_saphyr::Spanned;

use super::{Form, LARGEST, MOST_SHARES, Place, Policy, VfioBinding, file, shadow};
use crate::duration;

/// Why bytes are no policy. The texts name line and column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is larger than any policy.
    #[error("it has more than {LARGEST} bytes, the most that a policy can have")]
    TooLarge,
    /// It is no text.
    #[error("{0}: it is no text (UTF-8)")]
    NotText(Place),
    /// It is no YAML of the policy's form.
    #[error("{0}")]
    Form(String),
    /// Its values are wrong.
    #[error("{}", told(.0))]
    Values(Vec<String>),
}

/// How many faults are told at once; whoever mends these hears of the next.
const MOST_FAULTS: usize = 10;
/// The longest name that NVML gives a GPU has 96 bytes (`NVML_DEVICE_NAME_V2_BUFFER_SIZE`); patterns may have more.
const LONGEST_PRODUCT_NAME: usize = 256;
/// How much is told at either end of a text that repeats what a user wrote.
const LONGEST_END: usize = 150;

fn told(faults: &[String]) -> String {
    let first = faults.get(..MOST_FAULTS).unwrap_or(faults).join("; ");
    match faults.len().saturating_sub(MOST_FAULTS) {
        0 => first,
        more => format!("{first}; and {more} more"),
    }
}

/// Without its middle, if it is long: what is wrong stands at one end and the place at the other.
fn brief(text: &str) -> String {
    if text.len() <= 2 * LONGEST_END {
        return text.to_owned();
    }
    let head = text.get(..text.floor_char_boundary(LONGEST_END)).unwrap_or_default();
    let tail = text.get(text.ceil_char_boundary(text.len() - LONGEST_END)..).unwrap_or_default();
    format!("{head}…{tail}")
}

impl Policy {
    /// Reads a file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() as u64 > LARGEST {
            return Err(PolicyError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| {
            let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            PolicyError::NotText(Place::behind(text))
        })?;
        let options = serde_saphyr::options! { with_snippet: false };
        let file: file::File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            PolicyError::Form(brief(&one_line(&error.render_with_formatter(&serde_saphyr::UserMessageFormatter))))
        })?;
        let mut faults = Vec::new();
        for (at, rule) in file.rules.iter().enumerate() {
            check(at, rule, &mut faults);
        }
        if !faults.is_empty() {
            return Err(PolicyError::Values(faults));
        }
        let warnings = shadow::warnings(&file.rules);
        Ok(Self { rules: file.rules, warnings })
    }

    /// What is allowed but can't be meant, such as a rule that an earlier one shadows.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn check(at: usize, rule: &file::Rule, faults: &mut Vec<String>) {
    if let Some(name) = rule.r#match.product_name.as_ref().filter(|name| name.value.is_empty()) {
        tell(faults, name, at, "match.productName", "is empty; leave it out to match every GPU");
    }
    if let Some(name) = rule.r#match.product_name.as_ref().filter(|name| name.value.len() > LONGEST_PRODUCT_NAME) {
        let reason = format!("has {} bytes; it can have at most {LONGEST_PRODUCT_NAME}", name.value.len());
        tell(faults, name, at, "match.productName", &reason);
    }
    let forms = &rule.offer.value;
    if forms.iter().enumerate().any(|(at, form)| forms.iter().take(at).any(|earlier| earlier == form)) {
        tell(faults, &rule.offer, at, "offer", "names one form twice");
    }
    if let Some(driver) = rule.vfio.driver.as_ref().filter(|driver| !is_vfio_driver(&driver.value)) {
        let reason = format!("is {:?}, but must be vfio-pci or a variant, such as nvgrace_gpu_vfio_pci", driver.value);
        tell(faults, driver, at, "vfio.driver", &reason);
    }
    if rule.vfio.binding == VfioBinding::Dynamic && rule.says_forms() && !forms.contains(&Form::Vfio) {
        tell(faults, &rule.offer, at, "offer", "has no vfio, though vfio.binding is dynamic");
    }
    let shares = &rule.shares;
    if let Some(count) = shares.count.as_ref().filter(|count| !(1..=MOST_SHARES).contains(&count.value)) {
        let reason = format!("is {}, but must be 1 to {MOST_SHARES}", count.value);
        tell(faults, count, at, "shares.count", &reason);
    }
    let (default, minimum) = (&shares.memory.default, &shares.memory.minimum);
    for (name, amount) in [("default", default), ("minimum", minimum)] {
        let Some(amount) = amount else { continue };
        let memory = amount.value.0;
        let name = format!("shares.memory.{name}");
        if memory.bytes() == 0 {
            tell(faults, amount, at, &name, "is 0");
        } else if memory != memory.floor_to_mebibytes() {
            tell(faults, amount, at, &name, &format!("is {memory}, which is no whole number of Mi"));
        }
    }
    if let (Some(default), Some(minimum)) = (default, minimum)
        && default.value.0 < minimum.value.0
    {
        let reason = format!("is {}, less than shares.memory.minimum, {}", default.value.0, minimum.value.0);
        tell(faults, default, at, "shares.memory.default", &reason);
    }
    if let Some(grace) = &shares.guard.grace
        && let Err(error) = duration(&grace.value)
    {
        tell(faults, grace, at, "shares.guard.grace", &format!("is {:?}: {error}", grace.value));
    }
}

/// Whether a name is that of a kernel driver for virtual machines' devices, of which it becomes a path.
fn is_vfio_driver(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    name.replace('_', "-").ends_with("vfio-pci") && name.len() <= 64 && name.chars().all(is_plain)
}

fn tell<T>(faults: &mut Vec<String>, place: &Spanned<T>, rule: usize, field: &str, reason: &str) {
    faults.push(format!("{}: rules[{rule}].{field} {}", Place::of(place), brief(reason)));
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
