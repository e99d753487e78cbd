//! An API server with the objects that a scheduler reads.
use fake_apiserver::Server;
use fake_kubelet::allocator::Scheduler;
use k8s_openapi::api::{
    core::v1::Pod,
    resource::v1::{DeviceClass, ResourceSlice},
};
use kube::{Api, Client, Config, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::DRIVER;

pub(crate) const NODE: &str = "node-1";

/// A cluster of one node with whole GPUs, `nvidia.com/gpu` for pods that know nothing of claims.
pub(crate) struct Cluster {
    pub(crate) api: Server,
    pub(crate) client: Client,
    pub(crate) scheduler: Scheduler,
}

impl Cluster {
    pub(crate) async fn with_gpus(count: usize) -> Self {
        let api = Server::builder().start().await.unwrap();
        let client = Client::try_from(Config::new(api.url().parse().unwrap())).unwrap();
        let devices: Vec<_> = (0..count).map(|index| json!({"name": format!("gpu-{index}")})).collect();
        let spec = json!({"driver": DRIVER, "nodeName": NODE, "devices": devices,
            "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1}});
        create::<ResourceSlice>(&client, json!({"metadata": {"name": "slice"}, "spec": spec})).await;
        let spec = json!({"extendedResourceName": "nvidia.com/gpu"});
        create::<DeviceClass>(&client, json!({"metadata": {"name": "gpu"}, "spec": spec})).await;
        Self { api, scheduler: Scheduler::new(client.clone(), NODE), client }
    }

    pub(crate) async fn pod(&self, name: &str, spec: Value) -> Pod {
        let api = Api::namespaced(self.client.clone(), "default");
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        api.create(&PostParams::default(), &pod).await.unwrap()
    }

    /// A pod whose containers have so many GPUs each.
    pub(crate) async fn pod_with_gpus(&self, name: &str, gpus: &[usize]) -> Pod {
        let containers = gpus.iter().enumerate().map(|(at, count)| {
            json!({"name": format!("c{at}"), "resources": {"limits": {"nvidia.com/gpu": count.to_string()}}})
        });
        self.pod(name, json!({"containers": containers.collect::<Vec<_>>()})).await
    }

    pub(crate) fn claims(&self) -> Vec<Value> {
        self.api.peek_all("resourceclaims")
    }
}

pub(crate) async fn create<K>(client: &Client, object: Value)
where
    K: kube::Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let object = serde_json::from_value(object).unwrap();
    Api::<K>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
}
