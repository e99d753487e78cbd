//! What must hold after any crash.
use std::path::Path;

use kubelet_api::dra::v1::Claim;

use super::{
    scene::Scene,
    stage::{AUDIO, Answer, Call, GPU, Stage},
};
use crate::testbed::{NODE_DEVICE, Result, files};

/// What doesn't hold.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    /// Something is left of a claim that is unprepared.
    #[error("leaked: {0}")]
    Leaked(String),
    /// Two hold what one may hold.
    #[error("double: {0}")]
    Double(String),
    /// A claim lacks what it was given, or can't be had.
    #[error("lost: {0}")]
    Lost(String),
}

/// An error that is one of [`Wrong`], or any other where the suite itself fails.
pub(super) type Verdict<T = ()> = Result<T>;

pub(super) fn leaked<T>(what: impl Into<String>) -> Verdict<T> {
    Err(Wrong::Leaked(what.into()).into())
}

pub(super) fn double<T>(what: impl Into<String>) -> Verdict<T> {
    Err(Wrong::Double(what.into()).into())
}

pub(super) fn lost<T>(what: impl Into<String>) -> Verdict<T> {
    Err(Wrong::Lost(what.into()).into())
}

/// A prepared claim, with what was written for it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) claim: Claim,
    pub(super) ids: Vec<String>,
    files: Vec<(std::path::PathBuf, Vec<u8>)>,
}

impl Kept {
    /// Of a claim that was just prepared.
    pub(super) fn of(stage: &Stage, claim: Claim, ids: Vec<String>) -> Result<Self> {
        let all = files(&stage.records())?.into_iter().chain(files(&stage.testbed.node.path("cdi"))?);
        let ours = all.filter(|path| name(path).contains(&claim.uid));
        let ours = ours.chain(files(&stage.metadata().join(&claim.uid))?);
        let files = ours.map(|path| Ok((path.clone(), std::fs::read(path)?))).collect::<Result<_>>()?;
        Ok(Self { claim, ids, files })
    }

    /// Whether everything of it is as it was.
    pub(super) fn check(&self) -> Verdict {
        for (path, bytes) in &self.files {
            if std::fs::read(path).ok().as_deref() != Some(bytes) {
                return lost(format!("{} of a claim that stood by is not what it was", path.display()));
            }
        }
        Ok(())
    }
}

/// What claims of a scene are given: their nodes, and the requests of which their containers may read.
fn given(scene: Scene) -> (&'static [&'static str], &'static [&'static str]) {
    match scene {
        Scene::Start | Scene::Recovery | Scene::Claim => (&["/dev/nvidia0", "/dev/nvidia1"], &["share", "whole"]),
        Scene::Machine => (&["/dev/vfio/12"], &["gpu"]),
    }
}

/// The devices that a claim was given are in the specs, with their nodes.
pub(super) fn is_given(stage: &Stage, ids: &[String]) -> Verdict {
    let own: Vec<String> = ids.iter().filter(|id| *id != NODE_DEVICE).cloned().collect();
    let (wanted, requests) = given(stage.scene);
    let nodes = stage.testbed.nodes_of(&own)?;
    if nodes != wanted {
        return lost(format!("the specs of {own:?} give {nodes:?}"));
    }
    if is_machines(stage) {
        let drivers = drivers(stage);
        if drivers.iter().any(|driver| driver.as_deref() != Some("vfio-pci")) {
            return lost(format!("the machine's functions are with {drivers:?}"));
        }
    } else if !has_spec(stage, "-driver_node.json")? {
        return lost("the node's spec is not there");
    }
    for request in requests {
        let told = own.iter().find_map(|id| id.split_once('=')?.1.strip_suffix(&format!("_{request}")));
        let file = stage.metadata().join(told.unwrap_or_default()).join(format!("{request}.json"));
        if told.is_none() || !is_json(&file) {
            return lost(format!("{} of {own:?} is not there", file.display()));
        }
    }
    Ok(())
}

/// The kernel drivers that have the functions which virtual machines get.
fn drivers(stage: &Stage) -> [Option<String>; 2] {
    [GPU, AUDIO].map(|pci| stage.testbed.node.driver_of(pci))
}

