//! Outages of the API server or the kubelet on a real cluster, with pods that start and end around them.
//!
//! What must work works meanwhile: containers run on and are started again with their GPUs, and a pod that ends gives its GPU
//! back as soon as the kubelet sees that. What can't work waits, and is made up for afterwards. The node's own records are
//! looked at all the while.
mod node;
mod pods;

use std::{fmt, time::Duration};

use clap::ValueEnum;
use kube::Client;
use tokio::time::{Instant, sleep};

pub use crate::load::Error as StageError;
pub use crate::steps::{Report, Step};

use crate::{cluster, load::Stage, shell::Shell};
use node::Node;
use pods::{Around, Who};

/// How often the node's records are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Of {
    /// The API server: the kubelet knows its pods and gets no new ones.
    ApiServer,
    /// The kubelet: containers run on, and nobody sees to them.
    Kubelet,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiServer => "API server",
            Self::Kubelet => "kubelet",
        })
    }
}

/// What is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What goes away.
    pub of: Of,
    /// Stops it, and returns when it is gone.
    pub stop: Shell,
    /// Starts it.
    pub start: Shell,
    /// Prints `aliquot-driver status --output=json` of the only node with GPUs, also while it is away.
    pub status: Shell,
    /// Kills the driver on that node, half way through.
    pub kill: Option<Shell>,
    /// The image of the pods: anything with `sh` and `sleep`.
    pub image: String,
    /// The namespace that is made for them.
    pub namespace: String,
    /// How long it is away.
    pub lasts: Duration,
    /// How long a pod may take to run or to be gone, and a command to end.
    pub patience: Duration,
}

/// Why it couldn't be found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pods and their namespace.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// A command on the node.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// What the node must know of a pod.
    #[error("{0}")]
    Lost(String),
}

/// Takes all steps, tells each when it is done, and leaves what was stopped running and nothing else behind.
///
/// # Errors
///
/// When the namespace can't be made, or what was stopped can't be started; what goes wrong otherwise fails its step.
pub async fn run(
    client: Client,
    plan: &Plan,
    interrupted: impl Future<Output = ()>,
    mut tell: impl FnMut(&Step),
) -> Result<Report, Error> {
    let stage = Stage::open(client, &plan.namespace, plan.patience).await?;
    let mut report = Report::default();
    let mut outage = Outage { plan, node: Node::new(plan), around: Around::new(&stage, plan), away: false };
    let mut done = |step: Step| {
        tell(&step);
        report.steps.push(step);
    };
    let broken_off = tokio::select! {
        () = outage.steps(&mut done) => false,
        () = interrupted => true,
    };
    if outage.away {
        outage.node.run(&plan.start).await?;
        outage.around.reachable().await?;
    }
    let node = &outage.node;
    let step = Step::taken("Afterwards: the pods are deleted, and nothing of them is left", async |step| {
        for (reason, count) in stage.warnings().await? {
            step.tell(format_args!("warning {reason}: {count}"));
        }
        stage.close().await?;
        let begun = Instant::now();
        loop {
            let left = node.records(&plan.namespace).await?;
            if left.is_empty() {
                break;
            }
            if begun.elapsed() > plan.patience {
                step.fail(format_args!("the node still has records of {}", names(&left)));
                break;
            }
            sleep(LOOK).await;
        }
        if broken_off {
            step.fail("the steps were broken off");
        }
        Ok::<_, Error>(())
    });
    let step = step.await;
    done(step);
    Ok(report)
}

struct Outage<'a> {
    plan: &'a Plan,
    node: Node<'a>,
    around: Around<'a>,
    /// It was stopped, and not started.
    away: bool,
}

impl Outage<'_> {
    async fn steps(&mut self, done: &mut impl FnMut(Step)) {
        let mut step = self.before().await;
        let mut go_on = step.passed();
        done(step);
        if go_on {
            step = self.away().await;
            go_on = !self.away || step.passed();
            done(step);
        }
        if go_on || self.away {
            step = self.back().await;
            done(step);
        }
    }

    async fn before(&mut self) -> Step {
        let Self { plan, node, around, .. } = self;
        Step::taken("Before: pods with whole GPUs and shares run", async |step| {
            around.start().await?;
            let records = node.records(&plan.namespace).await?;
            step.tell(format_args!("records on the node: {}", names(&records)));
            step.hold(around.recorded(&records));
            Ok::<_, Error>(())
        })
        .await
    }

    async fn away(&mut self) -> Step {
        let Self { plan, node, around, away } = self;
        let title = format!("For {} s there is no {}", plan.lasts.as_secs(), plan.of);
        Step::taken(&title, async |step| {
            around.disturb().await?;
            // It may be gone although the command failed.
            *away = true;
            node.run(&plan.stop).await?;
            if !around.has_record(Who::Ends, &node.records(&plan.namespace).await?) {
                step.fail("the pod that was to end meanwhile ended before: take more --seconds");
            }
            let begun = Instant::now();
            if plan.of == Of::Kubelet {
                around.meanwhile().await?;
            }
            let mut kill = plan.kill.as_ref();
            let mut released = None;
            while begun.elapsed() < plan.lasts {
                sleep(LOOK).await;
                let records = node.records(&plan.namespace).await?;
                around.recorded_still(&records)?;
                if released.is_none() && !around.has_record(Who::Ends, &records) {
                    released = Some(begun.elapsed());
                }
                if begun.elapsed() > plan.lasts / 2
                    && let Some(kill) = kill.take()
                {
                    node.run(kill).await?;
                    step.tell("the driver was killed");
                }
            }
            match (plan.of, released) {
                (_, Some(after)) => {
                    step.tell(format_args!(
                        "the pod that ended had given its GPU back {} s after the stop",
                        after.as_secs()
                    ));
                }
                (Of::Kubelet, None) => step.tell("the pod that ended keeps its GPU until the kubelet sees it"),
                (Of::ApiServer, None) => step.fail("the pod that ended never gave its GPU back"),
            }
            Ok::<_, Error>(())
        })
        .await
    }

    async fn back(&mut self) -> Step {
        let Self { plan, node, around, away } = self;
        let title = format!("The {} is back: what waited is made up for", plan.of);
        Step::taken(&title, async |step| {
            let back = k8s_openapi::jiff::Timestamp::now();
            let begun = Instant::now();
            node.run(&plan.start).await?;
            *away = false;
            around.reachable().await?;
            for who in Around::waiting(plan.of) {
                around.settled(who, back).await?;
                step.tell(format_args!("{who}: after {:.1} s", begun.elapsed().as_secs_f64()));
            }
            step.hold(around.untouched().await?);
            let begun = Instant::now();
            around.another().await?;
            step.tell(format_args!("a new pod runs after {:.1} s", begun.elapsed().as_secs_f64()));
            Ok::<_, Error>(())
        })
        .await
    }
}

fn names(records: &node::Records) -> String {
    records.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
