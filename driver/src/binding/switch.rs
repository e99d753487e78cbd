//! One group on its way from one driver to another: looks, does the next step, looks again.
use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aliquot_model::{GpuUuid, Origin, PciAddress, Taken};
use aliquot_nvml::{Absence, Questions};
use rustix::io::Errno;
use tokio::sync::watch;

use super::{
    files::KernelFile,
    hand::Hand,
    holders,
    next::{self, Goal, Member, Step},
    trouble::{Holder, Trouble},
};
use crate::{
    discovery::vfio::function::{self, Function},
    fault::{self, Point},
    roots::Roots,
    sharing::guard::Procfs,
};

/// How long NVML has to let go; it may be asked something just then.
const LET_GO: Duration = Duration::from_secs(10);
/// How long a question to it may take.
const QUESTION: Duration = Duration::from_secs(5);

/// What all groups have in common.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) roots: Roots,
    pub(super) hand: Hand,
    pub(super) questions: watch::Receiver<Option<Questions>>,
    /// GPUs that had persistence mode.
    pub(super) lasting: Mutex<BTreeSet<GpuUuid>>,
}

impl Site {
    /// Whether somebody has what vfio has.
    pub(super) async fn is_with_a_machine(&self, pci: PciAddress) -> bool {
        let nodes = self.vfio_nodes(pci);
        nodes.iter().any(|node| is_busy(node)) || !self.holders(nodes).await.is_empty()
    }

    /// procfs of a large node takes its time.
    async fn holders(&self, nodes: Vec<PathBuf>) -> Vec<Holder> {
        let proc = self.roots.proc.clone();
        tokio::task::spawn_blocking(move || holders::of(&proc, &nodes)).await.unwrap_or_default()
    }

    /// The nodes of vfio.
    fn vfio_nodes(&self, pci: PciAddress) -> Vec<PathBuf> {
        let dir = self.roots.dev.join("vfio");
        let Some(function) = Function::read(&self.roots.sys, pci) else { return Vec::new() };
        let group = function.group.map(|group| dir.join(group.to_string()));
        group.into_iter().chain(function.cdev.map(|name| dir.join("devices").join(name))).collect()
    }
}

/// A group on its way.
pub(super) struct Switch<'a> {
    site: &'a Site,
    taken: &'a Taken,
    goal: Goal,
    /// The vfio driver's name as the kernel writes it.
    vfio: String,
    members: Vec<Member>,
    /// While a driver of GPUs is to let go of them.
    absence: Option<Absence>,
    rested: Vec<GpuUuid>,
}

/// All of the way.
pub(super) async fn go(site: &Site, taken: &Taken, goal: Goal) -> Result<(), Trouble> {
    // Anything that is asked of the kernel meanwhile would only wait there as well.
    taken.functions.iter().try_for_each(|origin| site.hand.is_free(origin.pci))?;
    let vfio = driver(site, &taken.by).unwrap_or_else(|| taken.by.clone());
    let mut switch = Switch { site, taken, goal, vfio, members: Vec::new(), absence: None, rested: Vec::new() };
    for origin in &taken.functions {
        let member = switch.look(origin).await?;
        switch.members.push(member);
    }
    let result = match switch.may_begin().await {
        Ok(()) => switch.steps().await,
        refused => refused,
    };
    switch.end(&result).await;
    result
}

/// What the kernel calls a driver that it has loaded.
fn driver(site: &Site, name: &str) -> Option<String> {
    function::names(&site.roots.sys.join("bus/pci/drivers")).find(|loaded| next::is(loaded, name))
}

