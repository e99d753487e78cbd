//! What the driver knows of GPUs, claims and others without asking anyone.
use std::fmt;

use aliquot_model::GpuUuid;
use dra_plugin::ClaimRef;
use prometheus_client::encoding::DescriptorEncoder;

use super::{
    Sources,
    series::{Family, alone},
};
use crate::{
    discovery::View,
    facts::Tally,
    health::Health,
    others::Known,
    sharing::guard::{Actions, Key, ShareUsage, Usage},
    sweep::{report::Report, types::Reason},
};

/// Writes what the driver knows without asking anyone.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, sources: &Sources, claims: usize) -> fmt::Result {
    let (well, broken) = match &*sources.view.borrow() {
        View::Ready(found) => (found.inventory.gpus().len(), found.inventory.broken().len()),
        View::Searching | View::Unavailable(_) => (0, 0),
    };
    Family::gauge("aliquot_gpus", "GPUs that answer").encode(encoder, alone(well))?;
    Family::gauge("aliquot_gpus_broken", "GPUs that the driver lists and that don't answer")
        .encode(encoder, alone(broken))?;
    Family::gauge("aliquot_claims", "Claims with a record on this node").encode(encoder, alone(claims))?;
    let policy = sources.policy.borrow().clone();
    Family::gauge(
        "aliquot_policy_in_force",
        "1 if the policy file as it is now is in force, 0 if it is refused and an earlier one, or none, is",
    )
    .encode(encoder, alone(u64::from(policy.policy().is_some() && policy.trouble().is_none())))?;
    Family::counter("aliquot_policy_refused", "Policy files that were refused")
        .encode(encoder, alone(policy.refused()))?;
    let known = sources.others.borrow().clone().unwrap_or_default();
    others(encoder, &known)?;
    health(encoder, &sources.health.borrow())?;
    sweep(encoder, &sources.report.borrow())?;
    facts(encoder, *sources.facts.borrow())?;
    shares(encoder, &sources.usage.borrow())
}

