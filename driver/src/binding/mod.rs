//! Takes an IOMMU group from the host's kernel drivers for a virtual machine, and gives it back.
//!
//! ```text
//! take, give_back ─> the group's task ─> look ─> next (pure) ─> one step ─> look …
//!                    (goes on alone)             hand ─> a process ─> the kernel's file
//! ```
//! Each step can be done again, and what is to be done next follows from how things are: so a task goes on wherever an earlier
//! one, or an earlier process of the driver, has left off. Nothing here waits in the kernel: what may is done by a process
//! that can be left behind, and nothing is begun for a function while such a process lives.
//!
//! While NVIDIA's kernel driver is to let go of a GPU, this process has no session of NVML, which would be a user of every GPU.
//! Persistence mode is one as well: it is switched off, and on again for a GPU that came back; a driver that was started
//! anew meanwhile doesn't know that it was on, and leaves it off.
mod files;
mod hand;
pub(crate) mod helper;
mod holders;
mod next;
mod switch;
mod trouble;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aliquot_model::{PciAddress, Taken};
use aliquot_nvml::Questions;
use rustix::io::Errno;
use tokio::sync::watch;

pub use self::trouble::{Holder, Trouble};
use self::{files::KernelFile, hand::Hand, next::Goal, switch::Site};
use crate::{discovery::vfio::function::Function, roots::Roots};

/// How long the kernel has for one step before it is told to be still at it; the kubelet waits 45 s.
const DEADLINE: Duration = Duration::from_secs(20);

/// Has functions change their kernel driver; clones are one.
#[derive(Debug, Clone)]
pub struct Binder {
    site: Arc<Site>,
    works: Arc<Mutex<BTreeMap<PciAddress, Work>>>,
}

/// Whether a function was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It was.
    Reset,
    /// It is not this driver's to do.
    Not,
}

/// A group on its way.
#[derive(Debug, Clone)]
struct Work {
    goal: Goal,
    taken: Taken,
    end: watch::Receiver<Option<Result<(), Trouble>>>,
}

impl Work {
    fn is_under_way(&self) -> bool {
        // A task that died tells no end.
        self.end.borrow().is_none() && self.end.has_changed().is_ok()
    }
}

impl Binder {
    /// With whose NVML this process's sessions can be ended.
    pub fn new(roots: Roots, questions: watch::Receiver<Option<Questions>>) -> Self {
        Self::through(hand::own_program(), DEADLINE, roots, questions)
    }

    /// With another program than the one that runs to touch the kernel's files, and another deadline for it.
    pub fn through(
        program: &Path,
        deadline: Duration,
        roots: Roots,
        questions: watch::Receiver<Option<Questions>>,
    ) -> Self {
        let (sys, proc, run) = (roots.sys.clone(), roots.proc.clone(), roots.run.clone());
        let hand = Hand { sys, proc, run, program: program.to_owned(), deadline };
        let site = Site { roots, hand, questions, lasting: Mutex::default() };
        Self { site: Arc::new(site), works: Arc::default() }
    }

    /// Has all functions taken by the vfio driver, or goes on with it; GPUs that somebody uses stay where they are.
    ///
    /// The work goes on when nobody waits for it any more. What a try that failed has changed, [`Self::give_back`] sets right.
    pub async fn take(&self, taken: &Taken) -> Result<(), Trouble> {
        self.go(Goal::Vfio, taken).await
    }

    /// Has all functions taken by the drivers that had them, likewise.
    pub async fn give_back(&self, taken: &Taken) -> Result<(), Trouble> {
        self.go(Goal::Host, taken).await
    }

    /// Has the kernel reset a function that vfio has, if nobody uses it: whoever does has it reset when he ends.
    pub async fn reset(&self, pci: PciAddress) -> Result<Tried, Trouble> {
        let Site { roots, hand, .. } = &*self.site;
        let file = KernelFile::Reset(pci);
        // One that can't be reset by itself has no such file; vfio resets it with all that is beside it.
        if !Function::read(&roots.sys, pci).is_some_and(|function| function.is_vfio()) || !hand.has(&file) {
            return Ok(Tried::Not);
        }
        if self.site.is_with_a_machine(pci).await {
            return Ok(Tried::Not);
        }
        match hand.write(pci, &file, "1").await {
            Ok(()) => Ok(Tried::Reset),
            // A driver that was to change nothing in sysfs has it mounted like that.
            Err(Trouble::Refused { errno: Errno::ROFS | Errno::ACCESS | Errno::PERM, .. }) => Ok(Tried::Not),
            Err(trouble) => Err(trouble),
        }
    }

    async fn go(&self, goal: Goal, taken: &Taken) -> Result<(), Trouble> {
        let Some(key) = taken.functions.iter().map(|origin| origin.pci).min() else { return Ok(()) };
        loop {
            let mut work = self.begin(key, goal, taken);
            let end = match work.end.wait_for(Option::is_some).await {
                Ok(end) => end.clone().unwrap_or(Ok(())),
                Err(_) => Err(Trouble::Helper { pci: key, reason: "the driver is ending".to_owned() }),
            };
            if work.goal == goal && work.taken == *taken {
                return end;
            }
        }
    }

    /// What is under way for the group, in whichever direction, or else this.
    fn begin(&self, key: PciAddress, goal: Goal, taken: &Taken) -> Work {
        let mut works = self.works();
        if let Some(work) = works.get(&key).filter(|work| work.is_under_way()) {
            return work.clone();
        }
        let (tell, end) = watch::channel(None);
        let work = Work { goal, taken: taken.clone(), end };
        works.insert(key, work.clone());
        let (this, taken) = (self.clone(), taken.clone());
        tokio::spawn(async move {
            let result = switch::go(&this.site, &taken, goal).await;
            let direction = if goal == Goal::Vfio { "to vfio" } else { "back to the host" };
            match &result {
                Ok(()) => tracing::info!(pci = %key, direction, "the IOMMU group is with its drivers"),
                Err(error) => {
                    tracing::warn!(pci = %key, direction, %error, "the IOMMU group didn't change its drivers");
                }
            }
            this.works().remove(&key);
            // Nobody may wait any more.
            let _ = tell.send(Some(result));
        });
        work
    }

    fn works(&self) -> MutexGuard<'_, BTreeMap<PciAddress, Work>> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
