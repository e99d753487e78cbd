//! What is said of a claim that is stuck: what keeps it, and what to do. Pure.
use crate::{
    judge::Stuck,
    objects::{Claim, Consumer},
};

/// In which way a claim is stuck; each is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Deleting,
    GonePods,
    GoneGpu,
    UnseenGpu,
}

/// As many names are told; the rest is counted.
const MOST_NAMES: usize = 5;

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Deleting, Self::GonePods, Self::GoneGpu, Self::UnseenGpu];

    pub(super) fn of(stuck: &Stuck) -> Self {
        match stuck {
            Stuck::Deleting => Self::Deleting,
            Stuck::GonePod(_) => Self::GonePods,
            Stuck::GoneGpu(_) => Self::GoneGpu,
            Stuck::UnseenGpu(_) => Self::UnseenGpu,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Deleting => "deleting",
            Self::GonePods => "reserved_for_gone_pods",
            Self::GoneGpu => "gpu_gone",
            Self::UnseenGpu => "gpu_unseen",
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Deleting => "ClaimStuckDeleting",
            Self::GonePods => "ClaimReservedForGonePods",
            Self::GoneGpu => "ClaimGPUGone",
            Self::UnseenGpu => "ClaimGPUUnseen",
        }
    }

    /// The Event's text, for what a live look has confirmed of this state.
    pub(super) fn text(self, claim: &Claim, confirmed: &[Stuck], after: &str, releases: bool) -> String {
        let consumers = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
        match self {
            Self::Deleting => deleting(claim, consumers, after),
            Self::GonePods => gone_pods(consumers, confirmed, after, releases),
            Self::GoneGpu => gone_gpus(confirmed, after),
            Self::UnseenGpu => unseen_gpus(confirmed, after),
        }
    }
}

fn deleting(claim: &Claim, consumers: &[Consumer], after: &str) -> String {
    let finalizers = claim.metadata.finalizers.as_deref().unwrap_or_default().join(", ");
    let why = if consumers.is_empty() {
        "nothing uses it. kube-controller-manager frees such claims: see whether it runs and what its log says of this claim"
            .to_owned()
    } else {
        let users = names(consumers.iter().map(|consumer| format!("{}/{}", consumer.resource, consumer.name)));
        format!("it is reserved for {users}: it goes when they have ended, so delete them to have its GPU back")
    };
    let waits = if finalizers.is_empty() { String::new() } else { format!(" (finalizers: {finalizers})") };
    format!("being deleted for more than {after} and still allocated{waits}; {why}")
}

fn gone_pods(consumers: &[Consumer], confirmed: &[Stuck], after: &str, releases: bool) -> String {
    let is_gone = |consumer: &&Consumer| {
        confirmed.iter().any(|stuck| matches!(stuck, Stuck::GonePod(uid) if uid.to_string() == consumer.uid))
    };
    let pods = names(consumers.iter().filter(is_gone).map(|consumer| consumer.name.clone()));
    let remedy = if releases {
        "aliquot-controller removes these reservations if they are still there in as long again"
    } else {
        "aliquot-controller does it where it runs with --release-stuck-claims"
    };
    format!(
        "reserved for pods that have been gone for more than {after}: {pods}. kube-controller-manager removes such \
         reservations: see whether it runs and what its log says of this claim; {remedy}"
    )
}

fn gpus(confirmed: &[Stuck]) -> String {
    names(confirmed.iter().filter_map(|stuck| match stuck {
        Stuck::GoneGpu(held) | Stuck::UnseenGpu(held) => Some(format!("{} of pool {}", held.gpu, held.pool)),
        Stuck::Deleting | Stuck::GonePod(_) => None,
    }))
}

fn unseen_gpus(confirmed: &[Stuck], after: &str) -> String {
    format!(
        "allocated to {}, and for more than {after} the driver has seen no GPU on that node at all: NVIDIA's driver may be \
         stopped or in an update, and pods may run on. Run \"aliquot-driver doctor\" on the node before anything is deleted",
        gpus(confirmed)
    )
}

fn gone_gpus(confirmed: &[Stuck], after: &str) -> String {
    format!(
        "allocated to {}, which its node hasn't published for more than {after}: the GPU has failed or was taken out. Run \
         \"aliquot-driver doctor\" on the node; delete the claim's pods, so that they get another GPU",
        gpus(confirmed)
    )
}

fn names(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = all.collect();
    all.sort();
    let more = all.len().saturating_sub(MOST_NAMES);
    all.truncate(MOST_NAMES);
    let text = all.join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::index::{Held, Uid};

    fn claim(reserved: &Value) -> Claim {
        serde_json::from_value(json!({"metadata": {"name": "c", "finalizers": ["example.com/mine"]},
            "status": {"reservedFor": reserved}}))
        .unwrap()
    }

    fn pods(names: &[&str]) -> Value {
        names.iter().map(|name| json!({"resource": "pods", "name": name, "uid": format!("uid-{name}")})).collect()
    }

    #[test]
    fn a_claim_in_deletion_names_its_users_or_the_one_who_should_free_it() {
        let used = State::Deleting.text(&claim(&pods(&["a"])), &[Stuck::Deleting], "10m", false);
        assert!(used.contains("pods/a") && used.contains("example.com/mine") && used.contains("10m"), "{used}");
        let unused = State::Deleting.text(&claim(&json!([])), &[Stuck::Deleting], "10m", false);
        assert!(unused.contains("kube-controller-manager"), "{unused}");
    }

    #[test]
    fn only_the_pods_that_are_gone_are_named_and_not_too_many() {
        let confirmed = [Stuck::GonePod(Uid::new("uid-b"))];
        let text = State::GonePods.text(&claim(&pods(&["a", "b"])), &confirmed, "10m", false);
        assert!(text.contains(": b.") && text.contains("--release-stuck-claims"), "{text}");
        let many = ["a", "b", "c", "d", "e", "f", "g"];
        let confirmed: Vec<Stuck> = many.iter().map(|name| Stuck::GonePod(Uid::new(&format!("uid-{name}")))).collect();
        let text = State::GonePods.text(&claim(&pods(&many)), &confirmed, "10m", true);
        assert!(text.contains("a, b, c, d, e and 2 more"), "{text}");
    }

    #[test]
    fn a_gpu_that_is_gone_is_named_with_its_pool() {
        let held = Held { pool: "gpu.aliquot.dev/n1".into(), gpu: "gpu-0000-41-00".into() };
        let unseen = State::UnseenGpu.text(&claim(&json!([])), &[Stuck::UnseenGpu(held.clone())], "10m", false);
        assert!(unseen.contains("gpu-0000-41-00 of pool") && !unseen.contains("delete the claim's pods"), "{unseen}");
        let text = State::GoneGpu.text(&claim(&json!([])), &[Stuck::GoneGpu(held)], "10m", false);
        assert!(text.contains("gpu-0000-41-00 of pool gpu.aliquot.dev/n1") && text.contains("doctor"), "{text}");
    }
}
