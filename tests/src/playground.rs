//! The main job on an embedded default: eight simulated H100s and one for virtual machines, the real driver, and the examples of `deploy/`.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use fake_apiserver::Server;
use k8s_openapi::api::{core::v1::Pod, resource::v1::ResourceClaim};
use kube::{Api, api::ListParams};
use serde_json::Value;

use crate::{
    debian::Packages,
    passthrough::Function,
    runtime::{ContainerSpec, Containerd, Pod as Sandbox},
    testbed::{DRIVER, NODE, Result, Testbed, apply, documents, pods_and_others},
};

/// A card that vfio-pci has, and its IOMMU group.
const CARD: (&str, u32) = ("0000:f1:00.0", 12);

/// Everything that runs; dropping it ends and removes all of it.
pub struct Playground {
    testbed: Testbed,
    containers: std::result::Result<Containerd, String>,
    _dir: tempfile::TempDir,
}

/// What one container was given.
struct Given {
    pod: String,
    container: String,
    cdi: Vec<String>,
    /// Device nodes and `nvidia-smi -L`, where real containers run.
    seen: Option<(String, String)>,
}

impl Playground {
    /// Starts everything.
    pub async fn start() -> Result<Self> {
        let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
        let (place, group) = CARD;
        testbed.node.plug(Function::gpu(place, "vfio-pci", group))?;
        testbed.node.open_group(group)?;
        testbed.start_driver(&[])?;
        testbed.ready().await?;
        testbed.until("all nine GPUs are published", || testbed.whole().len() == 9).await?;
        let dir = tempfile::Builder::new().prefix("aliquot").tempdir()?;
        let containers = containerd(dir.path(), &testbed).await;
        Ok(Self { testbed, containers, _dir: dir })
    }

    /// Applies the examples and says what came of it.
    pub async fn show(&self) -> Result<String> {
        let mut text = self.published();
        let mut given = Vec::new();
        for file in examples()? {
            given.extend(self.run(&file).await?);
        }
        text += &self.allocated().await?;
        text += &self.given(&given);
        Ok(text)
    }

    /// How to look around by oneself.
    pub fn invitation(&self) -> String {
        let config = self.testbed.kubeconfig();
        format!(
            "Look around:\n\n  export KUBECONFIG={}\n  kubectl get resourceslices\n  kubectl get resourceclaims\n  kubectl get \
             resourceslices -o yaml\n",
            config.display()
        )
    }

    fn published(&self) -> String {
        let mut rows = vec![row(&["DEVICE", "PRODUCT", "MEMORY", "SHARES", "PCI", "NUMA", "UUID"])];
        for device in self.testbed.devices() {
            let attribute = |name: &str| {
                let value = device.attributes.as_ref().and_then(|all| all.get(name));
                let text =
                    value.and_then(|value| value.string.clone().or_else(|| value.int.map(|int| int.to_string())));
                text.unwrap_or_default()
            };
            let capacity = |name: &str| {
                device.capacity.as_ref().and_then(|all| all.get(name)).map(|capacity| capacity.value.0.clone())
            };
            rows.push(vec![
                device.name.clone(),
                attribute("productName"),
                capacity("memory").unwrap_or_default(),
                capacity("shares").unwrap_or_default(),
                attribute("resource.kubernetes.io/pciBusID"),
                attribute("resource.kubernetes.io/numaNode"),
                attribute("uuid"),
            ]);
        }
        section(&format!("Published by the driver (pool {DRIVER}/{NODE})"), &rows)
    }

    async fn run(&self, file: &Path) -> Result<Vec<Given>> {
        let objects: Vec<Value> = documents(&std::fs::read_to_string(file)?)?;
        let (pods, others) = pods_and_others(objects);
        apply(&self.testbed.client, &others).await?;
        let mut given = Vec::new();
        for object in pods {
            let (pod, running) = self.testbed.run_pod(object).await?;
            let name = pod.metadata.name.clone().unwrap_or_default();
            let cdi = |container: &str| running.containers.get(container).cloned().unwrap_or_default();
            let names: Vec<String> =
                pod.spec.iter().flat_map(|spec| &spec.containers).map(|c| c.name.clone()).collect();
            let specs: Vec<ContainerSpec> = names
                .iter()
                .map(|name| ContainerSpec { name: name.clone(), cdi_devices: cdi(name), ..ContainerSpec::default() })
                .collect();
            let sandbox = match &self.containers {
                Ok(containerd) => Some(containerd.run_pod(&name, &specs).await?),
                Err(_) => None,
            };
            self.testbed.set_running(&pod).await?;
            for container in names {
                let seen = match &sandbox {
                    Some(sandbox) => Some(look(sandbox, &container).await?),
                    None => None,
                };
                given.push(Given { pod: name.clone(), cdi: cdi(&container), container, seen });
            }
        }
        Ok(given)
    }

