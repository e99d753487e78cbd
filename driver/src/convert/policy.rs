//! Writes the policy file that offers what a device plugin's configuration offers, with the reasons beside it.
use std::fmt::Write as _;

use super::{
    config::{Config, GPU, Slicing},
    devices::Devices,
    glob::quoted,
    notes::{counted, one_line},
};

/// A policy file.
pub(crate) fn policy(config: &Config, source: &str) -> String {
    let mut text = String::new();
    let name = if config.name.is_empty() { String::new() } else { format!(", {}", config.name) };
    let _ = writeln!(text, "# What is offered of each GPU, converted from {}{name}.", one_line(source));
    text.push_str("# The first rule that matches a GPU decides.\n");
    text.push_str("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules:\n");
    for (glob, resource) in
        config.patterns.iter().map(|one| (one.glob.as_str(), one.resource.as_str())).chain([("*", GPU)])
    {
        let is_all = glob.chars().all(|c| c == '*') && !glob.is_empty();
        rules(&mut text, config, (!is_all).then_some(glob), resource);
        if is_all {
            break;
        }
    }
    text
}

/// The rules for the GPUs of one pattern: those that are listed, and then the others.
fn rules(text: &mut String, config: &Config, product: Option<&str>, resource: &str) {
    let product = product.map(|glob| format!("productName: {}", quoted(glob)));
    for slicing in config.slicing.iter().filter(|one| one.resource == resource) {
        match &slicing.devices {
            Devices::All => return shared(text, config, slicing, product.as_deref()),
            Devices::Listed { uuids, unmatched } => {
                for uuid in uuids {
                    let matched = format!("uuid: {}", quoted(uuid));
                    let both =
                        product.as_ref().map_or_else(|| matched.clone(), |product| format!("{matched}, {product}"));
                    shared(text, config, slicing, Some(&both));
                }
                for what in unmatched {
                    let replicas = slicing.replicas;
                    let _ = writeln!(
                        text,
                        "# Missing: {what}, {replicas} shares. Find the UUID with nvidia-smi -L, and copy"
                    );
                    text.push_str("# the form of a rule with shares:\n");
                    let _ = writeln!(
                        text,
                        "# - match: {{uuid: \"GPU-...\"}}\n#   offer: [whole, shares]\n#   shares: {{count: {replicas}}}"
                    );
                }
            }
        }
    }
    let is_mps = config.mps.iter().any(|name| name == resource || name.strip_suffix(".shared") == Some(resource));
    let why =
        if is_mps { "shared by MPS before, which isn't converted" } else { "not time-sliced before, so not shared" };
    let _ = writeln!(text, "# {resource}: {why}; add shares to the offer to share them.");
    let matched = product.map(|product| format!("match: {{{product}}}\n  ")).unwrap_or_default();
    let _ = writeln!(text, "- {matched}offer: [whole]");
}

fn shared(text: &mut String, config: &Config, slicing: &Slicing, matched: Option<&str>) {
    let names = slicing.names.join(" or ");
    let replicas = counted(slicing.replicas, "replica", "replicas");
    let _ = writeln!(text, "# {names}: {replicas} of each GPU.");
    let matched = matched.map(|matched| format!("match: {{{matched}}}\n  ")).unwrap_or_default();
    let (order, policy) = if config.packed { ("pack", "packed") } else { ("spread", "distributed") };
    let _ = write!(
        text,
        "# The device plugin offered them as replicas only. Here a GPU is both, until someone uses it; offer [shares] to\n\
         # never hand one out whole.\n\
         - {matched}offer: [whole, shares]\n  \
         shares:\n    \
         count: {}\n    \
         # A share counts as its part of the GPU's memory, so that the shares of one GPU never add up to more than it\n    \
         # has. Replicas had no such limit: a pod that needs more asks with capacity.requests.memory.\n    \
         order: {order} # as with sharedDevicesAllocationPolicy: {policy}\n    \
         # Only watched, as the device plugin limits no one; evict and kill end the pods that take more than their part.\n    \
         guard: {{mode: observe, grace: 10s}}\n  \
         # Where the API server lacks the features for both, the replicas are what pods had.\n  \
         fallback: shares\n",
        slicing.replicas
    );
}

