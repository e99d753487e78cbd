//! `cargo xtask conformance`: the conformance requirement's two tests, on the cluster of KUBECONFIG.
use std::time::Duration;

use clap::Args;
use kube::Client;

use super::Error;
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?.block_on(self.steps())
    }

    async fn steps(self) -> Result<(), Error> {
        let client = Client::try_default().await.map_err(|error| Error::Broke(error.into()))?;
        let cluster = Cluster::new(client, &self.namespace, Duration::from_secs(self.timeout));
        let steps = conformance::run(&cluster, &self.image, super::interrupted(), |step| println!("{step}"));
        let report = Box::pin(steps).await;
        let report = report.map_err(|error| Error::Broke(error.into()))?;
        println!("{}", report.sum());
        if report.passed() {
            Ok(())
        } else {
            Err(Error::Broke("not all steps came out as they must, as told above".into()))
        }
    }
}
