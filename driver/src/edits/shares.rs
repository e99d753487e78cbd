//! What a container is told about its shares. For information only: nothing that counts is taken from a container.
use aliquot_model::Memory;

use crate::claim::Record;

/// `ALIQUOT_SHARES` and `ALIQUOT_SHARE_MEMORY_BYTES`: the sums over one request, in the form that any program reads.
///
/// A container that uses several requests gets the plain variables of one of them; those that end in the request's name
/// tell them apart, unless requests of several claims have one name. Whoever only administers a GPU has no share of it.
pub(super) fn env(record: &Record, request: &str) -> Vec<String> {
    let held = record.devices.iter().filter(|held| held.request == request && !held.admin_access);
    let takes = held.filter_map(|held| Some(held.share?.takes));
    let shares: u32 = takes.clone().map(|takes| takes.shares).sum();
    let memory: Memory = takes.map(|takes| takes.memory).sum();
    if shares == 0 {
        return Vec::new();
    }
    let suffix = request.to_ascii_uppercase().replace('-', "_");
    ["", "_"]
        .into_iter()
        .flat_map(|joint| {
            let end = if joint.is_empty() { "" } else { &suffix };
            [
                format!("ALIQUOT_SHARES{joint}{end}={shares}"),
                format!("ALIQUOT_SHARE_MEMORY_BYTES{joint}{end}={}", memory.bytes()),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::testing::share;

    #[test]
    fn a_container_hears_of_the_sum_of_its_request() {
        let mut record = share("u1", "gpu-0", 1, 8);
        record.devices.push(share("u1", "gpu-1", 3, 24).devices.remove(0));
        record.devices[0].request = "my-gpu".into();
        record.devices[1].request = "my-gpu".into();
        assert_eq!(
            env(&record, "my-gpu"),
            [
                "ALIQUOT_SHARES=4",
                "ALIQUOT_SHARE_MEMORY_BYTES=34359738368",
                "ALIQUOT_SHARES_MY_GPU=4",
                "ALIQUOT_SHARE_MEMORY_BYTES_MY_GPU=34359738368"
            ]
        );
        assert!(env(&record, "other").is_empty());
        record.devices.iter_mut().for_each(|held| held.admin_access = true);
        assert!(env(&record, "my-gpu").is_empty());
    }
}
