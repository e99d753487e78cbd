//! The claims of a node for whoever only looks: without a lock, and without changing anything.
use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use aliquot_model::{DeviceName, GpuUuid, Memory};
use dra_plugin::{ClaimRef, ClaimUid, PodRef};
use owned_dir::Dir;

use super::{file, quarantine, record};

/// One claim as its files show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// By the file's name.
    pub(crate) uid: ClaimUid,
    /// By what is in it.
    pub(crate) claim: Option<ClaimRef>,
    /// How far it got.
    pub(crate) state: State,
    /// The record's file.
    pub(crate) file: PathBuf,
    /// When the file was last written, by the wall clock of then.
    pub(crate) written: Option<SystemTime>,
    /// The pods that it was reserved for when it was prepared.
    pub(crate) pods: Vec<PodRef>,
    /// What it holds.
    pub(crate) devices: Vec<Device>,
}

/// How far a claim got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Its devices are spoken for.
    Preparing,
    /// All is there.
    Prepared,
    /// The record can't be used, for this reason.
    Quarantined(String),
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its name in the slices.
    pub(crate) name: DeviceName,
    /// The request that it is for.
    pub(crate) request: Option<String>,
    /// The GPU behind it.
    pub(crate) gpu: Option<GpuUuid>,
    /// Which share of it.
    pub(crate) share_id: Option<String>,
    /// How much of its memory; none where it is all, or not known.
    pub(crate) memory: Option<Memory>,
    /// Whether NVIDIA's driver holds its users to that.
    pub(crate) hard: bool,
    /// How a virtual machine has it.
    pub(crate) vfio: Option<record::Passed>,
}

/// Where to look.
pub(crate) struct LookAt<'a> {
    /// The directory of records.
    pub(crate) records: &'a Path,
    /// The running boot; records of another one have ended.
    pub(crate) boot_id: &'a str,
    /// The CDI specs, where there are any: what damaged records hold.
    pub(crate) store: Option<&'a cdi_spec::Store>,
    /// The CDI kind of claims.
    pub(crate) kind: &'a cdi_spec::Kind,
}

/// What the files show, in order of namespace and name. Files that come and go meanwhile may be in it or not.
pub(crate) fn look(at: &LookAt<'_>) -> Result<Vec<Seen>, owned_dir::Error> {
    let Some(dir) = Dir::existing(at.records)? else { return Ok(Vec::new()) };
    let mut seen = Vec::new();
    for name in dir.names()? {
        let Some(uid) = file::uid_of(&name) else { continue };
        let path = at.records.join(&name);
        let written = path.symlink_metadata().and_then(|meta| meta.modified()).ok();
        let (claim, state, pods, devices) = match file::read(&dir, &name, &uid) {
            Ok(Some(record)) if record.boot_id == at.boot_id => {
                let state = match record.state {
                    record::State::Preparing => State::Preparing,
                    record::State::Prepared => State::Prepared,
                };
                (Some(record.claim), state, record.pods, record.devices.into_iter().map(Device::from).collect())
            }
            Ok(_) => continue,
            Err(bad) => {
                let spec = at.store.and_then(|store| store.read(at.kind, uid.as_str()).ok().flatten());
                let mut devices = spec.map(|spec| quarantine::devices_of(&uid, &spec)).unwrap_or_default();
                if devices.is_empty() {
                    devices = bad.glimpse.devices.into_iter().collect();
                }
                let devices = devices.into_iter().map(Device::named).collect();
                (bad.glimpse.whose, State::Quarantined(bad.reason), Vec::new(), devices)
            }
        };
        seen.push(Seen { uid, claim, state, file: path, written, pods, devices });
    }
    seen.sort_by(|a, b| (&a.claim, &a.uid).cmp(&(&b.claim, &b.uid)));
    Ok(seen)
}

impl Device {
    fn named(name: DeviceName) -> Self {
        Self { name, request: None, gpu: None, share_id: None, memory: None, hard: false, vfio: None }
    }
}

impl From<record::Held> for Device {
    fn from(held: record::Held) -> Self {
        Self {
            hard: held.hard().is_some(),
            name: held.device,
            request: Some(held.request),
            gpu: Some(held.gpu),
            share_id: held.share_id,
            memory: held.share.map(|share| share.takes.memory),
            vfio: held.vfio,
        }
    }
}
