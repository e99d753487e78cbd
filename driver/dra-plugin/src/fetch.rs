//! Reads one claim from the API server and keeps the part of its allocation that is this driver's.
use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::{
    api::resource::v1::{DeviceAllocationResult, ResourceClaim, ResourceClaimConsumerReference},
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::client::Body;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    backoff::Backoff,
    causes::with_causes,
    claim::{AllocatedClaim, ClaimRef, ConfigSource, DeviceResult, OpaqueConfig, PodRef, RequestName},
    driver::{Call, Failure},
    metadata::pod_claim_name,
    name::DriverName,
};

/// How long one try may take before the connection is taken for dead.
const ONE_TRY: Duration = Duration::from_secs(10);
/// More than the API server stores in one object (1.5 MiB in etcd), with room for its JSON form.
const LARGEST_ANSWER: usize = 8 << 20;
/// How many claims are read at a time. Each has a connection of its own, which costs memory for as long as it is kept, and
/// a node that starts a hundred pods is no reason to press the API server.
const AT_A_TIME: usize = 16;

/// Fetches claims for one driver.
#[derive(Clone)]
pub(crate) struct Fetcher {
    client: kube::Client,
    driver: DriverName,
    turns: Arc<Semaphore>,
}

/// Why one try gave no claim.
enum Miss {
    /// Nothing usable came back.
    Unreachable(String),
    /// The server asks for patience, perhaps for how long.
    Busy { status: StatusCode, message: String, retry_after: Option<Duration> },
    /// Trying again would give the same.
    Final(String),
}

impl Fetcher {
    pub(crate) fn new(client: kube::Client, driver: DriverName) -> Self {
        Self { client, driver, turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// The claim that `claim` names, provided that it is the one with that UID and allocated to this driver.
    ///
    /// A fresh read, never a cache: an allocation decides what a container may touch. Trouble that may pass is waited out
    /// until the call's deadline or its cancellation.
    pub(crate) async fn fetch(&self, claim: &ClaimRef, call: &Call) -> Result<AllocatedClaim, Failure> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let limit = ONE_TRY.min(call.remaining());
            let tried = tokio::select! {
                biased;
                () = call.cancelled.cancelled() => return Err(given_up(claim)),
                tried = tokio::time::timeout(limit, self.once(claim)) => tried,
            };
            let miss = match tried {
                Ok(Ok(found)) => return self.own_part(claim, found),
                Ok(Err(Miss::Final(message))) => return Err(Failure::Permanent(message)),
                Ok(Err(miss)) => miss,
                Err(_) => Miss::Unreachable(format!("no answer within {} s", limit.as_secs_f32().ceil())),
            };
            let asked = if let Miss::Busy { retry_after, .. } = &miss { *retry_after } else { None };
            let pause = backoff.pause().max(asked.unwrap_or_default());
            tracing::debug!(claim = %claim, uid = %claim.uid(), ?pause, "claim not read yet: {}", miss.text());
            if !call.pause(pause).await {
                if call.cancelled.is_cancelled() {
                    return Err(given_up(claim));
                }
                return Err(Failure::Permanent(miss.after(begun.elapsed(), claim)));
            }
        }
    }

    async fn once(&self, claim: &ClaimRef) -> Result<ResourceClaim, Miss> {
        let _turn = self.turns.acquire().await.map_err(|e| Miss::Final(e.to_string()))?;
        let path = format!("/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims/{}", claim.namespace(), claim.name());
        let request = Request::get(path)
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|e| Miss::Final(format!("ResourceClaim {claim} cannot be asked for: {e}")))?;
        let answer = self.client.send(request).await.map_err(|e| Miss::Unreachable(with_causes(&e)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER)
            .collect()
            .await
            .map_err(|e| Miss::Unreachable(format!("the answer broke off: {e}")))?
            .to_bytes();
        if head.status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|e| Miss::Unreachable(format!("the answer is not a ResourceClaim: {e}")));
        }
        let status: Status = serde_json::from_slice(&body).unwrap_or_default();
        Err(classify(claim, head.status, &head.headers, status.message.unwrap_or_default()))
    }

    fn own_part(&self, claim: &ClaimRef, found: ResourceClaim) -> Result<AllocatedClaim, Failure> {
        let pod_claim = pod_claim_name(found.metadata.annotations.as_ref());
        let found_uid = found.metadata.uid.unwrap_or_default();
        if found_uid != claim.uid().as_str() {
            return Err(Failure::Permanent(format!(
                "ResourceClaim {claim} is not the one that the pod was given: it was deleted and created again (wanted UID \
                 {}, found {found_uid}); delete the pod so that it is created again with the new claim",
                claim.uid()
            )));
        }
        let status = found.status.unwrap_or_default();
        let Some(devices) = status.allocation.and_then(|allocation| allocation.devices) else {
            return Err(Failure::Permanent(format!(
                "ResourceClaim {claim} is not allocated: the scheduler has taken its devices back or never chose any; \
                 delete the pod so that it is scheduled again"
            )));
        };
        let (results, configs) = split(&self.driver, devices);
        if results.is_empty() {
            return Err(Failure::Permanent(format!(
                "the allocation of ResourceClaim {claim} holds no device of driver {}",
                self.driver
            )));
        }
        let reserved_for = status.reserved_for.unwrap_or_default().into_iter().filter_map(pod).collect();
        Ok(AllocatedClaim { claim: claim.clone(), results, configs, reserved_for, pod_claim })
    }
}

