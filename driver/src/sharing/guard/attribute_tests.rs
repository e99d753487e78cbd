//! Who is counted for what.
use proptest::prelude::*;

use super::*;
use crate::sharing::guard::testing::{claim, gib, gpu, holding, key, located, process};

fn used(attribution: &Attribution, claims: &[&str]) -> Option<(u64, u64)> {
    let share = attribution.shares.get(&key(0, claims))?;
    Some((share.used.bytes() >> 30, share.limit.bytes() >> 30))
}

#[test]
fn the_pods_of_one_claim_count_together() {
    let found = attribute(
        &[located(0, vec![process(1, "p", Some(3)), process(2, "q", Some(4)), process(3, "p", Some(1))])],
        &[holding("a", 0, 8, &["p", "q"])],
    );
    assert_eq!(used(&found, &["a"]), Some((8, 8)));
}

#[test]
fn a_pod_with_two_claims_on_a_gpu_is_measured_by_their_sum_only() {
    let holdings = [holding("a", 0, 8, &["p"]), holding("b", 0, 2, &["p"])];
    let found = attribute(&[located(0, vec![process(1, "p", Some(10))])], &holdings);
    assert_eq!(used(&found, &["a", "b"]), Some((10, 10)));
    assert_eq!(found.shares.len(), 1);
}

#[test]
fn where_claims_overlap_each_set_and_their_union_have_to_fit() {
    // q may use a; p may use a and b; r may use b and c.
    let holdings = [holding("a", 0, 4, &["p", "q"]), holding("b", 0, 4, &["p", "r"]), holding("c", 0, 4, &["r"])];
    let processes = vec![process(1, "p", Some(3)), process(2, "q", Some(5)), process(3, "r", Some(1))];
    let found = attribute(&[located(0, processes)], &holdings);
    assert_eq!(used(&found, &["a"]), Some((5, 4)));
    assert_eq!(used(&found, &["a", "b"]), Some((8, 8)));
    assert_eq!(used(&found, &["b", "c"]), Some((1, 8)));
    assert_eq!(used(&found, &["a", "b", "c"]), Some((9, 12)));
    assert_eq!(found.shares.len(), 4);
}

#[test]
fn a_stranger_or_a_holder_of_another_gpu_is_unattributed() {
    let readings = [located(0, vec![process(1, "p", Some(3)), process(2, "", Some(1)), process(3, "x", None)])];
    let found = attribute(&readings, &[holding("a", 0, 8, &[]), holding("b", 1, 8, &["p"])]);
    assert_eq!(used(&found, &["a"]), Some((0, 8)));
    assert_eq!(found.unattributed[&gpu(0)], gib(4));
    assert_eq!(found.shares.len(), 1, "GPU 1 wasn't read");
}

#[test]
fn a_process_that_is_listed_twice_counts_once_and_an_unknown_use_not_at_all() {
    let processes =
        vec![process(1, "p", Some(3)), process(1, "p", None), process(1, "p", Some(3)), process(2, "p", None)];
    let found = attribute(&[located(0, processes)], &[holding("a", 0, 8, &["p"])]);
    assert_eq!(used(&found, &["a"]), Some((3, 8)));
}

#[test]
fn a_process_that_procfs_does_not_know_is_unattributed() {
    let unknown = process(9, "", Some(5)).0;
    let reading = Located { untraced: vec![unknown, unknown], ..located(0, vec![process(1, "p", Some(3))]) };
    let found = attribute(&[reading], &[holding("a", 0, 8, &["p"])]);
    assert_eq!((used(&found, &["a"]), found.unattributed[&gpu(0)]), (Some((3, 8)), gib(5)));
}

proptest! {
    /// Pods that keep to what they hold, however it is spread over their claims, are over nowhere.
    #[test]
    fn no_claim_is_accused_while_every_pod_takes_from_its_own(
        limits in prop::collection::vec(1..20_u64, 4),
        pods in prop::collection::vec(prop::collection::vec((0..4_usize, 0..20_u64), 1..4), 0..5),
    ) {
        let mut left = limits.clone();
        let mut holdings: Vec<Holding> =
            limits.iter().enumerate().map(|(at, limit)| holding(&format!("c{at}"), 0, *limit, &[])).collect();
        let mut processes = Vec::new();
        for (at, takes) in pods.iter().enumerate() {
            let mut total = 0;
            for (claim, amount) in takes {
                let pod = dra_plugin::PodRef { name: format!("p{at}"), uid: format!("p{at}") };
                if !holdings[*claim].pods.contains(&pod) {
                    holdings[*claim].pods.push(pod);
                }
                let taken = (*amount).min(left[*claim]);
                left[*claim] -= taken;
                total += taken;
            }
            processes.push(process(u32::try_from(at).unwrap() + 2, &format!("p{at}"), Some(total)));
        }
        let found = attribute(&[located(0, processes)], &holdings);
        for (key, share) in &found.shares {
            prop_assert!(share.used <= share.limit, "{:?}", key);
        }
        // And every claim is in some figure.
        for at in 0..limits.len() {
            let named = claim(&format!("c{at}"));
            prop_assert!(found.shares.keys().any(|key| key.claims.contains(&named)));
        }
    }
}
