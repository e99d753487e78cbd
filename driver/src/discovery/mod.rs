//! Finds the node's GPUs, again and again: NVML and sysfs readings become a [`View`] that the rest of the driver follows.
//!
//! Nothing here ends the process. A driver that isn't there yet, a library that is replaced, a GPU that comes, goes or
//! doesn't answer: each gives another view, with the reason in words.
pub mod installation;
mod sysfs;
mod uevents;
pub(crate) mod vfio;
pub mod wake;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aliquot_model::{Away, Binding, BrokenGpu, Gpu, Inventory, PciAddress, Vfio};
use aliquot_nvml::{EventKind, GpuEvent, GpuReading, Nvml, Questions, Reading, Session};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::roots::Roots;
use installation::Installation;

/// What is known of the node's GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// The first reading is under way.
    Searching,
    /// There is no reading; why, and what to do.
    Unavailable(String),
    /// The last reading.
    Ready(Arc<Found>),
}

impl View {
    /// The GPUs, where they could be read.
    pub fn inventory(&self) -> Option<&Inventory> {
        match self {
            Self::Ready(found) => Some(&found.inventory),
            Self::Searching | Self::Unavailable(_) => None,
        }
    }
}

/// One reading of the node.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Found {
    /// The GPUs.
    pub inventory: Inventory,
    /// The driver's files for containers.
    pub installation: Installation,
    /// The GPUs that NVIDIA's driver doesn't list, as claims have taken them from it.
    pub away: BTreeSet<PciAddress>,
}

impl Found {
    /// The GPUs that NVIDIA's library can be asked about.
    pub(crate) fn listed(&self) -> impl Iterator<Item = &Gpu> {
        self.inventory.gpus().iter().filter(|gpu| !self.away.contains(&gpu.pci))
    }
}

/// What discovery needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where things are.
    pub roots: Roots,
    /// The longest that NVML may take.
    pub deadline: Duration,
    /// The time between readings when nothing wakes it.
    pub interval: Duration,
    /// Whether this node can have containers' memory limited, where a GPU can.
    pub hard_limits: bool,
    /// Whether a process that NVML lists can be traced on this node.
    pub processes: bool,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There is no library.
    #[error(
        "no libnvidia-ml.so.1 below the driver root {}: is the NVIDIA driver installed on this node, and is --driver-root \
         where it is? Searched {searched}", root.display()
    )]
    NoLibrary {
        /// The driver's root.
        root: PathBuf,
        /// Every place.
        searched: String,
    },
    /// The library doesn't answer as it should.
    #[error(transparent)]
    Nvml(#[from] aliquot_nvml::Error),
}

/// The driver's library, once it is there.
#[derive(Debug, Default)]
pub struct Library {
    nvml: Option<Nvml>,
    /// Who is told what GPUs report by themselves.
    told: Option<mpsc::UnboundedSender<GpuEvent>>,
}

impl Library {
    /// For questions about single GPUs, once it has been read.
    pub(crate) fn questions(&self) -> Option<Questions> {
        self.nvml.as_ref().map(Nvml::questions)
    }
}

/// Reads once, beside what claims have taken. Where every GPU is for virtual machines, NVIDIA's driver need not be there.
pub async fn read(
    library: &mut Library,
    session: Session,
    settings: &Settings,
    away: impl Fn() -> Vec<Away>,
) -> Result<Found, Trouble> {
    let passable = vfio::find(&settings.roots);
    let reading = read_nvml(library, session, settings).await;
    // Whatever changed its driver while it was read is written down by now.
    let away = away();
    match reading {
        Ok(reading) => Ok(found(reading, passable, settings, &away)),
        Err(trouble @ Trouble::Nvml(aliquot_nvml::Error::Away { .. })) => Err(trouble),
        Err(_) if vfio::is_all(&passable, &away) => {
            let (inventory, away) = vfio::away::with_away(&Inventory::default().with_vfio(passable), &away);
            Ok(Found { inventory, installation: Installation::default(), away })
        }
        Err(trouble) => Err(trouble),
    }
}

async fn read_nvml(library: &mut Library, session: Session, settings: &Settings) -> Result<Reading, Trouble> {
    let Library { nvml, told } = library;
    let root = &settings.roots.driver;
    let searched = aliquot_nvml::candidates(root);
    let Some(path) = searched.iter().find(|path| path.is_file()) else {
        *nvml = None;
        let places: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
        return Err(Trouble::NoLibrary { root: root.clone(), searched: places.join(", ") });
    };
    let library = match nvml {
        Some(open) if open.path() == path => open,
        _ => nvml.insert(match told {
            Some(told) => Nvml::watching(path.clone(), told.clone())?,
            None => Nvml::new(path.clone())?,
        }),
    };
    match library.read(session, settings.deadline).await {
        Ok(reading) => Ok(reading),
        Err(error) => {
            if matches!(error, aliquot_nvml::Error::Ended) {
                *nvml = None;
            }
            Err(error.into())
        }
    }
}

