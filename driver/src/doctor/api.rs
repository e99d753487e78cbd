//! What is asked of the API server, each question with a deadline; nothing is changed.
use std::time::Duration;

use aliquot_model::Inventory;
use aliquot_params::policy::Policy;
use dra_plugin::{
    DriverName,
    slices::{self, NodeName, Pool, Rehearsal, RehearsalError},
};
use futures::future::join_all;
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Node,
    resource::v1::{DeviceClass, ResourceSlice},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::{
    access::{EVICTION, NEEDS, Need, Of, Refused},
    admission::{self, Foreign, Tried},
    features::Rehearsed,
};
use crate::offer::{self, Layout};

/// Why there are no answers once the first question got none.
pub(super) const UNASKED: &str = "the API server isn't there to be asked";

/// A node that is nobody's: what is written for it is a dry run, and no Node need have the name.
const ANOTHER_NODE: &str = "another-node.aliquot.invalid";

/// What the API server said, or why it said nothing.
pub(super) type Answer<T> = Result<T, Unanswered>;

/// No answer, or none of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// In words.
    pub(super) reason: String,
    /// It understood, but this user may not ask.
    pub(super) is_forbidden: bool,
    /// It doesn't know this user.
    pub(super) is_unknown: bool,
}

impl Unanswered {
    pub(super) fn away(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_forbidden: false, is_unknown: false }
    }

    pub(super) fn fix(&self) -> &'static str {
        if self.is_unknown {
            "the credentials are not (or no longer) good: see the kubeconfig's user, or the service account of the pod"
        } else {
            "set KUBECONFIG, or run this in a pod with a service account; then see that its address can be reached from this \
             node, past firewalls, proxies and NetworkPolicies"
        }
    }
}

impl From<kube::Error> for Unanswered {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            return Self::away(format!("the API server can't be asked: {}", crate::report(&error)));
        };
        Self {
            reason: format!("the API server says: {}", status.message),
            is_forbidden: status.code == 403,
            is_unknown: status.code == 401,
        }
    }
}

/// All answers but those that depend on the GPUs.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) version: Answer<String>,
    /// Who this process is to the API server.
    pub(super) user: Answer<String>,
    /// Versions of `resource.k8s.io`.
    pub(super) versions: Answer<Vec<String>>,
    pub(super) node: Answer<Option<Node>>,
    /// Of all drivers on this node.
    pub(super) slices: Answer<Vec<ResourceSlice>>,
    pub(super) classes: Answer<Vec<DeviceClass>>,
    /// What the driver does and may not.
    pub(super) refused: Answer<Refused>,
    /// What became of slices that are another node's.
    pub(super) foreign: Answer<Vec<Tried>>,
}

impl Answers {
    /// None of them, for one reason.
    pub(super) fn none(reason: &Unanswered) -> Self {
        let unasked = Unanswered::away(UNASKED);
        Self {
            version: Err(reason.clone()),
            user: Err(unasked.clone()),
            versions: Err(unasked.clone()),
            node: Err(unasked.clone()),
            slices: Err(unasked.clone()),
            classes: Err(unasked.clone()),
            refused: Err(unasked.clone()),
            foreign: Err(unasked),
        }
    }
}

/// A way to the API server.
pub(super) struct Asking {
    client: Client,
    deadline: Duration,
}

impl Asking {
    pub(super) async fn begin(deadline: Duration) -> Answer<Self> {
        let client = crate::run::client().await.map_err(|error| Unanswered::away(crate::report(&error)))?;
        Ok(Self { client, deadline })
    }

    /// The version first: a server that doesn't tell it is asked nothing else.
    pub(super) async fn all(&self, driver: &DriverName, node: &NodeName) -> Answer<Answers> {
        let version = self.within(self.client.apiserver_version()).await?.git_version;
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let (nodes, slices) = (Api::<Node>::all(self.client.clone()), Api::<ResourceSlice>::all(self.client.clone()));
        let classes = Api::<DeviceClass>::all(self.client.clone());
        let everywhere = ListParams::default();
        let (user, versions, object, slices, classes, refused) = tokio::join!(
            self.user(),
            self.versions(),
            self.within(nodes.get_opt(node.as_str())),
            self.within(slices.list(&on_node)),
            self.within(classes.list(&everywhere)),
            self.refused(driver),
        );
        let foreign = self.try_foreign(driver, node, &user).await;
        let (slices, classes) = (slices.map(|list| list.items), classes.map(|list| list.items));
        Ok(Answers { version: Ok(version), user, versions, node: object, slices, classes, refused, foreign })
    }

    async fn user(&self) -> Answer<String> {
        let reviews = Api::<SelfSubjectReview>::all(self.client.clone());
        let (parameters, review) = (PostParams::default(), SelfSubjectReview::default());
        let review = self.within(reviews.create(&parameters, &review)).await?;
        let name = review.status.and_then(|status| status.user_info?.username);
        name.ok_or_else(|| Unanswered::away("the API server doesn't say who asks it"))
    }

