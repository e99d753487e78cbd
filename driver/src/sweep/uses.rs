//! Which claims containers on this node use, from the kubelet's list. Pure.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use aliquot_model::DeviceName;
use dra_plugin::{ClaimRef, ClaimUid};
use kubelet_api::podresources::v1::PodResources;

/// What containers use of this driver's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// By namespace and name: whether CDI devices say which claim of that name it is.
    names: HashMap<(String, String), bool>,
    /// The names of claims' CDI devices, which begin with a claim's UID, and the device of each.
    devices: BTreeMap<String, String>,
}

impl Uses {
    /// Of the kubelet's list. `kind` is the CDI kind of claims.
    pub(crate) fn of(pods: &[PodResources], driver: &str, kind: &str) -> Self {
        let mut uses = Self::default();
        for used in pods.iter().flat_map(|pod| &pod.containers).flat_map(|container| &container.dynamic_resources) {
            let ours = || used.claim_resources.iter().filter(|resource| resource.driver_name == driver);
            if ours().next().is_none() {
                continue;
            }
            let mut is_identified = false;
            for resource in ours() {
                for device in &resource.cdi_devices {
                    let name = device.name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('='));
                    if let Some(name) = name {
                        is_identified = true;
                        uses.devices.insert(name.to_owned(), resource.device_name.clone());
                    }
                }
            }
            let key = (used.claim_namespace.clone(), used.claim_name.clone());
            // One container that doesn't say which claim it is may use any of that name.
            uses.names.entry(key).and_modify(|all| *all &= is_identified).or_insert(is_identified);
        }
        uses
    }

    /// Whether a container uses the claim, or may use it.
    ///
    /// The list has no UIDs. But names of CDI devices begin with the claim's UID, so that a claim which was made again under
    /// the same name is told from the one before.
    pub(crate) fn has(&self, uid: &ClaimUid, claim: Option<&ClaimRef>) -> bool {
        let by_name = claim.and_then(|claim| self.names.get(&(claim.namespace().to_owned(), claim.name().to_owned())));
        by_name == Some(&false) || self.of_claim(uid).next().is_some()
    }

    /// The devices of a claim that containers use.
    pub(crate) fn devices(&self, uid: &ClaimUid) -> BTreeSet<DeviceName> {
        self.of_claim(uid).filter_map(|device| device.parse().ok()).collect()
    }

    fn of_claim(&self, uid: &ClaimUid) -> impl Iterator<Item = &str> {
        let prefix = format!("{uid}-");
        self.devices
            .range(prefix.clone()..)
            .take_while(move |(name, _)| name.starts_with(&prefix))
            .map(|(_, device)| device.as_str())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use kubelet_api::podresources::v1::{CdiDevice, ClaimResource, ContainerResources, DynamicResource};

    use super::*;

    const DRIVER: &str = "gpu.example.com";
    const KIND: &str = "gpu.example.com/claim";

    /// A pod with one container that uses one claim with these CDI devices.
    pub(crate) fn pod(driver: &str, namespace: &str, claim: &str, cdi: &[&str]) -> PodResources {
        let cdi_devices = cdi.iter().map(|name| CdiDevice { name: (*name).to_owned() }).collect();
        let resource = ClaimResource {
            cdi_devices,
            driver_name: driver.into(),
            device_name: "gpu-0000-41-00".into(),
            ..ClaimResource::default()
        };
        let used = DynamicResource {
            claim_name: claim.into(),
            claim_namespace: namespace.into(),
            claim_resources: vec![resource],
        };
        let container = ContainerResources { dynamic_resources: vec![used], ..ContainerResources::default() };
        PodResources { containers: vec![container], ..PodResources::default() }
    }

    fn claim(name: &str, uid: &str) -> ClaimRef {
        ClaimRef::new("team", name, uid).unwrap()
    }

    fn has(uses: &Uses, claim: &ClaimRef) -> bool {
        uses.has(claim.uid(), Some(claim))
    }

    #[test]
    fn a_claim_is_used_by_its_uid_and_another_of_its_name_is_not() {
        let pods =
            [pod(DRIVER, "team", "a", &["gpu.example.com/driver=node", "gpu.example.com/claim=u1-gpu-0000-41-00"])];
        let uses = Uses::of(&pods, DRIVER, KIND);
        assert!(has(&uses, &claim("a", "u1")) && uses.has(&ClaimUid::new("u1").unwrap(), None));
        assert!(!has(&uses, &claim("a", "u2")) && !has(&uses, &claim("b", "u3")) && !has(&uses, &claim("b", "u11")));
        assert_eq!(uses.devices(&ClaimUid::new("u1").unwrap()).len(), 1);
    }

    #[test]
    fn a_name_without_our_cdi_devices_may_be_any_claim_of_that_name() {
        let uses = Uses::of(&[pod(DRIVER, "team", "a", &["gpu.example.com/driver=node"])], DRIVER, KIND);
        assert!(has(&uses, &claim("a", "u1")) && has(&uses, &claim("a", "u2")) && !has(&uses, &claim("b", "u1")));
        // Whatever a second container says.
        let pods =
            [pod(DRIVER, "team", "a", &["gpu.example.com/claim=u1-gpu-0000-41-00"]), pod(DRIVER, "team", "a", &[])];
        assert!(has(&Uses::of(&pods, DRIVER, KIND), &claim("a", "u2")));
    }

    #[test]
    fn what_other_drivers_prepared_is_no_use_of_ours() {
        let pods = [pod("other.example.com", "team", "a", &["other.example.com/claim=u1-x"])];
        assert_eq!(Uses::of(&pods, DRIVER, KIND), Uses::default());
    }
}
