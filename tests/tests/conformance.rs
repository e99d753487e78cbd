//! What the conformance steps want of a cluster before they start, said one by one; the steps themselves need a real one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::Duration;

use aliquot_tests::{
    conformance::{self, Cluster, Error, Missing, NAMESPACE, RESOURCE},
    testbed::{Result, Testbed, apply, documents},
};
use fake_apiserver::Server;
use k8s_openapi::api::{core::v1::Namespace, resource::v1::DeviceClass};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_prepared_is_left_alone_and_told_what_it_lacks() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let cluster = Cluster::new(testbed.client.clone(), NAMESPACE, Duration::from_secs(20));
    let missing = async || match cluster.offer().await {
        Err(Error::Missing(missing)) => Some(missing),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    };
    let none = async || {
        let steps = conformance::run(&cluster, "image", std::future::pending(), |step| panic!("{step}"));
        Box::pin(steps).await.unwrap_err().to_string()
    };
    assert_eq!(none().await, Missing::Class.to_string());
    let namespaces: Api<Namespace> = Api::all(testbed.client.clone());
    assert!(namespaces.get_opt(NAMESPACE).await?.is_none());
    // As the overlay has it.
    let classes: Api<DeviceClass> = Api::all(testbed.client.clone());
    let stands = Patch::Merge(json!({"spec": {"extendedResourceName": RESOURCE}}));
    classes.patch("gpu.aliquot.dev", &PatchParams::default(), &stands).await?;
    assert_eq!(missing().await, Some(Missing::RuntimeClass));
    let class = include_str!("../../deploy/components/runtimeclass/runtimeclass.yaml");
    apply(&testbed.client, &documents(class)?).await?;
    assert_eq!(missing().await, Some(Missing::Gpus));
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    assert_eq!(missing().await, None);
    classes.patch("share.gpu.aliquot.dev", &PatchParams::default(), &stands).await?;
    assert!(matches!(missing().await, Some(Missing::Classes(both)) if both.len() == 2));
    Ok(())
}