    async fn allocated(&self) -> Result<String> {
        let claims: Api<ResourceClaim> = Api::all(self.testbed.client.clone());
        let pods: Api<Pod> = Api::all(self.testbed.client.clone());
        let pods: BTreeMap<String, String> = pods
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter_map(|pod| Some((pod.metadata.uid?, pod.metadata.name?)))
            .collect();
        let mut rows = vec![row(&["CLAIM", "REQUEST", "DEVICE", "SHARE", "RESERVED FOR"])];
        for claim in claims.list(&ListParams::default()).await? {
            let status = claim.status.unwrap_or_default();
            let users = status.reserved_for.unwrap_or_default();
            let users: Vec<String> = users.iter().filter_map(|user| pods.get(&user.uid).cloned()).collect();
            let devices = status.allocation.and_then(|allocation| allocation.devices).unwrap_or_default();
            for result in devices.results.unwrap_or_default() {
                let name = claim.metadata.name.clone().unwrap_or_default();
                let taken = result.consumed_capacity.unwrap_or_default();
                let taken: Vec<String> = taken.iter().map(|(name, amount)| format!("{name} {}", amount.0)).collect();
                rows.push(vec![name, result.request, result.device, taken.join(", "), users.join(", ")]);
            }
        }
        Ok(section("Allocated by the scheduler's stand-in", &rows))
    }

    fn given(&self, given: &[Given]) -> String {
        match &self.containers {
            Ok(_) => {
                let mut rows = vec![row(&["POD", "CONTAINER", "/dev", "nvidia-smi -L"])];
                for one in given {
                    let (dev, smi) = one.seen.clone().unwrap_or_default();
                    rows.push(vec![one.pod.clone(), one.container.clone(), dev, smi]);
                }
                section("Seen in real containers (containerd, crun)", &rows)
            }
            Err(why) => {
                let mut rows = vec![row(&["POD", "CONTAINER", "CDI DEVICES"])];
                for one in given {
                    rows.push(vec![one.pod.clone(), one.container.clone(), one.cdi.join(" ")]);
                }
                section(&format!("Given to containers (no real containers here: {why})"), &rows)
            }
        }
    }
}

async fn containerd(dir: &Path, testbed: &Testbed) -> std::result::Result<Containerd, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("they need root".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let toolbox =
        tokio::task::spawn_blocking(move || Packages::fetch(&target)).await.map_err(|error| error.to_string())?;
    let toolbox = toolbox.map_err(|error| error.to_string())?;
    let started = Containerd::start(&toolbox, &dir.join("containerd"), &testbed.node.path("cdi")).await;
    started.map_err(|error| error.to_string())
}

/// What a container sees of GPUs.
async fn look(sandbox: &Sandbox, container: &str) -> Result<(String, String)> {
    let dev = sandbox.exec(container, &["sh", "-c", "cd /dev; ls -d nvidia[0-9]* vfio/[0-9]* 2>/dev/null"]).await?;
    let smi = sandbox.exec(container, &["sh", "-c", "nvidia-smi -L 2>&1"]).await?;
    let dev = dev.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let smi = smi.stdout.lines().collect::<Vec<_>>().join("; ");
    let smi = if smi.contains("not found") { "(no nvidia-smi)".to_owned() } else { smi };
    Ok((if dev.is_empty() { "(no GPU)".to_owned() } else { dev }, smi))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The files of `deploy/examples`, in order.
fn examples() -> Result<Vec<PathBuf>> {
    let dir = std::fs::read_dir(workspace().join("deploy/examples"))?;
    let mut files = dir.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// A title and a table, in columns as wide as they need to be.
fn section(title: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = format!("{title}\n\n");
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("   ");
        text = text + "  " + line.trim_end() + "\n";
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = section("T", &[row(&["A", "B"]), row(&["long", "x"])]);
        assert_eq!(text, "T\n\n  A      B\n  long   x\n\n");
    }

    #[test]
    fn every_example_can_be_read() {
        for file in examples().unwrap() {
            let objects: Vec<Value> = documents(&std::fs::read_to_string(&file).unwrap()).unwrap();
            assert!(!pods_and_others(objects).0.is_empty(), "{}", file.display());
        }
    }
}