/// Where discovery's findings go.
#[derive(Debug)]
pub struct Findings {
    /// A view that is the same as the last wakes nobody.
    pub views: watch::Sender<View>,
    /// When the last reading that came to an end was begun, told after its view.
    pub read: watch::Sender<Instant>,
    /// The library, for those who ask more of it: a second session would hide new GPUs from this one.
    pub questions: watch::Sender<Option<Questions>>,
    /// What GPUs report by themselves.
    pub events: mpsc::UnboundedSender<GpuEvent>,
}

/// What discovery asks the claims, and hears from them.
pub trait Claimed: Send + Sync {
    /// What they have taken from NVIDIA's driver. Asked after each reading: it must not block for long.
    fn away(&self) -> Vec<Away>;
    /// Ends when they have given a GPU back.
    fn given_back(&self) -> impl Future<Output = ()> + Send;
}

/// Follows the node until `stop`.
pub async fn follow(settings: Settings, findings: Findings, claimed: Arc<impl Claimed>, stop: CancellationToken) {
    let Findings { views, read: ended, questions, events } = findings;
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut library = Library { nvml: None, told: Some(told) };
    let mut session = Session::Keep;
    let mut waker = wake::Waker::of_driver(&settings.roots);
    let mut uevents = uevents::Uevents::listen();
    loop {
        let begun = Instant::now();
        let reading = tokio::select! {
            () = stop.cancelled() => return,
            reading = read(&mut library, session, &settings, || claimed.away()) => reading,
        };
        let has_ended = reading.is_ok();
        questions.send_if_modified(|last| {
            let is_over = last.as_ref().is_none_or(Questions::are_over);
            if is_over {
                *last = library.nvml.as_ref().map(Nvml::questions);
            }
            is_over
        });
        let view = next(&views.borrow(), reading, &settings, &claimed.away());
        let troubled = !matches!(&view, View::Ready(found) if found.inventory.broken().is_empty());
        views.send_if_modified(|last| {
            let changed = *last != view;
            if changed {
                tell(last, &view);
                *last = view;
            }
            changed
        });
        if has_ended {
            ended.send_replace(begun);
        }
        let due = tokio::time::sleep(settings.interval);
        tokio::pin!(due);
        session = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = waker.woken() => break Session::Renew,
                () = claimed.given_back() => break Session::Renew,
                woken = uevents.woken() => break woken,
                () = &mut due => break if troubled { Session::Renew } else { Session::Keep },
                Some(event) = heard.recv() => {
                    let tells_all = matches!(event.kind, EventKind::Xid(_));
                    // Nobody may care for the GPUs' health.
                    let _ = events.send(event);
                    if !tells_all {
                        break Session::Keep;
                    }
                }
            }
        };
    }
}

/// The view after a reading. One GPU that hangs must not take the others away: what was read of them before stays.
fn next(last: &View, reading: Result<Found, Trouble>, settings: &Settings, away: &[Away]) -> View {
    let trouble = match reading {
        Ok(found) => return View::Ready(Arc::new(found)),
        Err(trouble) => trouble,
    };
    let reason = crate::report(&trouble);
    match (last, trouble) {
        // Nothing is wrong, and nothing was asked.
        (last, Trouble::Nvml(aliquot_nvml::Error::Away { .. })) => last.clone(),
        (View::Ready(before), Trouble::Nvml(aliquot_nvml::Error::Overdue { gpu, .. })) => {
            let (mut gpus, mut broken) = (before.inventory.gpus().to_vec(), before.inventory.broken().to_vec());
            if let Some(at) = gpus.iter().position(|known| Some(known.index) == gpu) {
                let hung = gpus.remove(at);
                broken.push(BrokenGpu { index: hung.index, pci: Some(hung.pci), reason });
            }
            let inventory = Inventory::new(gpus, broken).with_vfio(before.inventory.vfio().to_vec());
            let (installation, away) = (before.installation.clone(), before.away.clone());
            View::Ready(Arc::new(Found { inventory, installation, away }))
        }
        (_, Trouble::Nvml(aliquot_nvml::Error::Overdue { gpu: Some(index), so_far: Some(so_far), .. })) => {
            let mut reading = *so_far;
            reading.gpus.push(Err(BrokenGpu { index, pci: None, reason }));
            View::Ready(Arc::new(found(reading, vfio::find(&settings.roots), settings, away)))
        }
        _ => View::Unavailable(reason),
    }
}

