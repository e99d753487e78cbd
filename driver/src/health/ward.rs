//! Which GPUs are ill, from what is heard and read of them. Pure.
use std::collections::BTreeMap;

use aliquot_model::{GpuUuid, Inventory, Remedy, Xid};
use aliquot_nvml::{EventKind, GpuEvent};
use serde::{Deserialize, Serialize};

use super::Reset;

/// Seconds since the boot.
pub(crate) type Seconds = u64;

/// Why a GPU is ill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Cause {
    /// An error that NVIDIA's driver reported.
    Xid(Xid),
    /// An error of its memory that couldn't be corrected.
    DoubleBitEcc,
    /// The driver says that it needs something, and nobody heard why.
    Needs(Remedy),
    /// The kernel couldn't reset it after a virtual machine had it.
    NotReset,
}

impl Cause {
    /// What has to be done.
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Xid(xid) => xid.remedy(),
            Self::DoubleBitEcc => Remedy::ResetGpu,
            Self::Needs(remedy) => *remedy,
            // NVIDIA's driver, whose tool resets GPUs, may not have it.
            Self::NotReset => Remedy::RestartNode,
        }
    }

    /// In a word.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Xid(Xid(number)) => format!("xid-{number}"),
            Self::DoubleBitEcc => "double-bit-ecc".to_owned(),
            Self::Needs(remedy) => remedy.name().to_owned(),
            Self::NotReset => "not-reset".to_owned(),
        }
    }

    /// What it is, and what an operator is to do.
    pub(crate) fn explained(&self) -> String {
        format!("{self}; {}", self.remedy().advice())
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Xid(xid) => write!(f, "it reported {xid}"),
            Self::DoubleBitEcc => f.write_str("its memory had an error of two bits, which can't be corrected"),
            Self::Needs(_) => f.write_str("NVIDIA's driver says that it can't be used as it is"),
            Self::NotReset => f.write_str(
                "the kernel couldn't reset it after a virtual machine had it, so that what that machine left may be on it; it \
                 is tried again from time to time",
            ),
        }
    }
}

/// One GPU's illness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Illness {
    /// The first of the gravest.
    pub(crate) cause: Cause,
    /// When it was heard or read.
    pub(crate) since: Seconds,
    /// Whether the GPU has been away since: a reset takes it away and brings it back well.
    #[serde(default)]
    pub(crate) was_away: bool,
}

/// The node's ill GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ward(BTreeMap<GpuUuid, Illness>);

impl Ward {
    /// What a GPU suffers from.
    pub(crate) fn illness(&self, gpu: &GpuUuid) -> Option<&Illness> {
        self.0.get(gpu)
    }

