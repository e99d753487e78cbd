//! Who may hold what of a GPU beside whom, and what its time slice is to be. Pure: all of it follows from records.
use std::collections::BTreeSet;

use aliquot_model::{DeviceName, GpuUuid};
use aliquot_params::TimeSlice;
use dra_plugin::{ClaimRef, ClaimUid};

use super::record::{Held, Record, Room};

/// Why a claim can't be prepared beside others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clash {
    /// Another claim holds the device, or the GPU in a form that excludes it.
    Held {
        /// What was to be held.
        device: DeviceName,
        /// What is held.
        held: DeviceName,
        /// By whom.
        by: ClaimRef,
    },
    /// The shares that are held leave no room.
    Full {
        /// What was to be held.
        device: DeviceName,
        /// All that there is.
        offered: Room,
        /// What would be taken.
        taken: Room,
        /// One of those that hold the rest.
        by: ClaimRef,
    },
    /// Another claim wants another time slice; a GPU has one.
    TimeSlice {
        /// The GPU.
        gpu: GpuUuid,
        /// What this claim wants.
        wanted: TimeSlice,
        /// What the other one wants.
        set: TimeSlice,
        /// Whose wish that is.
        by: ClaimRef,
    },
    /// A claim whose record can't be used may hold it.
    Quarantined {
        /// What was to be held.
        device: DeviceName,
        /// That claim.
        uid: ClaimUid,
    },
}

/// The first reason why `new` can't be had beside `others`. Its own earlier record is none of these.
pub(super) fn clash(new: &Record, others: &[&Record]) -> Option<Clash> {
    let gpus: BTreeSet<&GpuUuid> = used(new).map(|held| &held.gpu).collect();
    passed(new, others).or_else(|| {
        gpus.into_iter().find_map(|gpu| {
            let ours: Vec<&Held> = used(new).filter(|held| held.gpu == *gpu).collect();
            let theirs: Vec<Theirs<'_>> = others
                .iter()
                .filter(|other| other.claim.uid() != new.claim.uid())
                .flat_map(|other| used(other).filter(|held| held.gpu == *gpu).map(|held| (held, &other.claim)))
                .collect();
            excluded(&ours, &theirs).or_else(|| other_slice(gpu, &ours, &theirs)).or_else(|| full(&ours, &theirs))
        })
    })
}

/// What a virtual machine has stands beside nothing of its GPUs, under whatever name.
fn passed(new: &Record, others: &[&Record]) -> Option<Clash> {
    let others = others.iter().filter(|other| other.claim.uid() != new.claim.uid());
    let theirs: Vec<Theirs<'_>> = others.flat_map(|other| used(other).map(|held| (held, &other.claim))).collect();
    used(new).find_map(|our| {
        let is_in_the_way = |held: &Held| (our.vfio.is_some() || held.vfio.is_some()) && our.meets(held);
        let (held, by) = theirs.iter().find(|(held, _)| is_in_the_way(held))?;
        Some(Clash::Held { device: our.device.clone(), held: held.device.clone(), by: (*by).clone() })
    })
}

/// What another claim holds.
type Theirs<'a> = (&'a Held, &'a ClaimRef);

