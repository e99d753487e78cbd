//! The pods around an outage: who they are, what each does, and what must have become of it.
use std::{collections::BTreeMap, fmt, time::Duration};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams},
    runtime::wait::conditions::is_deleted,
};
use tokio::time::{Instant, sleep};

use super::{Error, Of, Plan, node::Records};
use crate::{
    cluster::{self, api, has_ended, is_running, until},
    load::{Act, Kind, Stage},
};

/// A pod by what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Ends by itself while it is away.
    Ends,
    /// Its container fails while it is away.
    Fails,
    /// Is deleted just before.
    Leaves,
    /// Is made just before.
    Comes,
    /// Is deleted by force while the kubelet is away.
    Forced,
    /// Are made while the kubelet is away.
    WaitsWhole,
    /// The same, for a share.
    WaitsShare,
    /// Is made afterwards.
    After,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Ends => "ends",
            Self::Fails => "fails",
            Self::Leaves => "leaves",
            Self::Comes => "comes",
            Self::Forced => "forced",
            Self::WaitsWhole => "waits-whole",
            Self::WaitsShare => "waits-share",
            Self::After => "after",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::WaitsWhole | Self::Leaves => Kind::Whole,
            _ => Kind::Share,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ends => "the pod that ended has succeeded",
            Self::Fails => "the pod whose container failed has another one",
            Self::Leaves => "the pod that was deleted just before is gone",
            Self::Comes => "the pod that was made just before runs",
            Self::Forced => "the pod that was deleted by force is gone",
            Self::WaitsWhole => "the pod that was made meanwhile, with a whole GPU, runs",
            Self::WaitsShare => "the pod that was made meanwhile, with a share, runs",
            Self::After => "a new pod runs",
        })
    }
}

/// All of them.
pub(super) struct Around<'a> {
    stage: &'a Stage,
    plan: &'a Plan,
    kept: Vec<Pod>,
    /// The claims of those that ran before, by pod.
    claims: BTreeMap<String, String>,
}

impl<'a> Around<'a> {
    pub(super) fn new(stage: &'a Stage, plan: &'a Plan) -> Self {
        Self { stage, plan, kept: Vec::new(), claims: BTreeMap::new() }
    }

    /// Starts those that run before.
    pub(super) async fn start(&mut self) -> Result<(), Error> {
        self.kept = self.stage.keep(&self.plan.image).await?;
        let lasts = self.plan.lasts;
        let acts = [
            (Who::Leaves, Act::Stay),
            (Who::Forced, Act::Stay),
            (Who::Fails, Act::Fail(lasts / 2)),
            (Who::Ends, Act::End(lasts / 4)),
        ];
        for (who, act) in acts {
            self.make(who, act).await?;
        }
        for (who, _) in acts {
            self.stage.runs(who.name()).await?;
        }
        let listed = self.stage.pods().list(&ListParams::default()).await;
        let pods = listed.map_err(api("list the pods".to_owned()))?;
        self.claims = pods.iter().filter_map(|pod| Some((pod.name_any(), claim(pod)?))).collect();
        Ok(())
    }

    /// Whether all that run have a record.
    pub(super) fn recorded(&self, records: &Records) -> Result<(), String> {
        self.absent(records, |_| true)
    }

    /// Whether those that run on have a record still.
    pub(super) fn recorded_still(&self, records: &Records) -> Result<(), Error> {
        let kept = |pod: &str| pod == Who::Fails.name() || self.kept.iter().any(|one| one.name_any() == pod);
        self.absent(records, kept).map_err(Error::Lost)
    }

    pub(super) fn has_record(&self, who: Who, records: &Records) -> bool {
        self.claims.get(who.name()).is_some_and(|claim| records.contains(claim))
    }

    fn absent(&self, records: &Records, which: impl Fn(&str) -> bool) -> Result<(), String> {
        let without: Vec<&str> = self
            .claims
            .iter()
            .filter(|(pod, claim)| which(pod) && !records.contains(*claim))
            .map(|(pod, _)| pod.as_str())
            .collect();
        if without.is_empty() { Ok(()) } else { Err(format!("no record on the node: {}", without.join(", "))) }
    }

    /// What is under way when it goes away.
    pub(super) async fn disturb(&self) -> Result<(), Error> {
        self.delete(Who::Leaves, &DeleteParams::default()).await?;
        self.make(Who::Comes, Act::Stay).await
    }

    /// What can be done without a kubelet.
    pub(super) async fn meanwhile(&self) -> Result<(), Error> {
        self.delete(Who::Forced, &DeleteParams::default().grace_period(0)).await?;
        self.make(Who::WaitsWhole, Act::Stay).await?;
        self.make(Who::WaitsShare, Act::Stay).await
    }

