//! How a node stands before something goes wrong.
use std::os::unix::fs::PermissionsExt as _;

use kubelet_api::dra::v1::Claim;

use super::{
    check::{Kept, Verdict, lost},
    stage::{Answer, Call, Stage},
};
use crate::testbed::{DRIVER, files};

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scene {
    /// The driver is about to start on a node on which it never ran since the boot.
    Start,
    /// The driver is about to start where others left claims, lost specs and debris.
    Recovery,
    /// The driver serves, and a claim is about to come.
    Claim,
    /// The same, and the claim is to have its GPU taken from NVIDIA's driver for a virtual machine.
    Machine,
}

impl Scene {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Start, Self::Recovery, Self::Claim, Self::Machine];

    /// Whether a driver runs in it.
    pub(super) fn is_served(self) -> bool {
        matches!(self, Self::Claim | Self::Machine)
    }
}

/// A scene that is set.
pub(super) struct Set {
    /// The claim that is about to come.
    pub(super) claim: Claim,
    /// One that is prepared.
    pub(super) bystander: Kept,
}

/// Sets a scene on a node that has no claims.
pub(super) async fn set_scene(stage: &mut Stage, scene: Scene) -> Verdict<Set> {
    if stage.driver.is_none() {
        stage.start("")?;
    }
    stage.order("")?;
    stage.scene = scene;
    let by = stage.bystander().await?;
    let claim = if scene == Scene::Machine { stage.machine().await? } else { stage.claim().await? };
    let ids = prepare(stage, &by).await?;
    let bystander = Kept::of(stage, by, ids)?;
    let cdi = stage.testbed.node.path("cdi");
    match scene {
        Scene::Claim | Scene::Machine => without_node_spec(stage)?,
        Scene::Start => {
            stage.kill()?;
            for path in files(&stage.plugin())? {
                std::fs::remove_file(path)?;
            }
        }
        Scene::Recovery => {
            prepare(stage, &claim).await?;
            stage.kill()?;
            without_node_spec(stage)?;
            std::fs::remove_file(cdi.join(format!("{DRIVER}-claim_{}.json", claim.uid)))?;
            std::fs::remove_file(stage.metadata().join(&claim.uid).join("share.json"))?;
            let (ended, gone) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
            of_another_boot(stage, &claim, &ended.to_string())?;
            for name in [format!("{DRIVER}-claim_{ended}.json"), format!(".{DRIVER}-claim_{ended}.json.tmp")] {
                std::fs::write(cdi.join(name), "{}")?;
            }
            std::fs::write(stage.records().join(format!(".{gone}.json.tmp")), "{")?;
            let metadata = stage.metadata().join(ended.to_string());
            std::fs::create_dir(&metadata)?;
            std::fs::write(metadata.join(".share.json.tmp"), "{")?;
        }
    }
    std::fs::write(&stage.trace, "")?;
    Ok(Set { claim, bystander })
}

/// The record of a claim that has ended with an earlier boot.
fn of_another_boot(stage: &Stage, like: &Claim, uid: &str) -> Verdict {
    let text = std::fs::read_to_string(stage.records().join(format!("{}.json", like.uid)))?;
    let (json, _) = text.split_once('\n').ok_or("a record has a line of JSON and one with its checksum")?;
    let mut record: serde_json::Value = serde_json::from_str(&json.replace(&like.uid, uid))?;
    record["bootId"] = "an earlier one".into();
    let json = record.to_string();
    let bytes = format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes()));
    let (path, mode) = (stage.records().join(format!("{uid}.json")), std::fs::Permissions::from_mode(0o600));
    std::fs::write(&path, bytes)?;
    Ok(std::fs::set_permissions(path, mode)?)
}

/// The node's spec goes, so that the next claim's prepare writes it.
pub(super) fn without_node_spec(stage: &Stage) -> Verdict {
    Ok(std::fs::remove_file(stage.testbed.node.path("cdi").join(format!("{DRIVER}-driver_node.json")))?)
}

async fn prepare(stage: &mut Stage, claim: &Claim) -> Verdict<Vec<String>> {
    match stage.call(Call::Prepare, claim).await? {
        Answer::Done(ids) => Ok(ids),
        other => lost(format!("a claim can't be prepared at the start: {other:?}\n{}", stage.log())),
    }
}