/// They are with the host's as if nothing had been.
fn is_home(stage: &Stage) -> Verdict {
    let node = &stage.testbed.node;
    let only = |pci: &str| std::fs::read_to_string(node.function(pci).join("driver_override")).unwrap_or_default();
    let lock = node.path("proc/driver/nvidia/gpus").join(GPU).join("unbindLock");
    let is_open = std::fs::read_to_string(lock).is_ok_and(|text| text.trim() == "0");
    let (drivers, only) = (drivers(stage), [GPU, AUDIO].map(only));
    let is_free = only.iter().all(|only| only.trim() == "(null)");
    if drivers == ["nvidia", "snd_hda_intel"].map(|driver| Some(driver.to_owned())) && is_free && is_open {
        return Ok(());
    }
    leaked(format!("a virtual machine's functions are with {drivers:?}, for {only:?}, unlocked: {is_open}"))
}

fn is_json(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).is_ok())
}

/// No GPU is held by more than may hold it.
pub(super) fn held_once(stage: &Stage) -> Verdict {
    for (gpu, held) in stage.testbed.holds()? {
        if !held.is_held_once() {
            return double(format!("{gpu}: {held:?}"));
        }
    }
    Ok(())
}

/// On disk and on the GPUs there is nothing of any claim but of these.
pub(super) fn nothing_left(stage: &Stage, but: &[&Claim]) -> Verdict {
    let is_theirs = |stem: &str| but.iter().any(|claim| claim.uid == stem);
    let mut left = Vec::new();
    for path in files(&stage.records())? {
        if name(&path) != "lock" && !name(&path).strip_suffix(".json").is_some_and(is_theirs) {
            left.push(path);
        }
    }
    for path in files(&stage.testbed.node.path("cdi"))? {
        let file = name(&path);
        let stem = file
            .split_once("-claim_")
            .and_then(|(vendor, rest)| if vendor.starts_with('.') { None } else { rest.strip_suffix(".json") });
        let is_node = !file.starts_with('.') && file.ends_with("-driver_node.json");
        if !is_node && !stem.is_some_and(is_theirs) {
            left.push(path);
        }
    }
    let unfinished = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|extension| extension == "tmp") || name(path) == "limits.new"
    };
    left.extend(files(&stage.plugin())?.into_iter().filter(unfinished));
    left.extend(files(&stage.debts())?);
    for path in files(&stage.metadata())? {
        let unfinished = |path: &std::path::PathBuf| name(path).starts_with('.');
        if is_theirs(&name(&path)) {
            left.extend(files(&path)?.into_iter().filter(unfinished));
        } else {
            left.push(path);
        }
    }
    if !left.is_empty() {
        return leaked(format!("{left:?}"));
    }
    is_home(stage)?;
    let slices: std::collections::BTreeMap<String, u8> = stage.testbed.node.time_slices().into_iter().collect();
    match slices.iter().find(|(_, length)| **length != 0) {
        Some((gpu, length)) => leaked(format!("{gpu} has time slice {length} of a claim that is gone")),
        None => Ok(()),
    }
}

/// While the claim's record says that it holds the whole GPU, nobody else gets it.
pub(super) async fn rival_is_kept_out(stage: &mut Stage) -> Verdict {
    let rival = stage.rival().await?;
    let is_held = stage.testbed.holds()?.values().any(|held| held.whole > 0);
    match stage.call(Call::Prepare, &rival).await? {
        Answer::Done(_) if is_held => return double("another claim was given a GPU that is held"),
        Answer::Refused(error) if !is_held => return lost(format!("a free GPU was refused: {error}")),
        Answer::Died => return lost("the driver ended in another claim's call"),
        Answer::Done(_) | Answer::Refused(_) => {}
    }
    held_once(stage)?;
    match stage.call(Call::Unprepare, &rival).await? {
        Answer::Done(_) => Ok(()),
        other => lost(format!("a claim that came in between can't be unprepared: {other:?}")),
    }
}

/// Whether the specs that a claim's containers need are there.
pub(super) fn has_specs(stage: &Stage, claim: &Claim) -> Result<bool> {
    let told = files(&stage.metadata().join(&claim.uid))?.iter().filter(|path| is_json(path)).count();
    let (_, requests) = given(stage.scene);
    let has_node = is_machines(stage) || has_spec(stage, "-driver_node.json")?;
    Ok(has_node && has_spec(stage, &format!("-claim_{}.json", claim.uid))? && told == requests.len())
}

/// A virtual machine needs nothing of NVIDIA's driver.
fn is_machines(stage: &Stage) -> bool {
    stage.scene == Scene::Machine
}

fn has_spec(stage: &Stage, end: &str) -> Result<bool> {
    let specs = files(&stage.testbed.node.path("cdi"))?;
    Ok(specs.iter().any(|path| !name(path).starts_with('.') && name(path).ends_with(end)))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
