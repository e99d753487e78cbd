//! The kubelet's two DRA contracts, as two thin skins over one [`Runner`].
use std::{collections::BTreeMap, future::Future, sync::Arc};

use futures::{StreamExt, stream::FuturesUnordered};
use kubelet_api::dra::{v1, v1beta1};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    claim::{ClaimRef, PreparedDevice},
    driver::{Driver, Operation},
    observer::{Reason, UnderWay},
    runner::Runner,
};

/// Far more claims than one pod can have; the kubelet sends those of one pod in a call.
const MOST_CLAIMS: usize = 1024;

/// Serves `v1.DRAPlugin` and `v1beta1.DRAPlugin`.
pub(crate) struct Service<D>(Arc<Runner<D>>);

/// One claim as either contract names it.
struct Asked {
    namespace: String,
    name: String,
    uid: String,
}

/// One answer per UID that was asked for.
type Answers<T> = BTreeMap<String, Result<T, String>>;

impl<D> Clone for Service<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: Driver> Service<D> {
    pub(crate) fn new(runner: Arc<Runner<D>>) -> Self {
        Self(runner)
    }

    async fn prepare(
        &self,
        asked: impl ExactSizeIterator<Item = Asked>,
    ) -> Result<Answers<Vec<PreparedDevice>>, Status> {
        let observer = self.0.observer();
        let _under_way = UnderWay::begin(observer, Operation::Prepare);
        let refused = || observer.failed(Operation::Prepare, Reason::Invalid);
        answer_each(asked, |claim| self.0.prepare(claim), refused).await
    }

    async fn unprepare(&self, asked: impl ExactSizeIterator<Item = Asked>) -> Result<Answers<()>, Status> {
        let observer = self.0.observer();
        let _under_way = UnderWay::begin(observer, Operation::Unprepare);
        let refused = || observer.failed(Operation::Unprepare, Reason::Invalid);
        answer_each(asked, |claim| self.0.unprepare(claim), refused).await
    }
}

/// Starts every claim, in the order asked, and waits for all; whatever a claim looks like, its UID gets an answer.
async fn answer_each<T, Fut: Future<Output = Result<T, String>>>(
    asked: impl ExactSizeIterator<Item = Asked>,
    start: impl Fn(ClaimRef) -> Fut,
    refused: impl Fn(),
) -> Result<Answers<T>, Status> {
    if asked.len() > MOST_CLAIMS {
        let message = format!("{} claims in one call; at most {MOST_CLAIMS} are served", asked.len());
        return Err(Status::invalid_argument(message));
    }
    let mut claims: BTreeMap<String, Result<ClaimRef, String>> = BTreeMap::new();
    let running = FuturesUnordered::new();
    for Asked { namespace, name, uid } in asked {
        let claim = ClaimRef::new(namespace, name, uid.clone()).map_err(|e| e.to_string());
        match claims.get(&uid) {
            None => {
                match &claim {
                    Ok(claim) => {
                        let answer = start(claim.clone());
                        let uid = uid.clone();
                        running.push(async move { (uid, answer.await) });
                    }
                    Err(_) => refused(),
                }
                claims.insert(uid, claim);
            }
            Some(earlier) if *earlier != claim => {
                tracing::warn!(uid, "one call names two claims by this UID; the first is served");
            }
            Some(_) => {}
        }
    }
    let mut answers: Answers<T> =
        claims.into_iter().filter_map(|(uid, claim)| Some((uid, Err(claim.err()?)))).collect();
    answers.extend(running.collect::<Vec<_>>().await);
    Ok(answers)
}

#[async_trait]
impl<D: Driver> v1::dra_plugin_server::DraPlugin for Service<D> {
    async fn node_prepare_resources(
        &self,
        request: Request<v1::NodePrepareResourcesRequest>,
    ) -> Result<Response<v1::NodePrepareResourcesResponse>, Status> {
        let asked = request.into_inner().claims.into_iter();
        let answers = self.prepare(asked.map(|c| Asked { namespace: c.namespace, name: c.name, uid: c.uid })).await?;
        let claims = answers.into_iter().map(|(uid, answer)| {
            let (devices, error) = devices_or_error(answer, |device| v1::Device {
                request_names: device.request_names,
                pool_name: device.pool,
                device_name: device.device,
                cdi_device_ids: device.cdi_ids,
                share_id: device.share_id,
            });
            (uid, v1::NodePrepareResourceResponse { devices, error })
        });
        Ok(Response::new(v1::NodePrepareResourcesResponse { claims: claims.collect() }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<v1::NodeUnprepareResourcesRequest>,
    ) -> Result<Response<v1::NodeUnprepareResourcesResponse>, Status> {
        let asked = request.into_inner().claims.into_iter();
        let answers = self.unprepare(asked.map(|c| Asked { namespace: c.namespace, name: c.name, uid: c.uid })).await?;
        let claims = answers
            .into_iter()
            .map(|(uid, answer)| (uid, v1::NodeUnprepareResourceResponse { error: answer.err().unwrap_or_default() }));
        Ok(Response::new(v1::NodeUnprepareResourcesResponse { claims: claims.collect() }))
    }
}

#[async_trait]
impl<D: Driver> v1beta1::dra_plugin_server::DraPlugin for Service<D> {
    async fn node_prepare_resources(
        &self,
        request: Request<v1beta1::NodePrepareResourcesRequest>,
    ) -> Result<Response<v1beta1::NodePrepareResourcesResponse>, Status> {
        let asked = request.into_inner().claims.into_iter();
        let answers = self.prepare(asked.map(|c| Asked { namespace: c.namespace, name: c.name, uid: c.uid })).await?;
        let claims = answers.into_iter().map(|(uid, answer)| {
            // This contract has no place for the share ID.
            let (devices, error) = devices_or_error(answer, |device| v1beta1::Device {
                request_names: device.request_names,
                pool_name: device.pool,
                device_name: device.device,
                cdi_device_ids: device.cdi_ids,
            });
            (uid, v1beta1::NodePrepareResourceResponse { devices, error })
        });
        Ok(Response::new(v1beta1::NodePrepareResourcesResponse { claims: claims.collect() }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<v1beta1::NodeUnprepareResourcesRequest>,
    ) -> Result<Response<v1beta1::NodeUnprepareResourcesResponse>, Status> {
        let asked = request.into_inner().claims.into_iter();
        let answers = self.unprepare(asked.map(|c| Asked { namespace: c.namespace, name: c.name, uid: c.uid })).await?;
        let claims = answers.into_iter().map(|(uid, answer)| {
            (uid, v1beta1::NodeUnprepareResourceResponse { error: answer.err().unwrap_or_default() })
        });
        Ok(Response::new(v1beta1::NodeUnprepareResourcesResponse { claims: claims.collect() }))
    }
}

fn devices_or_error<T>(
    answer: Result<Vec<PreparedDevice>, String>,
    device: impl Fn(PreparedDevice) -> T,
) -> (Vec<T>, String) {
    match answer {
        Ok(devices) => (devices.into_iter().map(device).collect(), String::new()),
        // An empty text would read as success.
        Err(error) if error.is_empty() => (Vec::new(), "failed without saying why".to_owned()),
        Err(error) => (Vec::new(), error),
    }
}
