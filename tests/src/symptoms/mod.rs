//! The symptoms of docs/troubleshooting.md, provoked on a real cluster's node with simulated GPUs.
//!
//! The driver is installed by one command. Each symptom's cause is then made: GPUs and NVIDIA's driver fail, files and
//! permissions are wrong, things are taken away. What the page promises must be told, by an Event with its text on the
//! object that it names, and must be over once the cause is. At the end the driver is uninstalled, and nothing may be left.
mod claims;
mod gpus;
mod install;
mod left;
mod machine;
mod nothing;
mod objects;
mod offering;
mod others;
mod page;
mod shares;
mod stage;
mod switched;
mod tally;
mod tries;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fake_nvml::Profile;
use kube::Client;
use tokio::time::{Instant, sleep};

pub use tally::{Outcome, Report};

use crate::{
    cluster,
    node::{Artifacts, Node},
    shell::{self, Shell},
};
use install::{Installation, Variant};
use stage::Stage;
use tries::Try;

/// How often what is left is looked for.
const LOOK: Duration = Duration::from_secs(2);

/// What is tried, and how the node is reached.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the simulated GPUs are laid out; the same directory on this machine and on the node.
    pub dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// Runs its last argument as a script on the node.
    pub on_node: Shell,
    /// Stop and start the kubelet.
    pub kubelet: Option<(Shell, Shell)>,
    /// Stop and start kube-controller-manager.
    pub controllers: Option<(Shell, Shell)>,
    /// Start the API server without the feature gate `DRAConsumableCapacity`, and with them again.
    pub gates: Option<(Shell, Shell)>,
    /// The container runtime's handler for virtual machines, and the real runtime behind the stand-in: then this is all that is
    /// tried.
    pub machines: Option<(String, PathBuf)>,
    /// The driver's image, which the node has.
    pub image: String,
    /// The image of the pods: anything with `sh` and `sleep`.
    pub pods: String,
    /// The namespace that is made for them.
    pub namespace: String,
    /// Only these tries, by the beginnings of their names.
    pub only: Vec<String>,
    /// Leave the driver installed.
    pub keep: bool,
    /// How long anything may take to be told, to run or to be gone.
    pub patience: Duration,
}