/// What the sweep thinks and did.
fn sweep(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> fmt::Result {
    let count = |label: &str| report.count(label);
    Family::gauge("aliquot_claims_stale", "Claims on this node that are stale and not removed yet")
        .encode(encoder, alone(count("stale")))?;
    Family::gauge(
        "aliquot_claims_suspect",
        "Claims on this node that have looked stale for less than the grace period",
    )
    .encode(encoder, alone(count("suspect")))?;
    Family::gauge(
        "aliquot_records_quarantined",
        "Records on this node that can't be used; their devices stay unavailable",
    )
    .encode(encoder, alone(report.quarantined))?;
    let removed = Reason::ALL.map(|reason| {
        let count = report.removed.get(&reason).copied().unwrap_or_default();
        (vec![("reason", reason.label())], count)
    });
    Family::counter("aliquot_sweep_removed", "Stale claims that were removed").encode(encoder, removed)?;
    let silent = [("kubelet", report.kubelet_silent), ("api", report.api_silent)];
    Family::counter(
        "aliquot_sweep_unanswered",
        "Questions of the sweep that were not answered, so that nothing was removed by them",
    )
    .encode(encoder, silent.map(|(source, count)| (vec![("source", source)], count)))
}

/// What is told in the status of claims.
fn facts(encoder: &mut DescriptorEncoder<'_>, tally: Tally) -> fmt::Result {
    let Tally { written, refused, failed, missing } = tally;
    let writes = [("written", written), ("refused", refused), ("failed", failed)];
    Family::counter(
        "aliquot_claim_status_writes",
        "Writes of status.devices in claims, which says what each claim was given",
    )
    .encode(encoder, writes.map(|(outcome, count)| (vec![("outcome", outcome)], count)))?;
    Family::gauge("aliquot_claim_status_missing", "Prepared claims whose status.devices is not written yet")
        .encode(encoder, alone(missing))
}

/// Who else hands out GPUs.
fn others(encoder: &mut DescriptorEncoder<'_>, known: &Known) -> fmt::Result {
    let by = known.elsewhere.gpus.iter().flat_map(|(gpu, others)| {
        let on = move |by: &str| vec![("uuid", gpu.to_string()), ("by", by.to_owned())];
        others.by.iter().map(move |other| (on(other.name()), 1_u64))
    });
    Family::gauge(
        "aliquot_gpu_handed_out_elsewhere",
        "1 for each GPU that a device plugin (by its resource) or another DRA driver (by its name) hands out too",
    )
    .encode(encoder, by)?;
    let held = known.elsewhere.gpus.iter().map(|(gpu, others)| (vec![("uuid", gpu.to_string())], others.held.len()));
    Family::gauge(
        "aliquot_gpu_held_elsewhere",
        "Pods that hold a GPU through a device plugin or another DRA driver, as last seen",
    )
    .encode(encoder, held)?;
    Family::gauge(
        "aliquot_other_plugins_readable",
        "1 if the kubelet tells what device plugins registered, 0 if not, so that these are not noticed",
    )
    .encode(encoder, alone(u64::from(known.kubelet_answers)))
}

/// What GPUs have reported, and which of them are given to nobody for it.
fn health(encoder: &mut DescriptorEncoder<'_>, health: &Health) -> fmt::Result {
    let ill = health.ward.iter().map(|(gpu, illness)| {
        (vec![("uuid", gpu.to_string()), ("action", illness.cause.remedy().name().to_owned())], 1_u64)
    });
    Family::gauge("aliquot_gpu_ill", "1 for each GPU that new claims don't get until something is done")
        .encode(encoder, ill)?;
    let heard = health
        .heard
        .iter()
        .map(|((gpu, xid), count)| (vec![("uuid", gpu.to_string()), ("xid", xid.0.to_string())], *count));
    Family::counter("aliquot_gpu_xid_errors", "Errors that NVIDIA's driver reported of a GPU, by their Xid")
        .encode(encoder, heard)
}

/// What the memory guard measured at its last reading.
fn shares(encoder: &mut DescriptorEncoder<'_>, usage: &Usage) -> fmt::Result {
    let of = |value: fn(&ShareUsage) -> u64| {
        usage.shares.iter().map(move |(key, share)| (labels(key), value(share))).collect::<Vec<_>>()
    };
    Family::gauge(
        "aliquot_share_memory_used",
        "GPU memory that the pods of a claim use; claims of one pod on one GPU can't be told apart, and are one series \
         with their names joined by commas",
    )
    .of("bytes")
    .encode(encoder, of(|share| share.used.bytes()))?;
    Family::gauge(
        "aliquot_share_memory_limit",
        "GPU memory that a claim's shares have, or those of claims that can't be told apart",
    )
    .of("bytes")
    .encode(encoder, of(|share| share.limit.bytes()))?;
    let over = of(|share| share.over_since.is_some().into());
    Family::gauge("aliquot_share_memory_exceeded", "1 while a claim uses more than its shares have")
        .encode(encoder, over)?;
    let on = |gpu: &GpuUuid| vec![("uuid", gpu.to_string())];
    Family::gauge(
        "aliquot_unattributed_memory_used",
        "GPU memory that processes use without being known to hold a share of that GPU",
    )
    .of("bytes")
    .encode(encoder, usage.unattributed.iter().map(|(gpu, used)| (on(gpu), used.bytes())))?;
    let read = usage.unattributed.keys().map(|gpu| (on(gpu), 1_u64));
    Family::gauge(
        "aliquot_guard_readable",
        "1 if the processes of a GPU with shares in use could be listed, 0 if not, so that these are not guarded",
    )
    .encode(encoder, read.chain(usage.unread.iter().map(|gpu| (on(gpu), 0))))?;
    Family::gauge("aliquot_guard_blind", "1 if no process can be traced to its pod, so that no share is guarded")
        .encode(encoder, alone(u64::from(usage.blind.is_some())))?;
    let Actions { observed, evicted, killed, refused, failed } = usage.actions;
    let actions =
        [("observed", observed), ("evicted", evicted), ("killed", killed), ("refused", refused), ("failed", failed)];
    Family::counter("aliquot_guard_actions", "What the memory guard did about claims over their share")
        .encode(encoder, actions.map(|(action, count)| (vec![("action", action)], count)))
}

/// A pod's claims are of its own namespace.
fn labels(key: &Key) -> Vec<(&'static str, String)> {
    let namespace = key.claims.first().map(|claim| claim.namespace().to_owned()).unwrap_or_default();
    let names: Vec<&str> = key.claims.iter().map(ClaimRef::name).collect();
    vec![("uuid", key.gpu.to_string()), ("namespace", namespace), ("claim", names.join(","))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_joined_with_others_by_the_namespace_and_name_of_its_claim() {
        let claim = |name: &str| ClaimRef::new("team", name, format!("uid-{name}")).unwrap();
        let labels = |names: &[&str]| {
            let key = Key { gpu: "GPU-1".parse().unwrap(), claims: names.iter().map(|name| claim(name)).collect() };
            super::labels(&key).into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(labels(&["a"]), ["GPU-1", "team", "a"]);
        assert_eq!(labels(&["b", "a"]), ["GPU-1", "team", "a,b"]);
    }
}
