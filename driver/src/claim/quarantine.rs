//! Records that can't be used: what they hold stays held, until somebody says that it isn't.
//!
//! Such a file stays where it is. The kubelet's next prepare writes it anew and its unprepare removes it, the sweep removes
//! it once its claim is proven stale, and so may an administrator. What it holds is told by, in this order, the claim's CDI
//! spec, the kubelet or the API server (which the sweep asks), and what can still be read of the file.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aliquot_model::DeviceName;
use dra_plugin::{ClaimRef, ClaimUid};

use super::{Claims, Record, hold::Clash};

/// A file that can't be used as a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quarantined {
    /// By the file's name.
    pub(crate) uid: ClaimUid,
    /// The file.
    pub(crate) file: PathBuf,
    /// Why it can't be used.
    pub(crate) reason: String,
    /// The claim that it names.
    pub(crate) whose: Option<ClaimRef>,
    /// Whether what it names can be relied on: its bytes are as a driver wrote them.
    pub(crate) is_intact: bool,
    /// The devices that it names.
    pub(crate) devices: Vec<DeviceName>,
}

/// What was found out and said about such files.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<BTreeMap<ClaimUid, Fact>>);

#[derive(Debug, Default)]
struct Fact {
    /// Told in an event, for this reason.
    told: Option<String>,
    /// What the kubelet or the API server named.
    devices: BTreeSet<DeviceName>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClaimUid, Fact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claims {
    /// What a quarantined claim holds; empty if nothing tells.
    pub(crate) fn held_in_quarantine(&self, file: &Quarantined) -> BTreeSet<DeviceName> {
        let spec = self.store.read(&self.site.cdi_kind, file.uid.as_str()).ok().flatten();
        let by_spec = spec.map(|spec| devices_of(&file.uid, &spec)).unwrap_or_default();
        if !by_spec.is_empty() {
            return by_spec;
        }
        let learned = self.known.lock().get(&file.uid).map(|fact| fact.devices.clone()).unwrap_or_default();
        if learned.is_empty() { file.devices.iter().cloned().collect() } else { learned }
    }

    /// Takes note of the devices that somebody names for a claim whose record doesn't.
    pub(crate) fn learn(&self, uid: &ClaimUid, devices: impl IntoIterator<Item = DeviceName>) {
        self.known.lock().entry(uid.clone()).or_default().devices.extend(devices);
    }

    /// The quarantined claim that is in a record's way, if one is. It may share a GPU with nobody: how much it holds of it
    /// is not known.
    pub(super) fn in_quarantine(&self, record: &Record) -> Result<Option<Clash>, super::Error> {
        let files = self.book().quarantined()?;
        Ok(files.iter().filter(|file| file.uid != *record.claim.uid()).find_map(|file| {
            let theirs = self.held_in_quarantine(file);
            let ours =
                record.devices.iter().find(|held| !held.admin_access && is_on_a_gpu_of(&theirs, &held.device))?;
            Some(Clash::Quarantined { device: ours.device.clone(), uid: file.uid.clone() })
        }))
    }

    /// Tells the node's administrators of each file once.
    pub(super) fn tell_quarantined(&self, files: &[Quarantined]) {
        self.known.lock().retain(|uid, _| files.iter().any(|file| file.uid == *uid));
        for file in files {
            let is_new = {
                let mut known = self.known.lock();
                let fact = known.entry(file.uid.clone()).or_default();
                fact.told.replace(file.reason.clone()).as_ref() != Some(&file.reason)
            };
            if is_new {
                let note = note(file, &self.held_in_quarantine(file));
                tracing::error!(file = %file.file.display(), claim.uid = %file.uid, "{note}");
                self.notices.warn_node("RecordQuarantined", note);
            }
        }
    }
}

fn note(file: &Quarantined, held: &BTreeSet<DeviceName>) -> String {
    let whose = match &file.whose {
        Some(claim) if file.is_intact => format!("ResourceClaim {claim}"),
        Some(claim) => format!("a ResourceClaim, probably {claim}"),
        None => "a ResourceClaim".to_owned(),
    };
    let held = if held.is_empty() {
        "Nothing tells which devices it holds, so none is kept back for it.".to_owned()
    } else {
        let names: Vec<&str> = held.iter().map(DeviceName::as_str).collect();
        format!("{} stay unavailable for other claims.", names.join(", "))
    };
    format!(
        "{} can't be used: {}. It is the record of {whose} with UID {}. {held} This ends when the kubelet prepares or \
         unprepares the claim, as it does when its pod ends. If no pod uses it any more, remove the file.",
        file.file.display(),
        file.reason,
        file.uid
    )
}

/// The devices in a claim's spec.
pub(super) fn devices_of(uid: &ClaimUid, spec: &cdi_spec::Spec) -> BTreeSet<DeviceName> {
    spec.devices.iter().filter_map(|device| device_of(uid, device.name.as_str())).collect()
}

/// The device in a CDI device's name, which is `<claim uid>-<device>[-<share id>]`; only shared devices have share ids.
fn device_of(uid: &ClaimUid, cdi_name: &str) -> Option<DeviceName> {
    let rest = cdi_name.strip_prefix(uid.as_str())?.strip_prefix('-')?;
    let device = match rest.find(aliquot_model::SHARED) {
        Some(at) => rest.get(..at + aliquot_model::SHARED.len())?,
        None => rest,
    };
    device.parse().ok()
}

/// A device that is lent for administration holds nothing.
fn is_on_a_gpu_of(devices: &BTreeSet<DeviceName>, device: &DeviceName) -> bool {
    devices.iter().any(|held| !held.is_admin() && held.gpu() == device.gpu())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> ClaimUid {
        ClaimUid::new("a5e8-11").unwrap()
    }

    #[test]
    fn devices_are_read_from_the_names_in_a_spec() {
        let device = |name: &str| device_of(&uid(), name).map(|device| device.to_string());
        assert_eq!(device("a5e8-11-gpu-0000-41-00").as_deref(), Some("gpu-0000-41-00"));
        let share = "a5e8-11-gpu-0000-41-00-shared-3e0cb1b7-5d6c-4fd9-a8a9-9cf0ae1d9d4a";
        assert_eq!(device(share).as_deref(), Some("gpu-0000-41-00-shared"));
        assert_eq!(device("a5e8-11-gpu-0000-41-00-share-3").as_deref(), Some("gpu-0000-41-00-share-3"));
        for foreign in ["b-gpu-0000-41-00", "a5e8-11", "a5e8-11-", "a5e8-11gpu-0000-41-00"] {
            assert_eq!(device(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn all_of_a_gpu_is_held_by_any_part_of_it_but_administration() {
        let held = |name: &str| BTreeSet::from([name.parse().unwrap()]);
        let wanted = "gpu-0000-41-00".parse().unwrap();
        for part in ["gpu-0000-41-00", "gpu-0000-41-00-shared", "gpu-0000-41-00-share-7"] {
            assert!(is_on_a_gpu_of(&held(part), &wanted), "{part}");
        }
        for other in ["gpu-0000-42-00", "gpu-0000-41-00-1", "gpu-0000-41-00-admin"] {
            assert!(!is_on_a_gpu_of(&held(other), &wanted), "{other}");
        }
    }

    #[test]
    fn the_note_names_the_file_the_reason_the_devices_and_the_remedy() {
        let file = Quarantined {
            uid: uid(),
            file: "/run/aliquot/x/claims/a5e8-11.json".into(),
            reason: "it is cut short or no text".into(),
            whose: ClaimRef::new("team", "training", "a5e8-11").ok(),
            is_intact: false,
            devices: vec![],
        };
        let text = note(&file, &BTreeSet::from(["gpu-0000-41-00".parse().unwrap()]));
        for part in
            ["claims/a5e8-11.json", "cut short", "probably team/training", "gpu-0000-41-00 stay", "remove the file"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(note(&file, &BTreeSet::new()).contains("none is kept back"));
    }
}