    /// Every ill GPU.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&GpuUuid, &Illness)> {
        self.0.iter()
    }

    /// Those on which something of a virtual machine may be left.
    pub(crate) fn unclean(&self) -> impl Iterator<Item = &GpuUuid> {
        self.0.iter().filter(|(_, illness)| illness.cause == Cause::NotReset).map(|(gpu, _)| gpu)
    }

    /// The ward after an event.
    pub(crate) fn hear(mut self, event: &GpuEvent, now: Seconds) -> Self {
        let cause = match event.kind {
            EventKind::Xid(xid) if !xid.remedy().leaves_usable() => Cause::Xid(xid),
            EventKind::DoubleBitEcc => Cause::DoubleBitEcc,
            // A reading tells what it is.
            EventKind::Xid(_) | EventKind::Recovery | EventKind::Lost => return self,
        };
        if let Some(gpu) = &event.gpu {
            self.admit(gpu, cause, now);
        }
        self
    }

    /// The ward after a reset.
    pub(crate) fn reset(mut self, reset: &Reset, now: Seconds) -> Self {
        if !reset.worked {
            self.admit(&reset.gpu, Cause::NotReset, now);
        } else if self.illness(&reset.gpu).is_some_and(|illness| illness.cause == Cause::NotReset) {
            self.0.remove(&reset.gpu);
        }
        self
    }

    /// The ward after a reading that was begun at this time: what the driver says of a GPU counts for more than what was
    /// heard of it, once the driver has had this many seconds to know.
    pub(crate) fn read(mut self, inventory: &Inventory, begun: Seconds, settle: Seconds) -> Self {
        for gpu in inventory.gpus() {
            let is_over = |illness: &Illness| match gpu.needs {
                Some(_) => begun.saturating_sub(illness.since) >= settle,
                // NVIDIA's driver has it, and begins by setting it up anew.
                None if illness.cause == Cause::NotReset => begun.saturating_sub(illness.since) >= settle,
                None => illness.was_away,
            };
            match gpu.needs {
                Some(needed) if !needed.leaves_usable() => self.admit(&gpu.uuid, Cause::Needs(needed), begun),
                _ if self.illness(&gpu.uuid).is_some_and(is_over) => drop(self.0.remove(&gpu.uuid)),
                _ => {}
            }
        }
        for (gpu, illness) in &mut self.0 {
            illness.was_away |= !inventory.gpus().iter().any(|here| here.uuid == *gpu);
        }
        self
    }

    /// A graver cause takes the place of a lesser one; the same again is no news.
    fn admit(&mut self, gpu: &GpuUuid, cause: Cause, now: Seconds) {
        let graver = self.illness(gpu).is_none_or(|known| known.cause.remedy() < cause.remedy());
        if graver {
            self.0.insert(gpu.clone(), Illness { cause, since: now, was_away: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use aliquot_model::{Gpu, testing};

    use super::*;

    const SETTLE: Seconds = 60;

    fn gpu(needs: Option<Remedy>) -> Gpu {
        Gpu { needs, ..testing::gpu(1) }
    }

    fn node(gpus: Vec<Gpu>) -> Inventory {
        Inventory::new(gpus, vec![])
    }

    fn xid(number: u64) -> GpuEvent {
        GpuEvent { gpu: Some(testing::gpu(1).uuid), kind: EventKind::Xid(Xid(number)) }
    }

    fn cause(ward: &Ward) -> Option<&Cause> {
        ward.illness(&testing::gpu(1).uuid).map(|illness| &illness.cause)
    }

    #[test]
    fn a_programs_error_makes_no_gpu_ill_and_the_hardwares_does() {
        assert_eq!(cause(&Ward::default().hear(&xid(31), 0)), None);
        assert_eq!(cause(&Ward::default().hear(&xid(95), 0)), Some(&Cause::Xid(Xid(95))));
        let ecc = GpuEvent { kind: EventKind::DoubleBitEcc, ..xid(0) };
        assert_eq!(cause(&Ward::default().hear(&ecc, 0)), Some(&Cause::DoubleBitEcc));
    }

    #[test]
    fn the_gravest_is_kept_with_the_time_at_which_it_came() {
        let ward = Ward::default().hear(&xid(119), 10).hear(&xid(95), 20).hear(&xid(79), 30).hear(&xid(119), 40);
        let illness = ward.illness(&testing::gpu(1).uuid).unwrap();
        assert_eq!((&illness.cause, illness.since), (&Cause::Xid(Xid(79)), 30));
    }

    #[test]
    fn a_gpu_is_well_once_the_driver_has_had_time_to_say_that_it_needs_nothing() {
        let well = node(vec![gpu(Some(Remedy::None))]);
        let ward = Ward::default().hear(&xid(95), 1000);
        assert!(cause(&ward.clone().read(&well, 1000, SETTLE)).is_some(), "the driver may not know yet");
        assert!(cause(&ward.clone().read(&well, 1000 + SETTLE, SETTLE)).is_none());
        assert!(cause(&ward.read(&node(vec![gpu(Some(Remedy::ResetGpu))]), 2000, SETTLE)).is_some());
    }

    #[test]
    fn without_the_drivers_word_a_gpu_is_well_when_it_has_been_away_and_is_back() {
        let (here, away) = (node(vec![gpu(None)]), node(vec![]));
        let ward = Ward::default().hear(&xid(95), 0).read(&here, 100_000, SETTLE);
        assert!(cause(&ward).is_some(), "nothing has happened to it");
        let ward = ward.read(&away, 100_001, SETTLE);
        assert!(cause(&ward).is_some());
        assert!(cause(&ward.read(&here, 100_002, SETTLE)).is_none());
    }

    #[test]
    fn what_the_driver_says_makes_a_gpu_ill_that_was_not_heard() {
        let ward = Ward::default().read(&node(vec![gpu(Some(Remedy::RestartNode))]), 5, SETTLE);
        assert_eq!(cause(&ward), Some(&Cause::Needs(Remedy::RestartNode)));
        assert_eq!(
            ward.clone().read(&node(vec![gpu(Some(Remedy::RestartNode))]), 500, SETTLE),
            ward,
            "the same is no news"
        );
    }

    #[test]
    fn a_gpu_that_a_virtual_machine_left_unclean_is_ill_until_a_reset_of_it_works() {
        let place = GpuUuid::of_place("0000:02:00.0".parse().unwrap());
        let reset = |worked| Reset { gpu: place.clone(), worked };
        let ward = Ward::default().reset(&reset(true), 0).reset(&reset(false), 1);
        assert_eq!(ward.illness(&place).unwrap().cause, Cause::NotReset);
        // NVML never lists what is with vfio.
        let ward = ward.read(&node(vec![gpu(Some(Remedy::None))]), 5000, SETTLE);
        assert!(ward.illness(&place).is_some_and(|illness| illness.cause.remedy() == Remedy::RestartNode));
        assert_eq!(ward.reset(&reset(true), 6000).iter().count(), 0);
        let other = Ward::default().hear(&xid(79), 0);
        let known = Reset { gpu: testing::gpu(1).uuid, worked: true };
        assert_eq!(other.clone().reset(&known, 1), other, "a reset cures nothing else");
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let ward = Ward::default().hear(&xid(79), 7);
        let text = serde_json::to_string(&ward).unwrap();
        assert_eq!(serde_json::from_str::<Ward>(&text).unwrap(), ward, "{text}");
    }
}