    async fn versions(&self) -> Answer<Vec<String>> {
        let groups = self.within(self.client.list_api_groups()).await?.groups;
        let dra = groups.into_iter().find(|group| group.name == "resource.k8s.io");
        Ok(dra.map(|group| group.versions.into_iter().map(|each| each.version).collect()).unwrap_or_default())
    }

    async fn refused(&self, driver: &DriverName) -> Answer<Refused> {
        let always = join_all(NEEDS.iter().map(|need| self.refused_of(driver, need)));
        let (always, eviction) = tokio::join!(always, self.refused_of(driver, &EVICTION));
        let always: Answer<Vec<Option<String>>> = always.into_iter().collect();
        Ok(Refused { always: always?.into_iter().flatten().collect(), eviction: eviction? })
    }

    /// The verbs that aren't allowed, with their resource.
    async fn refused_of(&self, driver: &DriverName, need: &Need) -> Answer<Option<String>> {
        let verbs = need.verbs.iter().map(|verb| async move {
            let allowed = self.may(driver, need, verb).await?;
            Ok((!allowed).then_some(*verb))
        });
        let verbs: Answer<Vec<Option<&str>>> = join_all(verbs).await.into_iter().collect();
        let refused: Vec<&str> = verbs?.into_iter().flatten().collect();
        Ok((!refused.is_empty()).then(|| format!("{} {}", refused.join("/"), need.resource)))
    }

    async fn may(&self, driver: &DriverName, need: &Need, verb: &str) -> Answer<bool> {
        let (resource, part) =
            need.resource.split_once('/').map_or((need.resource, None), |(resource, part)| (resource, Some(part)));
        let attributes = ResourceAttributes {
            group: Some(need.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: part.map(ToOwned::to_owned),
            name: (need.of == Of::Driver).then(|| driver.to_string()),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let reviews = Api::<SelfSubjectAccessReview>::all(self.client.clone());
        let parameters = PostParams::default();
        let answer = self.within(reviews.create(&parameters, &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// What becomes of slices that are another node's, by dry runs; an empty answer where that would tell nothing.
    pub(super) async fn try_foreign(
        &self,
        driver: &DriverName,
        node: &NodeName,
        user: &Answer<String>,
    ) -> Answer<Vec<Tried>> {
        if !user.as_deref().is_ok_and(admission::is_account) {
            return Ok(Vec::new());
        }
        let other = NodeName::new(ANOTHER_NODE).map_err(|error| Unanswered::away(crate::report(&error)))?;
        let name = offer::pool_name(driver, &other).map_err(|error| Unanswered::away(crate::report(&error)))?;
        let pool = Pool { name, devices: Vec::new(), counters: Vec::new() };
        let tried = Foreign::ALL.map(|foreign| {
            let node = if foreign == Foreign::Node { &other } else { node };
            let asked = tokio::time::timeout(self.deadline, slices::rehearse(&self.client, driver, node, &pool));
            async { asked.await.map_or_else(|_| Tried::Unclear(self.overdue()), Tried::from) }
        });
        Ok(join_all(tried).await)
    }

    /// What would be stored of what these GPUs are offered as, by dry runs.
    pub(super) async fn rehearse(
        &self,
        driver: &DriverName,
        node: &NodeName,
        inventory: &Inventory,
        policy: &Policy,
    ) -> Rehearsed {
        let offered = |layout| offer::offered(inventory, policy, &[], layout);
        let both = offered(Layout::Counters);
        let needs_counters = both.needs_counters();
        let result = async {
            let counters = self.rehearsal(driver, node, both).await?;
            if counters == Rehearsal::Complete || !needs_counters {
                return Ok(Rehearsed::Counters(counters));
            }
            let fixed = self.rehearsal(driver, node, offered(Layout::Fixed)).await?;
            Ok(Rehearsed::Fixed { counters, fixed })
        };
        result.await.unwrap_or_else(|not| not)
    }

    async fn rehearsal(
        &self,
        driver: &DriverName,
        node: &NodeName,
        offered: offer::Offered,
    ) -> Result<Rehearsal, Rehearsed> {
        let name = offer::pool_name(driver, node).map_err(|error| Rehearsed::Not(crate::report(&error)))?;
        let pool = Pool { name, devices: offered.devices, counters: offered.counters };
        let asked = slices::rehearse(&self.client, driver, node, &pool);
        match tokio::time::timeout(self.deadline, asked).await {
            Ok(Ok(rehearsal)) => Ok(rehearsal),
            Ok(Err(error @ RehearsalError::Refused { .. })) => Err(Rehearsed::Refused(error.to_string())),
            Ok(Err(error)) => Err(Rehearsed::Not(error.to_string())),
            Err(_) => Err(Rehearsed::Not(self.overdue())),
        }
    }

    async fn within<T>(&self, asked: impl Future<Output = Result<T, kube::Error>>) -> Answer<T> {
        match tokio::time::timeout(self.deadline, asked).await {
            Ok(answer) => answer.map_err(Unanswered::from),
            Err(_) => Err(Unanswered::away(self.overdue())),
        }
    }

    fn overdue(&self) -> String {
        format!("the API server gave no answer within {:?}", self.deadline)
    }
}
