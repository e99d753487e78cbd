//! What an uninstall leaves, in the API server and on the node.
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams},
    discovery::{Discovery, Scope, verbs},
};

use super::{Error, Plan};
use crate::cluster::api;

/// In each name and label of this project's objects, files, mounts and processes.
const OURS: &str = "aliquot";
/// They tell of what was, and end by themselves.
const TOLD: &str = "Event";
/// Where a node keeps what it is given.
const PLACES: &str = "/run /var/run/cdi /etc/cdi /var/lib/kubelet /var/lib/aliquot";

/// Objects of every kind that there is, but for Events.
pub(super) async fn objects(client: &Client) -> Result<Vec<String>, Error> {
    let discovery = Discovery::new(client.clone()).run().await.map_err(api("list the kinds of objects".to_owned()))?;
    let mut left = Vec::new();
    for group in discovery.groups() {
        for (kind, can) in group.recommended_resources() {
            if !can.supports_operation(verbs::LIST) || kind.kind == TOLD {
                continue;
            }
            let objects: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
            let listed = objects.list_metadata(&ListParams::default()).await;
            for object in listed.map_err(api(format!("list {}", kind.plural)))?.items {
                let labels = object.labels().iter().any(|(name, value)| name.contains(OURS) || value.contains(OURS));
                let place = object.namespace().filter(|_| can.scope == Scope::Namespaced).unwrap_or_default();
                if labels || object.name_any().contains(OURS) || place == OURS {
                    left.push(format!("{} {place}/{}", kind.kind, object.name_any()));
                }
            }
        }
    }
    Ok(left)
}

/// Files, mounts and processes on the node, but for those below `but`.
pub(super) async fn on_node(plan: &Plan, but: &str) -> Result<Vec<String>, Error> {
    let script = format!(
        "find {PLACES} -name '*{OURS}*' -prune -print 2>/dev/null; grep {OURS} /proc/self/mountinfo; \
         for p in /proc/[0-9]*; do case $(readlink $p/exe) in */{OURS}-*) echo process ${{p#/proc/}};; esac; done; true"
    );
    let printed = plan.on_node.run_script(&script, plan.patience).await?;
    let mut left: Vec<String> = printed.lines().filter(|line| !line.contains(but)).map(ToOwned::to_owned).collect();
    left.sort();
    left.dedup();
    Ok(left)
}
