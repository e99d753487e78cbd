//! What a claim's device may have of its GPU's memory. Pure: it follows from the claim's record.
use aliquot_model::{GpuUuid, Memory};

use crate::claim::{Held, Record};

/// A part of one GPU's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) gpu: GpuUuid,
    pub(super) memory: Memory,
    /// All that is given out of the GPU.
    pub(super) of: Memory,
}

/// Why a device has no limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The claim has others.
    #[error("claim {claim} holds no device {device}")]
    NoDevice {
        /// The claim.
        claim: String,
        /// What was asked for.
        device: String,
    },
    /// It is a whole GPU, is lent for administration, or was prepared without a limit.
    #[error("device {device} of claim {claim} is no share with a hard memory limit")]
    NotHard {
        /// The claim.
        claim: String,
        /// What was asked for.
        device: String,
    },
}

/// The grant of the device with this name in the claim's CDI spec.
pub(super) fn grant(record: &Record, device: &str) -> Result<Grant, Error> {
    let names = || (record.claim.to_string(), device.to_owned());
    let mut held = record.devices.iter().filter(|held| held.cdi_name() == device).peekable();
    if held.peek().is_none() {
        let (claim, device) = names();
        return Err(Error::NoDevice { claim, device });
    }
    let granted = |held: &Held| Some(Grant { gpu: held.gpu.clone(), memory: held.hard()?, of: held.share?.of.memory });
    held.find_map(granted).ok_or_else(|| {
        let (claim, device) = names();
        Error::NotHard { claim, device }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::testing::{record, share};

    #[test]
    fn a_share_has_its_own_memory_and_nothing_else_has_any() {
        let mut hard = share("u1", "gpu-0", 1, 8);
        assert!(matches!(grant(&hard, "u1-gpu-0"), Err(Error::NotHard { .. })));
        hard.devices[0].share.as_mut().unwrap().hard = true;
        let granted = grant(&hard, "u1-gpu-0").unwrap();
        assert_eq!(
            (granted.gpu.as_str(), granted.memory.bytes(), granted.of.bytes()),
            ("GPU-gpu-0", 8 << 30, 80 << 30)
        );
        assert!(matches!(grant(&hard, "u1-gpu-1"), Err(Error::NoDevice { .. })));
        hard.devices[0].admin_access = true;
        assert!(matches!(grant(&hard, "u1-gpu-0"), Err(Error::NotHard { .. })));
        assert!(matches!(grant(&record("u2", &["gpu-2"]), "u2-gpu-2"), Err(Error::NotHard { .. })));
    }
}
