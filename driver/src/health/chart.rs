//! The file in which the ill GPUs are written down, for as long as the node isn't started anew.
use std::path::Path;

use owned_dir::{Access, Dir};
use serde::{Deserialize, Serialize};

use super::Ward;

const FILE: &str = "health.json";
/// Of a node with more GPUs than there are.
const LARGEST: u64 = 1 << 20;

/// Where it is kept. A file that can't be read or written costs what was known after a restart, and nothing else.
#[derive(Debug)]
pub(crate) struct Chart {
    dir: Dir,
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    boot_id: String,
    gpus: Ward,
}

impl Chart {
    /// In the run root, for one boot.
    pub(crate) fn open(run: &Path, boot_id: String) -> Result<Self, owned_dir::Error> {
        Ok(Self { dir: Dir::open(run)?, boot_id })
    }

    /// What was written in a boot, for whoever only looks.
    pub(crate) fn look(run: &Path, boot_id: &str) -> Result<Ward, owned_dir::Error> {
        let chart = Dir::existing(run)?.map(|dir| Self { dir, boot_id: boot_id.to_owned() });
        Ok(chart.map(|chart| chart.read()).unwrap_or_default())
    }

    /// What was written in this boot.
    pub(crate) fn read(&self) -> Ward {
        let bytes = match self.dir.read(FILE, LARGEST) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ward::default(),
            Err(error) => {
                tracing::warn!(error = crate::report(&error), "which GPUs were ill can't be read; all count as well");
                return Ward::default();
            }
        };
        match serde_json::from_slice::<Page>(&bytes) {
            Ok(page) if page.boot_id == self.boot_id => page.gpus,
            Ok(_) => Ward::default(),
            Err(error) => {
                let file = self.dir.path().join(FILE);
                tracing::warn!(file = %file.display(), %error, "which GPUs were ill can't be read; all count as well");
                Ward::default()
            }
        }
    }

    /// Replaces it whole.
    pub(crate) fn write(&self, ward: &Ward) {
        let page = Page { boot_id: self.boot_id.clone(), gpus: ward.clone() };
        let written = serde_json::to_vec(&page)
            .map_err(|error| error.to_string())
            .and_then(|bytes| self.dir.write(FILE, &bytes, Access::Private).map_err(|error| crate::report(&error)));
        if let Err(error) = written {
            tracing::warn!(error, "which GPUs are ill can't be written down; a restart of the driver forgets it");
        }
    }
}