fn found(reading: Reading, passable: Vec<Vfio>, settings: &Settings, away: &[Away]) -> Found {
    let roots = &settings.roots;
    // A session of NVML's may still list what another driver has by now.
    let is_away = |pci: PciAddress| passable.iter().any(|vfio| vfio.binding == Binding::Bound && vfio.has(pci));
    let mut gpus = Vec::new();
    let mut broken = Vec::new();
    for gpu in reading.gpus {
        match gpu {
            Ok(gpu) if is_away(gpu.pci) => {}
            Err(gpu) if gpu.pci.is_some_and(is_away) => {}
            Ok(gpu) => {
                let mut gpu = placed(gpu, &reading.driver_version, &reading.cuda_driver_version, &roots.sys);
                gpu.hard_limits &= settings.hard_limits;
                gpu.process_memory &= settings.processes;
                gpus.push(gpu);
            }
            Err(gpu) => broken.push(gpu),
        }
    }
    let installation = installation::find(roots, &reading.driver_version);
    let (inventory, away) = vfio::away::with_away(&Inventory::new(gpus, broken).with_vfio(passable), away);
    Found { inventory, installation, away }
}

fn placed(gpu: GpuReading, driver_version: &str, cuda_driver_version: &str, sys: &Path) -> Gpu {
    let place = sysfs::place(sys, gpu.pci);
    Gpu {
        uuid: gpu.uuid,
        pci: gpu.pci,
        index: gpu.index,
        minor: gpu.minor,
        product_name: gpu.product_name,
        brand: gpu.brand,
        architecture: gpu.architecture,
        compute_capability: gpu.compute_capability,
        memory: gpu.memory,
        driver_version: driver_version.to_owned(),
        cuda_driver_version: cuda_driver_version.to_owned(),
        pcie_root: place.pcie_root,
        numa_node: place.numa_node,
        drm: place.drm,
        process_memory: gpu.process_memory,
        hard_limits: gpu.memory_limits,
        needs: gpu.needs,
    }
}

/// Says in the log what an operator wants to know of a change.
fn tell(last: &View, view: &View) {
    match view {
        View::Searching => {}
        View::Unavailable(reason) => {
            tracing::warn!(reason, "no GPUs can be offered; looking again when something changes");
        }
        View::Ready(found) => {
            let inventory = &found.inventory;
            tell_vfio(last.inventory(), inventory);
            tracing::info!(
                gpus = inventory.gpus().len(),
                broken = inventory.broken().len(),
                libraries = found.installation.libraries.len(),
                "the node's GPUs were read"
            );
            for gpu in inventory.broken() {
                tracing::error!(
                    index = gpu.index,
                    pci = gpu.pci.map(|pci| pci.to_string()),
                    reason = gpu.reason,
                    "a GPU doesn't answer and is not offered"
                );
            }
            if inventory.gpus().is_empty() && inventory.broken().is_empty() && inventory.vfio().is_empty() {
                tracing::warn!("NVML lists no GPU: is one installed, and is it bound to the nvidia module?");
            }
            if let View::Ready(before) = last {
                for gone in inventory.gone_since(&before.inventory) {
                    tracing::warn!(device = %gone.whole_name(), uuid = %gone.uuid, "a GPU is gone");
                }
            }
        }
    }
}

