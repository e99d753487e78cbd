//! What to do next so that functions change their kernel driver, from wherever they are. Pure.
//!
//! ```text
//! to a virtual machine: lock the GPUs ─> name vfio as all's only driver ─> unbind: GPUs, others ─> have them probed: GPUs, others
//! back to the host:     unbind: others, GPUs ─> name no driver any more ─> bind: GPUs, others
//! ```
//! NVIDIA's kernel driver panics where a card's audio function is with vfio while it has the card's GPU, so that the GPU goes
//! first and comes last.
use aliquot_model::PciAddress;

use super::trouble::Trouble;

/// To whom functions are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// To vfio, for a virtual machine.
    Vfio,
    /// Back to the drivers that had them.
    Host,
}

/// A function, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) pci: PciAddress,
    pub(super) is_gpu: bool,
    /// The driver that had it.
    pub(super) origin: Option<String>,
    /// Whether it is on the bus.
    pub(super) is_there: bool,
    /// The driver that has it.
    pub(super) driver: Option<String>,
    /// The only driver that may have it (`driver_override`).
    pub(super) only: Option<String>,
    /// Whether NVIDIA's driver lets nobody open it; none where it has no such lock.
    pub(super) locked: Option<bool>,
}

impl Member {
    fn is_with(&self, driver: &str) -> bool {
        self.driver.as_deref().is_some_and(|has| is(has, driver))
    }

    fn is_home(&self) -> bool {
        self.driver == self.origin
    }

    fn is_only_for(&self, driver: &str) -> bool {
        self.only.as_deref().is_some_and(|only| is(only, driver))
    }
}

/// One thing done to one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// NVIDIA's driver lets nobody open it any more.
    Lock,
    /// It lets everybody again.
    Unlock,
    /// Only vfio may have it.
    Override,
    /// The driver that has it lets go of it.
    Unbind,
    /// Whichever driver may have it takes it.
    Probe,
    /// Any driver may have it.
    Clear,
    /// The driver that had it takes it.
    Bind,
}

/// Whether two names are of one driver: modules are named with `_`, and their drivers mostly with `-`.
pub(super) fn is(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| a == b || (b"-_".contains(&a) && b"-_".contains(&b)))
}

/// The next step and whose it is; none where all have arrived.
pub(super) fn next(goal: Goal, members: &[Member], vfio: &str) -> Result<Option<(usize, Step)>, Trouble> {
    match goal {
        Goal::Vfio => to_vfio(members, vfio),
        Goal::Host => to_host(members, vfio),
    }
}

fn to_vfio(members: &[Member], vfio: &str) -> Result<Option<(usize, Step)>, Trouble> {
    let on_the_way = |member: &Member| !member.is_with(vfio);
    for member in members {
        let pci = member.pci;
        if !member.is_there {
            return Err(Trouble::Gone { pci });
        }
        if let Some(driver) = member.driver.clone().filter(|_| on_the_way(member) && !member.is_home()) {
            return Err(Trouble::Foreign { pci, driver });
        }
        if let Some(only) = member.only.clone().filter(|_| on_the_way(member) && !member.is_only_for(vfio)) {
            return Err(Trouble::Overridden { pci, only });
        }
    }
    let first = |step, is_due: &dyn Fn(&Member) -> bool| find(members, true, step, is_due);
    Ok(first(Step::Lock, &|member| on_the_way(member) && member.driver.is_some() && member.locked == Some(false))
        .or_else(|| first(Step::Override, &|member| on_the_way(member) && member.only.is_none()))
        .or_else(|| first(Step::Unbind, &|member| on_the_way(member) && member.driver.is_some()))
        .or_else(|| first(Step::Probe, &on_the_way)))
}

/// What somebody else has taken meanwhile, or what has gone, is no longer ours to give.
fn to_host(members: &[Member], vfio: &str) -> Result<Option<(usize, Step)>, Trouble> {
    let ours = |member: &Member| member.is_there && member.origin.as_deref().is_none_or(|origin| !is(origin, vfio));
    let is_home = |member: &Member| member.driver.is_some() || member.origin.is_none();
    let step = find(members, false, Step::Unbind, &|member| ours(member) && member.is_with(vfio))
        .or_else(|| find(members, true, Step::Clear, &|member| ours(member) && member.is_only_for(vfio)))
        .or_else(|| find(members, true, Step::Unlock, &|member| member.is_there && member.locked == Some(true)))
        .or_else(|| find(members, true, Step::Bind, &|member| ours(member) && !is_home(member)));
    if let Some((at, Step::Bind)) = step
        && let Some(member) = members.get(at)
        && let Some(only) = member.only.clone().filter(|only| member.origin.as_ref() != Some(only))
    {
        return Err(Trouble::Overridden { pci: member.pci, only });
    }
    Ok(step)
}