/// Why it couldn't be found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// A command.
    #[error(transparent)]
    Shell(#[from] shell::Error),
    /// The simulated node.
    #[error("the simulated node can't be changed")]
    Node(#[from] std::io::Error),
    /// Of this program.
    #[error("an object isn't what the API takes")]
    Object(#[from] serde_json::Error),
    /// It is not as it must be.
    #[error("{0}")]
    Otherwise(String),
}

/// Installs, provokes and uninstalls, and tells each outcome when it is known.
///
/// # Errors
///
/// What keeps it from provoking anything; what goes wrong with one symptom is that symptom's outcome.
pub async fn run(
    client: Client,
    plan: &Plan,
    interrupted: impl Future<Output = ()>,
    mut tell: impl FnMut(&Outcome),
) -> Result<Report, Error> {
    let profile = Profile::named("h100x8").ok_or_else(|| Error::Otherwise("there is no profile".to_owned()))?;
    let artifacts = Artifacts::find()?;
    let node = Node::lay_out(&plan.dir, profile, &artifacts)?;
    let root = std::fs::canonicalize(&plan.dir)?;
    let installation = Installation::new(client.clone(), plan, &node, &root)?;
    let stage = Stage::open(client.clone(), plan, node).await?;
    if let Some((_, runtime)) = &plan.machines {
        machine::install(&stage, &artifacts, &runtime.to_string_lossy())?;
    }
    let mut report = Report::default();
    let mut done = |outcome: Outcome| {
        tell(&outcome);
        report.add(outcome);
    };
    let broken_off = tokio::select! {
        () = steps(&stage, &installation, &mut done) => false,
        () = interrupted => true,
    };
    if broken_off {
        done(Outcome::Missed("the rest: it was broken off".to_owned()));
    }
    gpus::hide(&stage, false)?;
    Box::pin(stage.close()).await?;
    if !plan.keep {
        done(match uninstalled(&client, plan, &installation, &root).await {
            Ok(how) => Outcome::Seen(how),
            Err(error) => Outcome::Missed(format!("uninstall: {}", aliquot_daemon::report(&error))),
        });
        std::fs::remove_dir_all(&root)?;
    }
    Ok(report)
}

async fn steps(stage: &Stage<'_>, installation: &Installation<'_>, done: &mut impl FnMut(Outcome)) {
    match Box::pin(first_pod(stage, installation)).await {
        Ok(how) => done(Outcome::Seen(how)),
        Err(error) => return done(Outcome::Missed(format!("install: {}", aliquot_daemon::report(&error)))),
    }
    for one in Try::ALL.into_iter().filter(|one| one.is_of(stage.plan)) {
        if let Some(why) = one.lacks(stage.plan) {
            for symptom in one.shows() {
                done(Outcome::Out(format!("{symptom}: {why}")));
            }
            continue;
        }
        let outcome = Box::pin(one.go(stage, installation)).await;
        let shown = stage.shown.take();
        for one in &shown {
            done(Outcome::Seen(one.to_string()));
        }
        if let Err(error) = outcome {
            let why = aliquot_daemon::report(&error);
            done(Outcome::Missed(format!("{} after {} symptoms: {why}", one.name(), shown.len())));
        } else {
            let is_missing = |symptom: &&&str| !shown.iter().any(|shown| shown.symptom.starts_with(**symptom));
            for symptom in one.shows().iter().filter(is_missing) {
                done(Outcome::Missed(format!("{symptom}: nothing told of it")));
            }
        }
        if let Err(error) = Box::pin(stage.tidy()).await {
            return done(Outcome::Missed(format!("after {}: {}", one.name(), aliquot_daemon::report(&error))));
        }
    }
    for (symptom, why) in tries::OUT.iter().filter(|_| stage.plan.only.is_empty() && stage.plan.machines.is_none()) {
        done(Outcome::Out(format!("{symptom}: {why}")));
    }
}

/// One command, and a pod that waits for what it installs.
async fn first_pod(stage: &Stage<'_>, installation: &Installation<'_>) -> Result<String, Error> {
    let begun = Instant::now();
    let variant = Variant::default();
    let install = installation.apply(&variant);
    let pod = async {
        // Whoever is in a hurry makes the pod at once; the class comes with the command.
        stage.start("first", &objects::WHOLE).await?;
        stage.runs("first").await?;
        Ok::<_, Error>(begun.elapsed())
    };
    let (ready, ran) = futures::join!(async { install.await.map(|()| begun.elapsed()) }, pod);
    let (ready, ran) = (ready?, ran?);
    stage.end("first").await?;
    let (ready, ran) = (ready.as_secs_f64(), ran.as_secs_f64());
    Ok(format!("install | kubectl apply -k | first pod Running after {ran:.1} s, all of it ready after {ready:.1} s"))
}

async fn uninstalled(
    client: &Client,
    plan: &Plan,
    installation: &Installation<'_>,
    root: &Path,
) -> Result<String, Error> {
    let took = installation.delete().await? + installation.clear().await?;
    let begun = Instant::now();
    let but = root.to_string_lossy();
    loop {
        let left = [nothing::objects(client).await?, nothing::on_node(plan, &but).await?].concat();
        if left.is_empty() {
            let (took, after) = (took.as_secs_f64(), begun.elapsed().as_secs_f64());
            return Ok(format!(
                "uninstall | deploy/base deleted, then the node cleared by deploy/uninstall | {took:.1} s, and nothing is left \
                 {after:.1} s later"
            ));
        }
        if begun.elapsed() > plan.patience {
            return Err(Error::Otherwise(format!("it leaves {}", left.join(", "))));
        }
        sleep(LOOK).await;
    }
}
