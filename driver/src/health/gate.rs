//! Whether claims that were allocated before may be prepared on a GPU that has fallen ill since.
use aliquot_model::{GpuUuid, Inventory, Remedy};
use tokio::sync::watch;

use super::{Health, ill};

/// Asked by every prepare.
#[derive(Debug, Clone)]
pub struct Gate(watch::Receiver<Health>);

/// What becomes of a claim on an ill GPU; the text ends in an event on its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its programs may run, though they may fail too.
    Warned(String),
    /// No program can run on it.
    Refused(String),
}

/// GPUs on which something of a virtual machine may be left.
pub(crate) struct Unclean(watch::Receiver<Health>);

impl Unclean {
    /// Until there are any.
    pub(crate) async fn wait(&mut self) -> Result<(), watch::error::RecvError> {
        self.0.wait_for(|health| health.ward.unclean().next().is_some()).await.map(drop)
    }

    /// Until this is one.
    pub(crate) async fn until(&mut self, gpu: &GpuUuid) {
        let _ = self.0.wait_for(|health| health.ward.illness(gpu).is_some()).await;
    }

    /// All of them.
    pub(crate) fn now(&self) -> Vec<GpuUuid> {
        self.0.borrow().ward.unclean().cloned().collect()
    }
}

impl Gate {
    pub(crate) fn new(health: watch::Receiver<Health>) -> Self {
        Self(health)
    }

    /// Those that have to be reset, to be waited for.
    pub(crate) fn unclean(&self) -> Unclean {
        Unclean(self.0.clone())
    }

    /// Of these devices, with their GPUs, by the one that is worst off; none where all are well.
    ///
    /// Nothing but deleting its pod takes a claim to another GPU. So only what can't work at all is refused: one that waits
    /// for a reset may serve for long, and its programs are told by the GPU itself.
    pub(crate) fn verdict(&self, devices: &[(String, &GpuUuid)], inventory: &Inventory) -> Option<Verdict> {
        let ill = ill(&self.0.borrow().ward, inventory);
        let ill = devices.iter().filter_map(|(device, gpu)| Some((device, ill.get(*gpu)?)));
        let (device, cause) = ill.max_by_key(|(_, cause)| cause.remedy() == Remedy::RestartNode)?;
        let why = cause.explained();
        Some(if cause.remedy() == Remedy::RestartNode {
            Verdict::Refused(format!(
                "device {device} is on a GPU that can't be used: {why}. Delete this pod to have its claim allocated anew"
            ))
        } else {
            Verdict::Warned(format!(
                "device {device} is on a GPU that may fail: {why}. It was allocated before that was known; delete this pod \
                 to have its claim allocated anew"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use aliquot_model::{Gpu, Xid, testing::gpu};
    use aliquot_nvml::{EventKind, GpuEvent};

    use super::*;
    use crate::health::Ward;

    fn gate(xids: &[(u8, u64)]) -> Gate {
        let hear = |ward: Ward, (bus, xid): &(u8, u64)| {
            ward.hear(&GpuEvent { gpu: Some(gpu(*bus).uuid), kind: EventKind::Xid(Xid(*xid)) }, 0)
        };
        let ward = xids.iter().fold(Ward::default(), hear);
        Gate::new(watch::channel(Health { ward, ..Health::default() }).1)
    }

    #[test]
    fn what_works_a_little_is_prepared_with_a_warning_and_what_cannot_is_refused() {
        let (one, two) = (gpu(1).uuid, gpu(2).uuid);
        let devices = [("a".to_owned(), &one), ("b".to_owned(), &two)];
        let inventory = Inventory::default();
        assert_eq!(gate(&[]).verdict(&devices, &inventory), None);
        assert_eq!(gate(&[(3, 79)]).verdict(&devices, &inventory), None);
        let Some(Verdict::Warned(note)) = gate(&[(1, 95)]).verdict(&devices, &inventory) else { panic!("not warned") };
        assert!(note.contains("device a") && note.contains("Xid 95") && note.contains("reset the GPU"), "{note}");
        let Some(Verdict::Refused(note)) = gate(&[(1, 79), (2, 95)]).verdict(&devices, &inventory) else {
            panic!("passed")
        };
        assert!(note.contains("device a") && note.contains("Xid 79") && note.contains("restart it"), "{note}");
    }

    #[test]
    fn what_a_reading_says_counts_at_once() {
        let broken = Gpu { needs: Some(Remedy::RestartNode), ..gpu(1) };
        let inventory = Inventory::new(vec![broken.clone()], vec![]);
        let verdict = gate(&[]).verdict(&[("a".to_owned(), &broken.uuid)], &inventory);
        assert!(matches!(verdict, Some(Verdict::Refused(_))), "{verdict:?}");
    }
}