fn excluded(ours: &[&Held], theirs: &[Theirs<'_>]) -> Option<Clash> {
    ours.iter().find_map(|our| {
        let (held, by) = theirs.iter().find(|(held, _)| excludes(our, held))?;
        Some(Clash::Held { device: our.device.clone(), held: held.device.clone(), by: (*by).clone() })
    })
}

fn other_slice(gpu: &GpuUuid, ours: &[&Held], theirs: &[Theirs<'_>]) -> Option<Clash> {
    let wish = |held: &Held| held.time_slice.filter(|slice| slice.asked).map(|slice| slice.interval);
    let wanted = ours.iter().find_map(|held| wish(held))?;
    let mut wishes = theirs.iter().filter_map(|(held, by)| Some((wish(held)?, by)));
    let (set, by) = wishes.find(|(set, _)| *set != wanted)?;
    Some(Clash::TimeSlice { gpu: gpu.clone(), wanted, set, by: (*by).clone() })
}

fn full(ours: &[&Held], theirs: &[Theirs<'_>]) -> Option<Clash> {
    let all = theirs.iter().map(|(held, _)| *held).chain(ours.iter().copied()).filter_map(|held| held.share);
    let (taken, offered) = all.fold((Room::default(), Room::default()), |(taken, offered), share| {
        (taken.plus(share.takes), offered.max(share.of))
    });
    let our = ours.iter().find(|held| held.share.is_some())?;
    let (_, by) = theirs.iter().find(|(held, _)| held.share.is_some())?;
    (!taken.fits_into(offered)).then(|| Clash::Full { device: our.device.clone(), offered, taken, by: (*by).clone() })
}

/// A device lent for administration holds nothing (KEP-5018).
pub(super) fn used(record: &Record) -> impl Iterator<Item = &Held> {
    record.devices.iter().filter(|held| !held.admin_access)
}

/// Shares stand beside each other, but one of a fixed number has one holder; a whole GPU stands beside nothing.
fn excludes(a: &Held, b: &Held) -> bool {
    match (&a.share, &b.share) {
        (Some(one), Some(other)) => a.device == b.device && (one.alone || other.alone),
        _ => true,
    }
}

/// What a GPU's time slice is to be for those who hold it: the one wish that there is, or else the longest that a policy
/// gave any of them, or else the GPU's own.
pub(super) fn time_slice(records: &[&Record], gpu: &GpuUuid) -> TimeSlice {
    let held = records.iter().flat_map(|record| used(record)).filter(|held| held.gpu == *gpu);
    let slices: Vec<_> = held.filter_map(|held| held.time_slice).collect();
    let asked = slices.iter().find(|slice| slice.asked);
    asked
        .or_else(|| slices.iter().max_by_key(|slice| slice.interval))
        .map_or(TimeSlice::Default, |slice| slice.interval)
}

/// The GPUs whose time slice a record has a say in.
pub(super) fn sliced(record: &Record) -> BTreeSet<&GpuUuid> {
    used(record).filter(|held| held.time_slice.is_some()).map(|held| &held.gpu).collect()
}

#[cfg(test)]
mod tests {
    use aliquot_model::Memory;
    use proptest::prelude::*;

    use super::{
        super::record::{
            Share, Slice,
            tests::{passed, record, share},
        },
        *,
    };

    fn beside(records: &[Record]) -> Vec<&Record> {
        records.iter().collect()
    }

    fn asking(mut record: Record, interval: TimeSlice) -> Record {
        record.devices[0].time_slice = Some(Slice { interval, asked: true, required: false });
        record
    }

    #[test]
    fn a_whole_gpu_stands_beside_no_share_and_the_other_way_round() {
        let (whole, part) = (record("u1", &["gpu-0"]), share("u2", "gpu-0", 1, 8));
        for (new, there) in [(&whole, &part), (&part, &whole)] {
            let clash = clash(new, &[there]);
            assert!(matches!(clash, Some(Clash::Held { by, .. }) if by == there.claim));
        }
    }

    #[test]
    fn shares_add_up_to_no_more_than_the_gpu_offers() {
        let three: Vec<Record> =
            [("u1", 30), ("u2", 30)].iter().map(|(uid, gib)| share(uid, "gpu-0", 1, *gib)).collect();
        assert_eq!(clash(&share("u3", "gpu-0", 8, 20), &beside(&three)), None);
        let full = clash(&share("u3", "gpu-0", 1, 21), &beside(&three));
        assert!(matches!(full, Some(Clash::Full { taken, .. }) if taken.memory == Memory::from_bytes(81 << 30)));
        assert!(matches!(clash(&share("u3", "gpu-0", 9, 1), &beside(&three)), Some(Clash::Full { .. })));
        // Prepared again, a claim doesn't count against itself.
        assert_eq!(clash(&three[0], &beside(&three)), None);
    }

    #[test]
    fn one_of_a_fixed_number_has_one_holder_and_leaves_the_others_free() {
        let slot = |uid: &str, device: &str| {
            let mut record = share(uid, "gpu-0", 1, 8);
            record.devices[0].device = device.parse().unwrap();
            record.devices[0].share.as_mut().unwrap().alone = true;
            record
        };
        let first = slot("u1", "gpu-0-share-1");
        assert!(matches!(clash(&slot("u2", "gpu-0-share-1"), &[&first]), Some(Clash::Held { .. })));
        assert_eq!(clash(&slot("u2", "gpu-0-share-2"), &[&first]), None);
    }

    #[test]
    fn a_virtual_machine_shares_none_of_its_gpus_with_anybody() {
        let machine = passed("u1", &["0000:41:00.0", "0000:42:00.0"]);
        for other in [
            record("u2", &["gpu-0000-42-00"]),
            share("u2", "gpu-0000-41-00", 1, 8),
            passed("u2", &["0000:42:00.0"]),
            passed("u2", &["0000:41:00.0", "0000:42:00.0"]),
        ] {
            assert!(matches!(clash(&machine, &[&other]), Some(Clash::Held { .. })), "{other:?}");
            assert!(matches!(clash(&other, &[&machine]), Some(Clash::Held { .. })), "{other:?}");
        }
        assert_eq!(clash(&machine, &[&record("u2", &["gpu-0000-43-00"]), &passed("u3", &["0000:44:00.0"])]), None);
    }

    #[test]
    fn administration_neither_excludes_nor_is_excluded() {
        let mut admin = record("admin", &["gpu-0"]);
        admin.devices[0].admin_access = true;
        let whole = record("u1", &["gpu-0"]);
        assert_eq!(clash(&admin, &[&whole]), None);
        assert_eq!(clash(&whole, &[&admin]), None);
    }

    #[test]
    fn two_wishes_for_one_gpu_clash_and_a_share_without_one_takes_what_is_set() {
        let short = asking(share("u1", "gpu-0", 1, 8), TimeSlice::Short);
        let long = asking(share("u2", "gpu-0", 1, 8), TimeSlice::Long);
        let clash_of = |new: &Record| clash(new, &[&short]);
        assert!(matches!(
            clash_of(&long),
            Some(Clash::TimeSlice { wanted: TimeSlice::Long, set: TimeSlice::Short, .. })
        ));
        assert_eq!(clash_of(&asking(share("u2", "gpu-0", 1, 8), TimeSlice::Short)), None);
        assert_eq!(clash_of(&asking(share("u2", "gpu-1", 1, 8), TimeSlice::Long)), None);
        let plain = share("u3", "gpu-0", 1, 8);
        assert_eq!(clash_of(&plain), None);
        let gpu = &plain.devices[0].gpu;
        assert_eq!(time_slice(&[&short, &plain], gpu), TimeSlice::Short);
        assert_eq!(time_slice(&[&plain], gpu), TimeSlice::Default);
    }

    proptest! {
        #[test]
        fn whatever_is_let_in_never_adds_up_to_more_than_is_offered(asks in proptest::collection::vec((1u32..5, 1u64..40), 0..20)) {
            let mut there: Vec<Record> = Vec::new();
            for (n, (shares, gib)) in asks.into_iter().enumerate() {
                let new = share(&format!("u{n}"), "gpu-0", shares, gib);
                if clash(&new, &beside(&there)).is_none() {
                    there.push(new);
                }
            }
            let held: Vec<Share> = there.iter().map(|record| record.devices[0].share.unwrap()).collect();
            prop_assert!(held.iter().map(|share| share.takes.shares).sum::<u32>() <= 10);
            prop_assert!(held.iter().map(|share| share.takes.memory.bytes()).sum::<u64>() <= 80 << 30);
        }
    }
}
