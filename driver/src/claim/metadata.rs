//! What containers may read of a claim's devices (KEP-5304): who is told, what, and the CDI devices that bring it.
//!
//! Files and devices follow from the record and the inventory, as specs do. A file is a mount in a CDI device of its own: those
//! of GPUs for virtual machines have none, since Kata's runtime-rs reads only device nodes.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aliquot_model::Inventory;
use cdi_spec::{ContainerEdits, Device, DeviceName, InvalidName, Mount};
use dra_plugin::{
    AllocatedClaim, ClaimUid, PreparedDevice, RequestName,
    metadata::{DeviceFacts, Files, Subject},
};
use k8s_openapi::api::resource::v1::DeviceAttribute;
use serde::{Deserialize, Serialize};

use super::{Claims, Held, Record, specs::Before};
use crate::{args::DeviceMetadata, fault, offer::attributes};

/// Nobody changes it, runs it or gains anything by it. A mount in a user namespace keeps what /run is mounted with, and is
/// refused without these.
const OPTIONS: [&str; 6] = ["ro", "nosuid", "nodev", "noexec", "bind", "rprivate"];

/// What a record says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// What the pod calls the claim, where it was made of a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod_claim: Option<String>,
    /// The requests that have a file, as the allocation names them.
    requests: Vec<String>,
}

impl Metadata {
    fn requests(&self) -> impl Iterator<Item = RequestName> {
        self.requests.iter().map(|request| RequestName::parse(request))
    }
}

/// Writes it.
#[derive(Debug)]
pub(super) struct Writer {
    files: Files,
    whom: DeviceMetadata,
}

/// One request's file, and what brings it into a container.
#[derive(Debug)]
pub(super) struct Told {
    request: RequestName,
    bytes: Vec<u8>,
    pub(super) device: Device,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It can't be written as JSON.
    #[error("the metadata of a claim's devices can't be written")]
    Encode(#[from] serde_json::Error),
    /// A name that CDI doesn't take.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl Claims {
    /// With containers told of these devices.
    #[must_use]
    pub fn telling(mut self, whom: DeviceMetadata) -> Self {
        self.metadata.whom = whom;
        self
    }
}

impl Writer {
    pub(super) fn open(path: &Path) -> Result<Self, owned_dir::Error> {
        Ok(Self { files: Files::open(path)?.watched(fault::metadata), whom: DeviceMetadata::None })
    }

    /// What a claim is to be told that gets these devices.
    pub(super) fn of(&self, claim: &AllocatedClaim, devices: &[Held]) -> Option<Metadata> {
        let is_told = |request: &RequestName| match self.whom {
            DeviceMetadata::None => false,
            DeviceMetadata::All => true,
            DeviceMetadata::Vfio => devices.iter().any(|held| held.request == request.base() && held.vfio.is_some()),
        };
        let requests: BTreeSet<&RequestName> = claim.results.iter().map(|result| &result.request).collect();
        let requests: Vec<String> =
            requests.into_iter().filter(|request| is_told(request)).map(ToString::to_string).collect();
        (!requests.is_empty()).then(|| Metadata { pod_claim: claim.pod_claim.clone(), requests })
    }

    /// What there is to tell.
    pub(super) fn documents(&self, record: &Record, inventory: &Inventory) -> Result<Vec<Told>, Error> {
        let Some(metadata) = &record.metadata else { return Ok(Vec::new()) };
        let told = |request: RequestName| {
            let subject = subject(record, metadata, &request);
            let held = record.devices.iter().filter(|held| held.request == request.base());
            let facts = held.map(|held| DeviceFacts {
                driver: subject.driver.to_owned(),
                pool: held.pool.clone(),
                name: held.device.to_string(),
                attributes: facts(held, inventory),
            });
            let mount = Mount {
                host_path: self.files.path(record.claim.uid(), &request).to_string_lossy().into_owned(),
                container_path: subject.container_path(),
                kind: Some("bind".to_owned()),
                options: OPTIONS.map(ToOwned::to_owned).to_vec(),
            };
            let container_edits = ContainerEdits { mounts: vec![mount], ..ContainerEdits::default() };
            let device = Device { name: DeviceName::new(subject.cdi_name())?, container_edits };
            let bytes = subject.document(facts.collect())?;
            Ok(Told { request, bytes, device })
        };
        metadata.requests().map(told).collect()
    }

