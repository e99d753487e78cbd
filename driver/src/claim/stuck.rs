//! GPUs that again and again can't be taken from the host's kernel drivers, or given back.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aliquot_model::{GpuUuid, Taken};
use tokio::sync::watch;

/// So often a GPU is tried before it is kept from new claims: who uses it may be about to leave.
const PATIENCE: u32 = 3;
/// What fails again within this time is the same failure: one call of the kubelet tries several times.
const APART: Duration = Duration::from_secs(10);
/// How long it is kept from them after the last failure: nobody tells when it could be had.
const KEPT: Duration = Duration::from_mins(5);

/// What is known of each GPU that has failed.
#[derive(Debug, Default)]
pub(super) struct Stuck(watch::Sender<BTreeMap<GpuUuid, Failures>>);

/// Of one GPU, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failures {
    count: u32,
    last: Instant,
    /// Of the last one.
    reason: String,
}

impl Failures {
    /// Until when new claims don't get it, if they don't.
    pub(crate) fn kept_until(&self) -> Option<Instant> {
        (self.count >= PATIENCE).then(|| self.last + KEPT)
    }
}

impl Stuck {
    /// One more; what an administrator is to know, when there have been too many.
    pub(super) fn fail(&self, taken: &Taken, reason: &str, now: Instant) -> Option<String> {
        let mut is_news = false;
        self.0.send_modify(|all| {
            for gpu in &taken.gpus {
                let never = || Failures { count: 0, last: now, reason: String::new() };
                let known = all.entry(gpu.uuid.clone()).or_insert_with(never);
                reason.clone_into(&mut known.reason);
                if known.count == 0 || now.duration_since(known.last) >= APART {
                    known.count += 1;
                    known.last = now;
                    is_news |= known.count == PATIENCE;
                }
            }
        });
        let names: Vec<String> = taken.gpus.iter().map(|gpu| format!("{} at {}", gpu.uuid, gpu.pci)).collect();
        is_news.then(|| {
            format!(
                "GPU {} can't change its kernel driver, {PATIENCE} times in a row, and is kept from new claims for {} \
                 minutes after each: {reason}",
                names.join(" and "),
                KEPT.as_secs() / 60
            )
        })
    }

    /// It went well.
    pub(super) fn succeed(&self, taken: &Taken) {
        self.0.send_if_modified(|all| {
            let before = all.len();
            all.retain(|gpu, _| taken.gpus.iter().all(|moved| moved.uuid != *gpu));
            all.len() < before
        });
    }

    /// Why one of these GPUs failed the last time, if it did.
    pub(super) fn reason(&self, taken: &Taken) -> Option<String> {
        let all = self.0.borrow();
        taken.gpus.iter().find_map(|gpu| all.get(&gpu.uuid)).map(|failures| failures.reason.clone())
    }

    /// Told at each change.
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<GpuUuid, Failures>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use aliquot_model::testing::{gpu, switchable};

    use super::*;

    fn taken() -> Taken {
        Taken { by: "vfio-pci".into(), functions: switchable(0x41).functions, gpus: vec![gpu(0x41)] }
    }

    fn kept(stuck: &Stuck) -> Option<Instant> {
        stuck.subscribe().borrow().get(&gpu(0x41).uuid).and_then(Failures::kept_until)
    }

    #[test]
    fn a_gpu_that_fails_a_third_time_is_kept_for_a_while_and_told_of_once() {
        let (stuck, now) = (Stuck::default(), Instant::now());
        let fail = |after: u32| stuck.fail(&taken(), "it is busy", now + APART * after);
        assert_eq!((fail(0), fail(1), kept(&stuck)), (None, None, None));
        let told = fail(2).unwrap();
        assert!(told.contains("at 0000:41:00.0") && told.ends_with("it is busy"), "{told}");
        assert_eq!((fail(3), kept(&stuck)), (None, Some(now + APART * 3 + KEPT)));
    }

    #[test]
    fn one_success_makes_good_for_all() {
        let (stuck, now) = (Stuck::default(), Instant::now());
        for after in 0..PATIENCE {
            stuck.fail(&taken(), "busy", now + APART * after);
        }
        stuck.succeed(&taken());
        assert_eq!(kept(&stuck), None);
        assert_eq!(stuck.fail(&taken(), "busy", now), None, "it is counted anew");
    }

    #[test]
    fn what_one_call_tries_again_and_again_is_one_failure() {
        let (stuck, now) = (Stuck::default(), Instant::now());
        let told = (0..9).filter_map(|second| stuck.fail(&taken(), "busy", now + Duration::from_secs(second)));
        assert_eq!((told.count(), kept(&stuck)), (0, None));
        assert_eq!(stuck.reason(&taken()).as_deref(), Some("busy"));
    }
}
