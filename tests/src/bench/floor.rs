//! The least that preparing a claim costs: the claim read, a record and a spec written.
use std::{fs, io, path::PathBuf};

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use kubelet_api::dra::v1::Claim;

/// As large as a record and a spec of one GPU are.
const RECORD: usize = 400;
const SPEC: usize = 4096;

/// Does the least, and nothing else.
#[derive(Clone)]
pub struct Floor {
    client: Client,
    dir: PathBuf,
}

/// Why the floor can't be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The claim can't be read.
    #[error(transparent)]
    Read(#[from] kube::Error),
    /// The files can't be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

impl Floor {
    /// With files in `dir`, which should be on the file system that the driver uses.
    pub fn new(client: Client, dir: PathBuf) -> Self {
        Self { client, dir }
    }

    /// For one claim.
    pub async fn prepare(&self, claim: &Claim) -> Result<(), Error> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        api.get(&claim.name).await?;
        self.write(&format!("{}.record", claim.uid), RECORD)?;
        self.write(&format!("{}.spec", claim.uid), SPEC)?;
        Ok(())
    }

    fn write(&self, name: &str, size: usize) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{name}"));
        fs::write(&temporary, vec![b'x'; size])?;
        fs::rename(temporary, self.dir.join(name))
    }
}