/// The first for which a step is due, among the GPUs first or last.
fn find(members: &[Member], gpus_first: bool, step: Step, is_due: &dyn Fn(&Member) -> bool) -> Option<(usize, Step)> {
    let of_kind = |gpu: bool| members.iter().position(|member| member.is_gpu == gpu && is_due(member));
    of_kind(gpus_first).or_else(|| of_kind(!gpus_first)).map(|at| (at, step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VFIO: &str = "vfio-pci";

    fn member(pci: &str, is_gpu: bool, origin: &str) -> Member {
        let origin = Some(origin.to_owned()).filter(|origin| !origin.is_empty());
        let locked = is_gpu.then_some(false);
        let driver = origin.clone();
        Member { pci: pci.parse().unwrap(), is_gpu, origin, is_there: true, driver, only: None, locked }
    }

    fn card() -> Vec<Member> {
        vec![member("0000:41:00.0", true, "nvidia"), member("0000:41:00.1", false, "snd_hda_intel")]
    }

    /// What the kernel makes of a step.
    fn done(member: &Member, step: Step) -> Member {
        let mut after = member.clone();
        match step {
            Step::Lock => after.locked = Some(true),
            Step::Unlock => after.locked = Some(false),
            Step::Override => after.only = Some(VFIO.to_owned()),
            Step::Unbind => (after.driver, after.locked) = (None, None),
            Step::Probe => after.driver = after.driver.or(after.only.clone()),
            Step::Clear => after.only = None,
            Step::Bind => {
                after.driver = after.origin.clone();
                after.locked = member.is_gpu.then_some(false);
            }
        }
        after
    }

    /// All steps to the goal, from where they are.
    fn way(goal: Goal, members: &mut [Member]) -> Result<Vec<(usize, Step)>, Trouble> {
        let mut steps = Vec::new();
        while let Some((at, step)) = next(goal, members, VFIO)? {
            assert!(steps.len() < 7 * members.len(), "it never ends: {steps:?}");
            members[at] = done(&members[at], step);
            assert_eq!(done(&members[at], step), members[at], "{step:?} once more changes nothing");
            steps.push((at, step));
        }
        Ok(steps)
    }

    #[test]
    fn a_card_goes_gpu_first_and_comes_back_gpu_last() {
        use Step::{Bind, Clear, Lock, Override, Probe, Unbind};
        let mut members = card();
        let there = way(Goal::Vfio, &mut members).unwrap();
        assert_eq!(there, [(0, Lock), (0, Override), (1, Override), (0, Unbind), (1, Unbind), (0, Probe), (1, Probe)]);
        let back = way(Goal::Host, &mut members).unwrap();
        assert_eq!(back, [(1, Unbind), (0, Unbind), (0, Clear), (1, Clear), (0, Bind), (1, Bind)]);
        assert_eq!(members, card());
    }

    #[test]
    fn all_gpus_of_a_group_are_locked_before_the_first_is_touched() {
        let mut members = vec![member("0000:41:00.0", true, "nvidia"), member("0000:42:00.0", true, "nvidia")];
        let steps = way(Goal::Vfio, &mut members).unwrap();
        assert_eq!(steps[..2], [(0, Step::Lock), (1, Step::Lock)]);
    }

    #[test]
    fn what_no_driver_had_ends_with_none() {
        let mut members = vec![member("0000:41:00.0", true, "")];
        way(Goal::Vfio, &mut members).unwrap();
        assert_eq!(members[0].driver.as_deref(), Some(VFIO));
        way(Goal::Host, &mut members).unwrap();
        assert_eq!((members[0].driver.as_deref(), members[0].only.as_deref()), (None, None));
    }

    #[test]
    fn a_lock_that_an_ended_driver_left_is_taken_off_on_the_way_back() {
        let mut members = card();
        members[0].locked = Some(true);
        assert_eq!(way(Goal::Host, &mut members).unwrap(), [(0, Step::Unlock)]);
    }

    #[test]
    fn what_somebody_else_has_or_means_it_for_is_refused_with_his_name() {
        let mut members = card();
        members[1].only = Some("pci-stub".to_owned());
        let told = next(Goal::Vfio, &members, VFIO).unwrap_err().to_string();
        assert!(told.contains("0000:41:00.1") && told.contains("pci-stub"), "{told}");
        let mut members = card();
        members[0].driver = Some("nouveau".to_owned());
        let told = next(Goal::Vfio, &members, VFIO).unwrap_err().to_string();
        assert!(told.contains("0000:41:00.0") && told.contains("nouveau"), "{told}");
        let mut members = card();
        (members[0].driver, members[0].only) = (None, Some("pci-stub".to_owned()));
        assert!(matches!(next(Goal::Host, &members, VFIO), Err(Trouble::Overridden { .. })));
    }

    #[test]
    fn what_has_gone_cannot_be_taken_and_need_not_be_given_back() {
        let mut members = card();
        way(Goal::Vfio, &mut members).unwrap();
        members[0] = Member { is_there: false, driver: None, only: None, locked: None, ..members[0].clone() };
        assert!(matches!(next(Goal::Vfio, &members, VFIO), Err(Trouble::Gone { .. })));
        way(Goal::Host, &mut members).unwrap();
        assert_eq!(members[1], card()[1]);
    }

    #[test]
    fn a_driver_has_one_name_however_it_is_written() {
        assert!(is("nvgrace_gpu_vfio_pci", "nvgrace-gpu-vfio-pci") && !is("vfio-pci", "vfio-pcj") && !is("a", "ab"));
    }

    fn any_member(at: usize) -> impl Strategy<Value = Member> {
        let gpu = at.is_multiple_of(2);
        (0u8..3, any::<bool>(), any::<bool>(), 0u8..3).prop_map(move |(driver, only, had, locked)| {
            let origin = had.then(|| if gpu { "nvidia" } else { "snd_hda_intel" }.to_owned());
            let driver = [None, origin.clone(), Some(VFIO.to_owned())][usize::from(driver)].clone();
            let lock = [None, Some(false), Some(true)][usize::from(locked)];
            Member {
                pci: format!("0000:41:00.{at}").parse().unwrap(),
                is_gpu: gpu,
                is_there: true,
                locked: lock.filter(|_| gpu && driver.as_deref() == Some("nvidia")),
                origin,
                driver,
                only: only.then(|| VFIO.to_owned()),
            }
        })
    }

    fn any_members() -> impl Strategy<Value = Vec<Member>> {
        (1..5usize).prop_flat_map(|count| (0..count).map(any_member).collect::<Vec<_>>())
    }

    proptest! {
        /// Wherever an earlier try, or an earlier process, left off.
        #[test]
        fn from_any_mixture_it_ends_at_the_goal_and_a_gpu_is_never_home_while_its_audio_is_away(
            mut members in any_members(),
            back: bool,
        ) {
            let goal = if back { Goal::Host } else { Goal::Vfio };
            let mut steps = 0;
            while let Some((at, step)) = next(goal, &members, VFIO).unwrap() {
                let mut others = members.iter().filter(|other| other.is_gpu != members[at].is_gpu);
                match step {
                    Step::Probe if !members[at].is_gpu =>
                        prop_assert!(others.all(|gpu| !gpu.is_with("nvidia")), "{members:?}"),
                    Step::Bind if members[at].is_gpu =>
                        prop_assert!(others.all(|other| !other.is_with(VFIO)), "{members:?}"),
                    Step::Unbind if members[at].is_gpu && goal == Goal::Vfio =>
                        prop_assert!(members[at].locked != Some(false), "{members:?}"),
                    Step::Unbind if !members[at].is_gpu && goal == Goal::Vfio =>
                        prop_assert!(others.all(|gpu| !gpu.is_with("nvidia")), "{members:?}"),
                    _ => {}
                }
                members[at] = done(&members[at], step);
                steps += 1;
                prop_assert!(steps <= 7 * members.len());
            }
            for member in &members {
                if back {
                    prop_assert_eq!(&member.driver, &member.origin);
                    prop_assert!(member.only.is_none() && member.locked != Some(true));
                } else {
                    prop_assert!(member.is_with(VFIO));
                }
            }
        }

        /// Of any driver but vfio and the one that had it.
        #[test]
        fn an_override_of_somebody_else_is_never_overwritten(
            mut members in any_members(),
            foreign: u8,
            back: bool,
        ) {
            let foreign = usize::from(foreign) % members.len();
            members[foreign].only = Some("pci-stub".to_owned());
            let goal = if back { Goal::Host } else { Goal::Vfio };
            for _ in 0..40 {
                let Ok(Some((at, step))) = next(goal, &members, VFIO) else { break };
                prop_assert!(at != foreign || !matches!(step, Step::Override | Step::Clear));
                members[at] = done(&members[at], step);
            }
            prop_assert_eq!(members[foreign].only.as_deref(), Some("pci-stub"));
        }
    }
}