/// What is new of GPUs for virtual machines. One that can't be given away is told only if somebody means it to be.
fn tell_vfio(last: Option<&Inventory>, inventory: &Inventory) {
    let known = last.map(Inventory::vfio).unwrap_or_default();
    for vfio in inventory.vfio().iter().filter(|vfio| !known.contains(vfio)) {
        let (group, device) = (vfio.group.0, vfio.name());
        let is_meant = |driver: &String| vfio::function::is_vfio_driver(driver);
        match &vfio.binding {
            Binding::Bound => {
                tracing::info!(%device, group, product = vfio.gpu.product_name, "a GPU is with a vfio driver");
            }
            Binding::Unusable(reason) if vfio.gpus().any(|gpu| gpu.driver.as_ref().is_some_and(is_meant)) => {
                tracing::warn!(%device, group, reason, "a GPU is with a vfio driver, but can't be given to virtual machines");
            }
            Binding::Unusable(reason) => tracing::debug!(%device, group, reason, "no GPU for virtual machines"),
            Binding::Switchable => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use aliquot_model::testing;

    use super::*;

    fn gpu(index: u32) -> Gpu {
        Gpu { uuid: format!("GPU-{index}").parse().unwrap(), ..testing::gpu(index.try_into().unwrap()) }
    }

    fn overdue(gpu: Option<u32>) -> Result<Found, Trouble> {
        Err(Trouble::Nvml(aliquot_nvml::Error::Overdue { deadline: Duration::from_secs(20), gpu, so_far: None }))
    }

    fn settings(driver: &str) -> Settings {
        let roots = crate::roots::tests::roots(driver, driver);
        Settings {
            roots,
            deadline: Duration::from_secs(1),
            interval: Duration::from_secs(1),
            hard_limits: true,
            processes: true,
        }
    }

    fn reading(index: u32, memory_limits: bool) -> GpuReading {
        let gpu = gpu(index);
        GpuReading {
            uuid: gpu.uuid,
            pci: gpu.pci,
            index,
            minor: gpu.minor,
            product_name: gpu.product_name,
            brand: gpu.brand,
            architecture: gpu.architecture,
            compute_capability: gpu.compute_capability,
            memory: gpu.memory,
            process_memory: true,
            memory_limits,
            needs: gpu.needs,
        }
    }

    #[test]
    fn memory_is_limited_only_where_both_the_gpu_and_the_node_can() {
        let hard = |node: bool| {
            let reading = Reading {
                driver_version: "615.10".into(),
                cuda_driver_version: "13.4".into(),
                gpus: vec![Ok(reading(0, true)), Ok(reading(1, false))],
            };
            let found = found(reading, vec![], &Settings { hard_limits: node, ..settings("/nowhere") }, &[]);
            found.inventory.gpus().iter().map(|gpu| gpu.hard_limits).collect::<Vec<_>>()
        };
        assert_eq!((hard(true), hard(false)), (vec![true, false], vec![false, false]));
    }

    #[test]
    fn no_gpu_is_said_to_tell_of_processes_that_cannot_be_traced() {
        let tells = |processes: bool| {
            let (driver_version, cuda_driver_version) = ("580.65.06".into(), "13.0".into());
            let reading = Reading { driver_version, cuda_driver_version, gpus: vec![Ok(reading(0, false))] };
            let found = found(reading, vec![], &Settings { processes, ..settings("/nowhere") }, &[]);
            found.inventory.gpus()[0].process_memory
        };
        assert!(tells(true) && !tells(false));
    }

    #[test]
    fn a_gpu_that_hangs_at_the_first_reading_costs_none_that_has_answered() {
        let so_far = Reading {
            driver_version: "580.65.06".into(),
            cuda_driver_version: "13.0".into(),
            gpus: vec![Ok(reading(0, false))],
        };
        let trouble = aliquot_nvml::Error::Overdue {
            deadline: Duration::from_secs(20),
            gpu: Some(1),
            so_far: Some(Box::new(so_far)),
        };
        let View::Ready(found) = next(&View::Searching, Err(trouble.into()), &settings("/nowhere"), &[]) else {
            panic!("no view")
        };
        assert_eq!((found.inventory.gpus().len(), found.inventory.broken()[0].index), (1, 1));
    }

    #[test]
    fn a_gpu_that_hangs_is_broken_and_the_others_stay() {
        let found = Found { inventory: Inventory::new(vec![gpu(0), gpu(1)], vec![]), ..Found::default() };
        let View::Ready(found) = next(&View::Ready(Arc::new(found)), overdue(Some(1)), &settings("/nowhere"), &[])
        else {
            panic!("no view")
        };
        assert_eq!((found.inventory.gpus().len(), found.inventory.broken()[0].index), (1, 1));
        // The next reading is overdue as well, and says the same.
        let again = next(&View::Ready(Arc::clone(&found)), overdue(Some(1)), &settings("/nowhere"), &[]);
        assert_eq!(again, View::Ready(found));
    }

    #[test]
    fn without_an_earlier_reading_the_reason_is_all_there_is() {
        let View::Unavailable(reason) = next(&View::Searching, overdue(Some(3)), &settings("/nowhere"), &[]) else {
            panic!("a view")
        };
        assert!(reason.contains("within 20s for GPU 3"), "{reason}");
    }

    #[tokio::test]
    async fn a_missing_driver_says_where_it_was_searched_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path().join("root").to_str().unwrap());
        let reason = read(&mut Library::default(), Session::Keep, &settings, Vec::new).await.unwrap_err().to_string();
        assert!(reason.contains("--driver-root") && reason.contains("root/usr/lib64/libnvidia-ml.so.1"), "{reason}");
    }
}