    pub(super) fn write(&self, record: &Record, told: &[Told], before: Before) -> Result<(), owned_dir::Error> {
        let uid = record.claim.uid();
        let stays = |told: &&Told| before == Before::Stays && self.files.has(uid, &told.request);
        told.iter().filter(|told| !stays(told)).try_for_each(|told| self.files.write(uid, &told.request, &told.bytes))
    }

    /// Whether each of a record's files is there.
    pub(super) fn has(&self, record: &Record) -> bool {
        let metadata = record.metadata.as_ref();
        metadata.is_none_or(|metadata| metadata.requests().all(|request| self.files.has(record.claim.uid(), &request)))
    }

    pub(super) fn remove(&self, uid: &ClaimUid) -> Result<(), owned_dir::Error> {
        self.files.remove(uid)
    }

    /// The claims that have any.
    pub(super) fn claims(&self) -> Result<BTreeSet<ClaimUid>, owned_dir::Error> {
        self.files.claims()
    }
}

/// The names of the CDI devices that a record's spec has for it.
pub(super) fn names(record: &Record) -> Vec<String> {
    let names = |metadata: &Metadata| {
        metadata.requests().map(|request| subject(record, metadata, &request).cdi_name()).collect()
    };
    record.metadata.as_ref().map(names).unwrap_or_default()
}

/// An answer with the file of each request at the first of its devices: every container with the request gets it once.
pub(super) fn announced(record: &Record, mut answer: Vec<PreparedDevice>) -> Vec<PreparedDevice> {
    for request in record.metadata.iter().flat_map(Metadata::requests) {
        let at = record.devices.iter().position(|held| held.request == request.base());
        let Some((held, device)) = at.and_then(|at| record.devices.get(at).zip(answer.get_mut(at))) else { continue };
        let Some((metadata, (kind, _))) = record.metadata.as_ref().zip(held.cdi_id.split_once('=')) else { continue };
        device.cdi_ids.push(format!("{kind}={}", subject(record, metadata, &request).cdi_name()));
    }
    answer
}

fn subject<'a>(record: &'a Record, metadata: &'a Metadata, request: &'a RequestName) -> Subject<'a> {
    Subject { driver: driver(record), claim: &record.claim, pod_claim: metadata.pod_claim.as_deref(), request }
}

/// The vendor of CDI devices is the driver's name.
fn driver(record: &Record) -> &str {
    record.devices.first().and_then(|held| held.cdi_id.split_once('/')).map_or("", |(vendor, _)| vendor)
}

/// What is published of the device, and what of it is the claim's. Of a GPU that is not there now, what the record knows.
fn facts(held: &Held, inventory: &Inventory) -> BTreeMap<String, DeviceAttribute> {
    let number = |value: u64| DeviceAttribute { int: i64::try_from(value).ok(), ..DeviceAttribute::default() };
    let (text, takes) = (attributes::text, held.share.filter(|_| !held.admin_access).map(|share| share.takes));
    let own = [
        ("uuid", text(held.gpu.as_str())),
        ("shareID", held.share_id.as_deref().and_then(text)),
        ("shares", takes.map(|room| number(room.shares.into()))),
        ("memoryBytes", takes.map(|room| room.memory.bytes()).filter(|bytes| *bytes > 0).map(number)),
        ("memoryEnforcement", held.hard().and_then(|_| text("hard"))),
    ];
    let mut all = attributes::of_device(inventory, &held.device).unwrap_or_default();
    all.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    all
}

#[cfg(test)]
mod tests;
