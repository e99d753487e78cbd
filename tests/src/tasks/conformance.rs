//! `cargo xtask conformance`: the conformance requirement's two tests, on the cluster of KUBECONFIG.
use std::time::Duration;

use clap::Args;

use super::{Error, interrupted, on_cluster};
use crate::conformance::{self, Cluster, IMAGE, NAMESPACE};

/// Options of `cargo xtask conformance`.
///
/// The driver runs on a node of the cluster, and an overlay for nvidia.com/gpu is applied:
/// kubectl apply -k deploy/overlays/extended-resource, or extended-resource-shares.
#[derive(Debug, Args)]
pub(super) struct Conformance {
    /// What the pods run: an image with sh, sleep, ls, mknod and cat. NVIDIA's programs come from the node.
    #[arg(long, env = "ALIQUOT_CONFORMANCE_IMAGE", default_value = IMAGE)]
    image: String,
    /// The namespace that is made for the pods, and deleted afterwards.
    #[arg(long, env = "ALIQUOT_CONFORMANCE_NAMESPACE", default_value = NAMESPACE)]
    namespace: String,
    /// How long a pod may take to run, the pull of its image included, or to be gone, in seconds.
    #[arg(long, env = "ALIQUOT_CONFORMANCE_TIMEOUT", default_value_t = 300)]
    timeout: u64,
}

impl Conformance {
    /// Takes the steps, and prints what each showed; the last line is the sum.
    pub(super) fn run(self) -> Result<(), Error> {
        on_cluster(async |client| {
            let cluster = Cluster::new(client, &self.namespace, Duration::from_secs(self.timeout));
            let report =
                Box::pin(conformance::run(&cluster, &self.image, interrupted(), |step| println!("{step}"))).await?;
            println!("{}", report.sum());
            Ok::<_, conformance::Error>(report.passed())
        })
    }
}