impl Miss {
    fn text(&self) -> String {
        match self {
            Self::Unreachable(message) | Self::Final(message) => message.clone(),
            Self::Busy { status, message, .. } => format!("{status} {message}").trim_end().to_owned(),
        }
    }

    /// What a user reads when the budget is spent.
    fn after(&self, spent: Duration, claim: &ClaimRef) -> String {
        let spent = spent.as_secs_f32().ceil();
        match self {
            Self::Busy { .. } => format!(
                "the API server did not serve ResourceClaim {claim} for {spent} s, its last answer was {}; this is tried \
                 again",
                self.text()
            ),
            _ => format!(
                "the API server could not be reached for {spent} s while fetching ResourceClaim {claim}: {}; this is tried \
                 again",
                self.text()
            ),
        }
    }
}

/// What a prepare says that an unprepare of the same claim has overtaken.
pub(crate) fn given_up(claim: &ClaimRef) -> Failure {
    Failure::Permanent(format!("ResourceClaim {claim} is being unprepared; preparing it was given up"))
}

fn classify(claim: &ClaimRef, status: StatusCode, headers: &HeaderMap, message: String) -> Miss {
    match status {
        StatusCode::NOT_FOUND => Miss::Final(format!(
            "ResourceClaim {claim} does not exist any more; delete the pod so that it gets a new claim, or create the \
             claim again"
        )),
        StatusCode::FORBIDDEN => Miss::Final(format!(
            "the driver may not read ResourceClaim {claim}; an administrator must grant its service account \"get\" on \
             resourceclaims.resource.k8s.io ({message})"
        )),
        // A token is rotated under us now and then, so that a refused one is worth another try.
        StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Miss::Busy { status, message, retry_after: retry_after(headers) }
        }
        _ if status.is_server_error() => Miss::Busy { status, message, retry_after: retry_after(headers) },
        _ => Miss::Final(format!("the API server refused to give ResourceClaim {claim}: {status} {message}")),
    }
}

/// `Retry-After` in whole seconds; Kubernetes never sends the date form.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

fn split(driver: &DriverName, devices: DeviceAllocationResult) -> (Vec<DeviceResult>, Vec<OpaqueConfig>) {
    let results = devices.results.unwrap_or_default().into_iter().filter(|result| result.driver == driver.as_str());
    let results = results.map(|result| DeviceResult {
        request: RequestName::parse(&result.request),
        pool: result.pool,
        device: result.device,
        admin_access: result.admin_access.unwrap_or_default(),
        share_id: result.share_id,
        consumed_capacity: result.consumed_capacity.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect(),
    });
    let mut configs: Vec<_> = devices
        .config
        .unwrap_or_default()
        .into_iter()
        .filter_map(|config| {
            let opaque = config.opaque.filter(|opaque| opaque.driver == driver.as_str())?;
            let source = if config.source == "FromClass" { ConfigSource::Class } else { ConfigSource::Claim };
            Some(OpaqueConfig {
                source,
                requests: config.requests.unwrap_or_default(),
                parameters: opaque.parameters.0,
            })
        })
        .collect();
    configs.sort_by_key(|config| config.source);
    (results.collect(), configs)
}

fn pod(consumer: ResourceClaimConsumerReference) -> Option<PodRef> {
    let is_pod = consumer.resource == "pods" && consumer.api_group.unwrap_or_default().is_empty();
    is_pod.then_some(PodRef { name: consumer.name, uid: consumer.uid })
}
