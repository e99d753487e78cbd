//! How a claim is told of others: errors end in events of its namespace, where other namespaces' names have no business.
use std::fmt;

use aliquot_model::Memory;
use dra_plugin::ClaimRef;

use super::hold::Clash;

/// A claim as another one's user may know it.
struct Other<'a> {
    claim: &'a ClaimRef,
    to: &'a ClaimRef,
}

impl fmt::Display for Other<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.claim.namespace() == self.to.namespace() {
            write!(f, "claim {} (UID {})", self.claim, self.claim.uid())
        } else {
            f.write_str("a claim in another namespace")
        }
    }
}

/// Why `to` can't be prepared, what stands in its way, and what to do.
pub(super) fn clash(clash: &Clash, to: &ClaimRef) -> String {
    let other = |claim| Other { claim, to };
    match clash {
        Clash::Held { device, held, by } => {
            let held = if device == held { String::new() } else { format!(" as {held}") };
            format!(
                "device {device} is still held{held} by {}, whose pod has not ended on this node; the kubelet tries again",
                other(by)
            )
        }
        Clash::Full { device, offered, taken, by } => {
            let amount = |memory: Memory| memory.to_string();
            format!(
                "device {device} has no room: with this claim {} shares and {} of memory would be in use, but it offers \
                 {} shares and {}; {} holds some of it, and the kubelet tries again",
                taken.shares,
                amount(taken.memory),
                offered.shares,
                amount(offered.memory),
                other(by)
            )
        }
        Clash::TimeSlice { gpu, wanted, set, by } => format!(
            "this claim asks for time slice {wanted}, but {} set {set} on GPU {gpu}, and a GPU has one; ask for the same, \
             leave it out of the parameters to take what is set, or wait: the kubelet tries again",
            other(by)
        ),
        Clash::Quarantined { device, uid } => format!(
            "device {device} may still be in use by the claim with UID {uid}, whose record on this node can't be read; an \
             administrator finds the file and the remedy in the event RecordQuarantined of the Node, and the kubelet tries \
             again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use aliquot_params::TimeSlice;

    use super::*;

    #[test]
    fn another_namespace_is_not_named() {
        let claim = |namespace: &str| ClaimRef::new(namespace, "a", "u1").unwrap();
        let (wanted, set) = (TimeSlice::Short, TimeSlice::Long);
        let told = |namespace| {
            let found = Clash::TimeSlice { gpu: "GPU-1".parse().unwrap(), wanted, set, by: claim(namespace) };
            clash(&found, &ClaimRef::new("ours", "b", "u2").unwrap())
        };
        assert!(told("ours").contains("claim ours/a (UID u1) set Long"), "{}", told("ours"));
        assert!(told("theirs").contains("a claim in another namespace set Long"));
        assert!(!told("theirs").contains("theirs"));
    }
}