/// A `ConfigMap` that holds policy files, each with its key.
pub(crate) fn config_map(policies: &[(String, String)]) -> String {
    let mut text = String::from(
        "# The policy files, for the driver's pods to mount.\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  \
         name: aliquot-policy\n  namespace: aliquot\ndata:\n",
    );
    for (key, policy) in policies {
        let _ = writeln!(text, "  {}: |", quoted(key));
        for line in policy.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::convert::{
        notes::{Faults, Notes},
        source,
        tree::{At, documents},
    };

    fn converted(text: &str) -> (String, Value) {
        let (mut notes, mut faults) = (Notes::default(), Faults::default());
        let configs = source::configs("c", text, &mut notes, &mut faults);
        assert!(faults.is_empty(), "{faults}");
        let text = policy(&configs[0], "c\nkind: Evil");
        let mut all = documents(&At::file("policy"), &text).unwrap();
        assert!(all.len() == 1 && all[0]["kind"] == "Policy", "{text}");
        let map = documents(&At::file("map"), &config_map(&[("policy.yaml".into(), text.clone())])).unwrap();
        assert_eq!(map[0]["data"]["policy.yaml"], text.as_str(), "the ConfigMap holds the very file");
        (text, all.remove(0)["rules"].take())
    }

    fn shares(count: u64, order: &str) -> Value {
        json!({"count": count, "order": order, "guard": {"mode": "observe", "grace": "10s"}})
    }

    #[test]
    fn replicas_become_shares_and_the_rest_stays_whole() {
        let (_, rules) = converted("sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 10}]}}");
        let shared =
            |count| json!({"offer": ["whole", "shares"], "shares": shares(count, "spread"), "fallback": "shares"});
        assert_eq!(rules, json!([shared(10)]));
        let (_, rules) = converted("version: v1");
        assert_eq!(rules, json!([{"offer": ["whole"]}]));
        let (text, rules) = converted("sharing: {mps: {resources: [{name: gpu, replicas: 10}]}}");
        assert_eq!(rules, json!([{"offer": ["whole"]}]));
        assert!(text.contains("MPS"), "{text}");
    }

    #[test]
    fn patterns_are_rules_in_their_order() {
        let (_, rules) = converted(
            "resources: {gpus: [{pattern: '*A\"1*', name: a}, {pattern: L40, name: l}, {pattern: '*', name: x}]}
             \nflags: {plugin: {sharedDevicesAllocationPolicy: packed}}
             \nsharing: {timeSlicing: {resources: [{name: l, replicas: 2}]}}",
        );
        assert_eq!(
            rules,
            json!([
                {"match": {"productName": "*A\"1*"}, "offer": ["whole"]},
                {"match": {"productName": "L40"}, "offer": ["whole", "shares"], "shares": shares(2, "pack"),
                    "fallback": "shares"},
                {"offer": ["whole"]},
            ])
        );
    }

    #[test]
    fn listed_gpus_are_rules_by_uuid_and_indices_are_left_to_fill_in() {
        let uuids = ["GPU-b1028956-cfa2-0990-bf4a-5da9abb51763", "GPU-00000000-cfa2-0990-bf4a-5da9abb51763"];
        let (text, rules) = converted(&format!(
            "sharing: {{timeSlicing: {{resources: [{{name: gpu, replicas: 4, devices: [{}, 1]}}, {{name: gpu, replicas: 2, \
             devices: [{}]}}]}}}}",
            uuids[0], uuids[1]
        ));
        assert_eq!(rules[0]["match"], json!({"uuid": uuids[0]}));
        assert_eq!((&rules[0]["shares"]["count"], &rules[1]["shares"]["count"]), (&json!(4), &json!(2)));
        assert_eq!(rules[2], json!({"offer": ["whole"]}));
        assert!(text.contains("# Missing: the GPU of index 1, 4 shares"), "{text}");
    }
}