impl Switch<'_> {
    async fn look(&self, origin: &Origin) -> Result<Member, Trouble> {
        let (pci, hand) = (origin.pci, &self.site.hand);
        let seen = Function::read(&self.site.roots.sys, pci);
        let is_taken = self.taken.gpus.iter().any(|gpu| gpu.pci == pci);
        let mut member = Member {
            pci,
            is_gpu: is_taken || seen.as_ref().is_some_and(Function::is_gpu),
            origin: origin.driver.clone(),
            is_there: seen.is_some(),
            driver: seen.and_then(|seen| seen.driver),
            only: None,
            locked: None,
        };
        if !member.is_there {
            return Ok(member);
        }
        let read = async |file: KernelFile| {
            if !hand.has(&file) {
                return Ok(None);
            }
            match hand.read(pci, &file).await {
                Ok(text) => Ok(Some(text)),
                // It went meanwhile.
                Err(Trouble::Refused { .. }) if !hand.has(&file) => Ok(None),
                Err(trouble) => Err(trouble),
            }
        };
        let only = read(KernelFile::Override(pci)).await?;
        member.only = only.filter(|only| !only.is_empty() && only != "(null)");
        if member.is_gpu && member.driver.is_some() {
            member.locked = read(KernelFile::Lock(pci)).await?.map(|text| text == "1");
        }
        member.is_there = function::dir(&self.site.roots.sys, pci).exists();
        Ok(member)
    }

    /// What rules it out before anything is touched.
    async fn may_begin(&self) -> Result<(), Trouble> {
        let Some((at, _)) = next::next(self.goal, &self.members, &self.vfio)? else { return Ok(()) };
        let Some(pci) = self.members.get(at).map(|member| member.pci).filter(|_| self.goal == Goal::Vfio) else {
            return Ok(());
        };
        if driver(self.site, &self.taken.by).is_none() {
            return Err(Trouble::NoDriver { pci, driver: self.taken.by.clone() });
        }
        for member in self.members.iter().filter(|member| member.is_gpu) {
            let parts = Function::read(&self.site.roots.sys, member.pci).map_or(0, |seen| seen.parts);
            if parts > 0 {
                return Err(Trouble::Divided { pci: member.pci, parts });
            }
        }
        self.ask_nvml().await
    }

    /// Who computes on a GPU that is still with NVIDIA's driver: that is known without ending any session.
    async fn ask_nvml(&self) -> Result<(), Trouble> {
        let is_home = |pci: PciAddress| self.at_home().any(|member| member.pci == pci);
        let gpus = || self.taken.gpus.iter().filter(|gpu| is_home(gpu.pci));
        let Some(questions) = self.questions().filter(|_| gpus().next().is_some()) else { return Ok(()) };
        let Ok(answers) = questions.processes(gpus().map(|gpu| gpu.uuid.clone()).collect(), QUESTION).await else {
            // Whether somebody does will show.
            return Ok(());
        };
        let proc = &self.site.roots.proc;
        for (gpu, answer) in gpus().zip(answers) {
            let named = |pid: u32| Holder { pid, name: holders::name(&proc.join(pid.to_string())) };
            let by: Vec<Holder> = answer.processes.into_iter().flatten().map(|process| named(process.pid)).collect();
            if !by.is_empty() {
                return Err(Trouble::InUse { pci: gpu.pci, by });
            }
        }
        Ok(())
    }

    async fn steps(&mut self) -> Result<(), Trouble> {
        while let Some((at, step)) = next::next(self.goal, &self.members, &self.vfio)? {
            let (Some(before), Some(origin)) = (self.members.get(at).cloned(), self.taken.functions.get(at)) else {
                return Ok(());
            };
            let done = self.perform(&before, step).await;
            if let Err(trouble @ Trouble::UnderWay { .. }) = done {
                return Err(trouble);
            }
            let after = self.look(origin).await?;
            let has_gone = !after.is_there;
            if let Some(member) = self.members.get_mut(at) {
                *member = after.clone();
            }
            if has_gone {
                continue;
            }
            done?;
            if after == before {
                return Err(self.why_nothing(&before, step).await);
            }
            if let Some(point) = point(self.goal, step) {
                fault::point(point);
            }
            if self.at_home().next().is_none() {
                self.absence = None;
            }
        }
        Ok(())
    }

    async fn perform(&mut self, member: &Member, step: Step) -> Result<(), Trouble> {
        let pci = member.pci;
        let is_leaving = self.goal == Goal::Vfio && member.is_gpu && member.driver.is_some();
        if is_leaving && matches!(step, Step::Lock | Step::Override | Step::Unbind) {
            self.leave_nvml(pci).await?;
        }
        // Without a lock it is to be known before anything is changed as well.
        if step == Step::Unbind || (is_leaving && step == Step::Override) {
            self.must_be_unused(member).await?;
        }
        let (file, value) = self.write_of(member, step);
        if matches!(step, Step::Bind | Step::Probe | Step::Unbind) && !self.site.hand.has(&file) {
            let driver = member.origin.clone().unwrap_or_default();
            return Err(Trouble::NoDriver { pci, driver });
        }
        self.site.hand.write(pci, &file, &value).await
    }

    fn write_of(&self, member: &Member, step: Step) -> (KernelFile, String) {
        let (pci, address) = (member.pci, member.pci.to_string());
        match step {
            Step::Lock => (KernelFile::Lock(pci), "1".to_owned()),
            Step::Unlock => (KernelFile::Lock(pci), "0".to_owned()),
            Step::Override => (KernelFile::Override(pci), self.vfio.clone()),
            Step::Clear => (KernelFile::Override(pci), String::new()),
            Step::Unbind => (KernelFile::Unbind(member.driver.clone().unwrap_or_default()), address),
            Step::Bind => (KernelFile::Bind(member.origin.clone().unwrap_or_default()), address),
            Step::Probe => (KernelFile::Probe, address),
        }
    }

    /// A driver that is to let go of what somebody has open waits for him in the kernel, with no end.
    async fn must_be_unused(&self, member: &Member) -> Result<(), Trouble> {
        let pci = member.pci;
        let by = match (self.goal, member.locked) {
            (Goal::Vfio, Some(true)) => return Ok(()),
            (Goal::Vfio, _) if !member.is_gpu => return Ok(()),
            (Goal::Vfio, _) => {
                if Procfs::open(&self.site.roots.proc, None).sight().is_err() {
                    return Err(Trouble::Unseen { pci });
                }
                self.site.holders(self.nodes(pci)).await
            }
            (Goal::Host, _) => {
                let nodes = self.site.vfio_nodes(pci);
                let is_busy = nodes.iter().any(|node| is_busy(node));
                let by = self.site.holders(nodes).await;
                if is_busy {
                    return Err(Trouble::InUse { pci, by });
                }
                by
            }
        };
        if by.is_empty() { Ok(()) } else { Err(Trouble::InUse { pci, by }) }
    }

    async fn why_nothing(&self, member: &Member, step: Step) -> Trouble {
        let pci = member.pci;
        if step == Step::Lock {
            return Trouble::InUse { pci, by: self.site.holders(self.nodes(pci)).await };
        }
        let (file, value) = self.write_of(member, step);
        let path = file.path(&self.site.roots.sys, &self.site.roots.proc);
        Trouble::NoEffect { pci, what: format!("{value:?} was written to {}", path.display()) }
    }

    /// NVIDIA's nodes of a GPU.
    fn nodes(&self, pci: PciAddress) -> Vec<PathBuf> {
        let dev = &self.site.roots.dev;
        let Some(gpu) = self.taken.gpus.iter().find(|gpu| gpu.pci == pci) else { return Vec::new() };
        let drawing = gpu.drm.iter().map(|node| dev.join("dri").join(&node.name));
        std::iter::once(dev.join(format!("nvidia{}", gpu.minor))).chain(drawing).collect()
    }

    /// GPUs that have yet to leave the driver that had them.
    fn at_home(&self) -> impl Iterator<Item = &Member> {
        let is_away = |driver: &str| next::is(driver, &self.vfio);
        self.members
            .iter()
            .filter(|member| member.is_gpu)
            .filter(move |member| member.driver.as_deref().is_some_and(|driver| !is_away(driver)))
    }

    fn questions(&self) -> Option<Questions> {
        self.site.questions.borrow().clone()
    }

    /// This process's own sessions of NVML are users of the GPU like any other.
    async fn leave_nvml(&mut self, pci: PciAddress) -> Result<(), Trouble> {
        let Some(questions) = self.questions().filter(|_| self.absence.is_none()) else { return Ok(()) };
        let gpus = self.taken.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        // As long as the kernel may take for one step, and for those before it.
        match questions.let_go(gpus, LET_GO, self.site.hand.deadline + LET_GO).await {
            Ok(absence) => {
                self.rested.extend_from_slice(absence.rested());
                self.absence = Some(absence);
                Ok(())
            }
            Err(aliquot_nvml::Error::Ended) => Ok(()),
            Err(error) => Err(Trouble::Held { pci, reason: crate::report(&error) }),
        }
    }

    /// Leaves GPUs that weren't taken as they were, and those that came back.
    async fn end(mut self, result: &Result<(), Trouble>) {
        if self.goal == Goal::Vfio && result.is_err() {
            let locked: Vec<PciAddress> =
                self.at_home().filter(|member| member.locked == Some(true)).map(|member| member.pci).collect();
            for pci in locked {
                // One at which the kernel still is stays locked.
                if let Err(error) = self.site.hand.write(pci, &KernelFile::Lock(pci), "0").await {
                    tracing::warn!(%pci, %error, "the GPU stays locked in NVIDIA's driver");
                }
            }
        }
        self.absence = None;
        let is_stuck = matches!(result, Err(Trouble::UnderWay { .. }));
        let is_home = |uuid: &GpuUuid| {
            let gpu = self.taken.gpus.iter().find(|gpu| gpu.uuid == *uuid);
            !is_stuck && gpu.is_some_and(|gpu| self.at_home().any(|member| member.pci == gpu.pci))
        };
        let home: BTreeSet<GpuUuid> = {
            let mut lasting = self.site.lasting.lock().unwrap_or_else(PoisonError::into_inner);
            lasting.extend(self.rested.iter().cloned());
            let (home, away) = std::mem::take(&mut *lasting).into_iter().partition(is_home);
            *lasting = away;
            home
        };
        if let Some(questions) = self.questions().filter(|_| !home.is_empty())
            && let Err(error) = questions.wake(home.into_iter().collect(), QUESTION).await
        {
            tracing::warn!(%error, "persistence mode, which a GPU had before, can't be switched on again");
        }
    }
}

/// Whether the kernel says that somebody has a group: it lets one open its node at a time. Without the capability to look into
/// other processes there is no other way to know.
fn is_busy(node: &Path) -> bool {
    let opened = File::options().read(true).write(true).open(node);
    opened.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::BUSY))
}

/// Where tests end the driver.
fn point(goal: Goal, step: Step) -> Option<Point> {
    match (goal, step) {
        (_, Step::Lock) => Some(Point::BindLocked),
        (_, Step::Override) => Some(Point::BindOverridden),
        (Goal::Vfio, Step::Unbind) => Some(Point::BindUnbound),
        (_, Step::Probe) => Some(Point::BindProbed),
        (Goal::Host, Step::Unbind) => Some(Point::ReturnUnbound),
        (_, Step::Clear) => Some(Point::ReturnCleared),
        (_, Step::Bind) => Some(Point::ReturnBound),
        (_, Step::Unlock) => None,
    }
}