    /// What must become of whom afterwards.
    pub(super) fn waiting(of: Of) -> Vec<Who> {
        let mut all = vec![Who::Ends, Who::Fails, Who::Leaves, Who::Comes];
        if of == Of::Kubelet {
            all.extend([Who::Forced, Who::WaitsWhole, Who::WaitsShare]);
        }
        all
    }

    /// Waits until it has become of it what must; `back` is when that which was away was started again.
    pub(super) async fn settled(&self, who: Who, back: Timestamp) -> Result<(), Error> {
        let name = who.name();
        match who {
            Who::Ends => self.becomes(who, has_ended).await,
            // The kubelet alone starts containers: while it is away none is.
            Who::Fails if self.plan.of == Of::ApiServer => {
                self.becomes(who, |pod| started_again_before(pod, back)).await
            }
            Who::Fails => self.becomes(who, |pod| is_running(pod) && restarts(pod) > 0).await,
            Who::Leaves | Who::Forced => {
                let there = self.stage.pods().get_opt(name).await;
                let there = there.map_err(api(format!("get pod {name}")))?;
                let Some(uid) = there.and_then(|pod| pod.uid()) else { return Ok(()) };
                let gone =
                    until(&self.stage.pods(), name, is_deleted(&uid), &who.to_string(), self.plan.patience).await;
                Ok(gone.map(drop)?)
            }
            Who::Comes | Who::WaitsWhole | Who::WaitsShare | Who::After => Ok(self.stage.runs(name).await?),
        }
    }

    /// Whether those that stay are what they were.
    pub(super) async fn untouched(&self) -> Result<Result<(), String>, Error> {
        let touched = self.stage.touched(&self.kept).await?;
        Ok(if touched.is_empty() { Ok(()) } else { Err(format!("no longer what they were: {}", touched.join(", "))) })
    }

    /// One more.
    pub(super) async fn another(&self) -> Result<(), Error> {
        self.make(Who::After, Act::Stay).await?;
        Ok(self.stage.runs(Who::After.name()).await?)
    }

    /// Waits until the API server answers.
    pub(super) async fn reachable(&self) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            match self.stage.pods().list(&ListParams::default()).await {
                Ok(_) => return Ok(()),
                Err(source) if begun.elapsed() > self.plan.patience => {
                    let error = cluster::Error::Api { what: "list the pods".to_owned(), source: Box::new(source) };
                    return Err(error.into());
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn make(&self, who: Who, act: Act) -> Result<(), Error> {
        Ok(self.stage.make(who.kind().pod(who.name(), &self.plan.image, act)).await?)
    }

    async fn delete(&self, who: Who, params: &DeleteParams) -> Result<(), Error> {
        let deleted = self.stage.pods().delete(who.name(), params).await;
        Ok(deleted.map(drop).map_err(api(format!("delete pod {}", who.name())))?)
    }

    async fn becomes(&self, who: Who, is: impl Fn(&Pod) -> bool) -> Result<(), Error> {
        let holds = |pod: Option<&Pod>| pod.is_some_and(&is);
        let seen = until(&self.stage.pods(), who.name(), holds, &who.to_string(), self.plan.patience).await;
        Ok(seen.map(drop)?)
    }
}

/// The claim that was made for a pod.
fn claim(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.resource_claim_statuses.as_ref()?.first()?.resource_claim_name.clone()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

/// Whether its container is another than the first, and runs since before then.
fn started_again_before(pod: &Pod, then: Timestamp) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let running = statuses.into_iter().flatten().find_map(|status| status.state.as_ref()?.running.as_ref());
    restarts(pod) > 0 && running.and_then(|running| running.started_at.as_ref()).is_some_and(|since| since.0 < then)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn pod(restarts: i32, since: &str) -> Pod {
        from_value(json!({"status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "one-gpu-x"}],
            "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": true, "restartCount": restarts,
                "state": {"running": {"startedAt": since}}}]}}))
        .unwrap()
    }

    #[test]
    fn a_container_that_is_the_first_or_came_only_afterwards_was_not_started_again_meanwhile() {
        let back: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        for (restarts, since, is) in
            [(1, "2026-11-21T09:59:59Z", true), (0, "2026-11-21T09:59:59Z", false), (1, "2026-11-21T10:00:01Z", false)]
        {
            assert_eq!(started_again_before(&pod(restarts, since), back), is);
        }
        assert!(!started_again_before(&Pod::default(), back));
    }

    #[test]
    fn a_pods_claim_is_known_by_its_status() {
        assert_eq!(claim(&pod(0, "2026-11-21T10:00:01Z")).as_deref(), Some("one-gpu-x"));
        assert_eq!(claim(&Pod::default()), None);
    }
}
