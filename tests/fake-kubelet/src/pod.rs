//! What the kubelet needs to know of a pod, and what it makes of it.
use std::collections::BTreeMap;

/// A pod as far as its claims go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodSpec {
    /// Also the namespace of its claims.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID; claims are reserved for it.
    pub uid: String,
    /// `spec.resourceClaims`, resolved to the claims' own names. The claim made for extended resources is one more.
    pub claims: Vec<PodClaim>,
    /// Containers and what they use.
    pub containers: Vec<Container>,
}

/// An entry of `spec.resourceClaims`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodClaim {
    /// What containers call it.
    pub name: String,
    /// The `ResourceClaim` object's name.
    pub claim: String,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// The container's name.
    pub name: String,
    /// `resources.claims`.
    pub uses: Vec<ClaimUse>,
}

/// An entry of a container's `resources.claims`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimUse {
    /// A [`PodClaim::name`].
    pub claim: String,
    /// One request of the claim; none means all of them.
    pub request: Option<String>,
}

impl PodSpec {
    /// A pod with one container, `main`, that uses every request of every claim.
    pub fn simple(namespace: &str, name: &str, uid: &str, claims: &[&str]) -> Self {
        let uses = claims.iter().map(|claim| ClaimUse { claim: (*claim).to_owned(), request: None }).collect();
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            claims: claims.iter().map(|c| PodClaim { name: (*c).to_owned(), claim: (*c).to_owned() }).collect(),
            containers: vec![Container { name: "main".to_owned(), uses }],
        }
    }
}

/// A pod whose claims are prepared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunningPod {
    /// By container, the CDI device names that the container runtime is given, in order; it may repeat one.
    pub containers: BTreeMap<String, Vec<String>>,
}
