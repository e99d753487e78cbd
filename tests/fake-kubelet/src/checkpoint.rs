//! The claims that pods on this node use, kept in a file so that a restarted kubelet still unprepares them.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};

use kubelet_api::dra::v1 as dra;
use serde::{Deserialize, Serialize};

/// Where the kubelet keeps it, below its root. The format here is this crate's own.
pub(crate) const FILE: &str = "dra_manager_state";

/// A device that a driver prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) pool: String,
    pub(crate) name: String,
    pub(crate) share: Option<String>,
    pub(crate) requests: Vec<String>,
    pub(crate) cdi: Vec<String>,
}

impl From<dra::Device> for Device {
    fn from(device: dra::Device) -> Self {
        Self {
            pool: device.pool_name,
            name: device.device_name,
            share: device.share_id,
            requests: device.request_names,
            cdi: device.cdi_device_ids,
        }
    }
}

/// One claim that pods on this node use or used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimInfo {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) pods: BTreeSet<String>,
    /// Every driver in the allocation, with the devices that it prepared so far.
    pub(crate) drivers: BTreeMap<String, Vec<Device>>,
    /// Never saved: a restarted kubelet prepares again.
    #[serde(skip)]
    pub(crate) prepared: bool,
}

impl ClaimInfo {
    /// What drivers are told of the claim.
    pub(crate) fn message(&self) -> dra::Claim {
        dra::Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }

    /// The CDI names for a container that uses one request of the claim, or all.
    pub(crate) fn cdi(&self, request: Option<&str>) -> Vec<String> {
        let devices = self.drivers.values().flatten();
        let wanted = devices.filter(|device| {
            request.is_none_or(|request| device.requests.is_empty() || device.requests.iter().any(|r| r == request))
        });
        wanted.flat_map(|device| device.cdi.iter().cloned()).collect()
    }
}

/// Claims by namespace and name, as in the file.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) claims: BTreeMap<(String, String), ClaimInfo>,
    file: PathBuf,
}

impl Cache {
    /// Reads the file; none yet means no claims.
    pub(crate) fn load(file: PathBuf) -> io::Result<Self> {
        let claims: Vec<ClaimInfo> = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let claims = claims.into_iter().map(|claim| ((claim.namespace.clone(), claim.name.clone()), claim)).collect();
        Ok(Self { claims, file })
    }

    /// Replaces the file.
    pub(crate) fn save(&self) -> io::Result<()> {
        let next = self.file.with_extension("tmp");
        fs::write(&next, serde_json::to_vec(&self.claims.values().collect::<Vec<_>>())?)?;
        fs::rename(next, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(requests: &[&str], cdi: &str) -> Device {
        Device {
            pool: "pool".to_owned(),
            name: "gpu-0".to_owned(),
            share: None,
            requests: requests.iter().map(|request| (*request).to_owned()).collect(),
            cdi: vec![cdi.to_owned()],
        }
    }

    fn claim(devices: Vec<Device>) -> ClaimInfo {
        ClaimInfo {
            namespace: "ns".to_owned(),
            name: "claim".to_owned(),
            uid: "uid".to_owned(),
            pods: BTreeSet::from(["pod".to_owned()]),
            drivers: BTreeMap::from([("driver".to_owned(), devices)]),
            prepared: true,
        }
    }

    #[test]
    fn a_request_gets_its_devices_and_those_that_name_no_request() {
        let claim = claim(vec![device(&["a"], "x=a"), device(&["b"], "x=b"), device(&[], "x=all")]);
        assert_eq!(claim.cdi(Some("a")), ["x=a", "x=all"]);
        assert_eq!(claim.cdi(None), ["x=a", "x=b", "x=all"]);
    }

    #[test]
    fn what_is_prepared_is_forgotten_on_disk_but_who_uses_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::load(dir.path().join(FILE)).unwrap();
        cache.claims.insert(("ns".to_owned(), "claim".to_owned()), claim(vec![device(&["a"], "x=a")]));
        cache.save().unwrap();
        let loaded = Cache::load(dir.path().join(FILE)).unwrap().claims.into_values().next().unwrap();
        assert_eq!(loaded, ClaimInfo { prepared: false, ..claim(vec![device(&["a"], "x=a")]) });
    }
}
