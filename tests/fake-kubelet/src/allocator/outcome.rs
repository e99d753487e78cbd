//! An allocation as it is written into a claim's status.
use k8s_openapi::api::{
    core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm},
    resource::v1::{
        AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceClaim,
        DeviceRequestAllocationResult,
    },
};

use super::{ask::Ask, search::Choice};

/// What was chosen, with the configuration that goes with it. Shares get new names.
pub(super) fn allocation(devices: &DeviceClaim, chosen: Vec<Choice<'_>>, node: &str) -> AllocationResult {
    let local = chosen.iter().any(|choice| choice.candidate.local);
    AllocationResult {
        devices: Some(DeviceAllocationResult {
            config: Some(configurations(devices, &chosen)).filter(|config| !config.is_empty()),
            results: Some(chosen.into_iter().map(result).collect()),
        }),
        node_selector: local.then(|| only(node)),
        ..AllocationResult::default()
    }
}

fn result(choice: Choice<'_>) -> DeviceRequestAllocationResult {
    let (ask, id) = (choice.ask, choice.candidate.id.clone());
    let share_id = choice.share.is_some().then(|| uuid::Uuid::new_v4().to_string());
    DeviceRequestAllocationResult {
        request: ask.name.clone(),
        driver: id.driver,
        pool: id.pool,
        device: id.device,
        admin_access: ask.admin.then_some(true),
        share_id,
        consumed_capacity: choice.share.filter(|amounts| !amounts.is_empty()),
        tolerations: Some(ask.tolerations.to_vec()).filter(|tolerations| !tolerations.is_empty()),
        ..DeviceRequestAllocationResult::default()
    }
}

/// First what the classes say, once per class with the requests that use it, then what the claim says.
fn configurations(devices: &DeviceClaim, chosen: &[Choice<'_>]) -> Vec<DeviceAllocationConfiguration> {
    let mut asks = Vec::<&Ask<'_>>::new();
    for choice in chosen {
        if asks.iter().all(|ask| ask.name != choice.ask.name) {
            asks.push(choice.ask);
        }
    }
    let class_of = |ask: &Ask<'_>| ask.class.metadata.name.clone();
    let mut configurations = Vec::new();
    for (at, ask) in asks.iter().enumerate() {
        if asks.iter().take(at).any(|earlier| class_of(earlier) == class_of(ask)) {
            continue;
        }
        let same = asks.iter().filter(|other| class_of(other) == class_of(ask));
        let names: Vec<_> = same.map(|ask| ask.name.clone()).collect();
        let of_class = ask.class.spec.iter().flat_map(|spec| spec.config.iter().flatten());
        let of_class = of_class.map(|config| DeviceAllocationConfiguration {
            opaque: config.opaque.clone(),
            requests: Some(names.clone()),
            source: "FromClass".to_owned(),
        });
        configurations.extend(of_class);
    }
    let of_claim = devices.config.iter().flatten();
    let of_claim = of_claim.filter(|config| asks.iter().any(|ask| ask.named_in(config.requests.as_ref())));
    configurations.extend(of_claim.map(|config| DeviceAllocationConfiguration {
        opaque: config.opaque.clone(),
        requests: config.requests.clone(),
        source: "FromClaim".to_owned(),
    }));
    configurations
}

fn only(node: &str) -> NodeSelector {
    let name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), ..NodeSelectorTerm::default() };
    NodeSelector { node_selector_terms: vec![term] }
}
