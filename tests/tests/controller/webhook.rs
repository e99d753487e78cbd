//! The admission webhook as a part of the controller: it comes up by itself, and nothing else waits for it.
use aliquot_tests::{
    controllers::{Stage, slice},
    testbed::{DRIVER, Result, documents},
};
use serde_json::Value;

use super::{FAST, PATIENT};

const ADDRESS: &str = "--webhook-address=127.0.0.1:0";
const NAME: &str = "aliquot-webhook";

/// Of deploy/base/webhook.yaml.
fn seed(stage: &Stage, kind: &str, resource: &'static str) -> Result<()> {
    let objects = documents::<Value>(include_str!("../../../deploy/base/webhook.yaml"))?;
    stage.api.seed(resource, objects.into_iter().filter(|object| object["kind"] == kind));
    Ok(())
}

fn trusts(stage: &Stage) -> bool {
    let configuration = stage.api.peek("validatingwebhookconfigurations", "", NAME);
    configuration.is_some_and(|found| found.pointer("/webhooks/0/clientConfig/caBundle").is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_replica_makes_the_certificate_and_has_the_api_server_trust_it() -> Result<()> {
    let stage = Stage::start().await?;
    stage.permit_webhook()?;
    seed(&stage, "Secret", "secrets")?;
    seed(&stage, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations")?;
    let mut replica = stage.replica("a", &[&PATIENT[..], &[ADDRESS]].concat())?;
    stage.until("the API server trusts the webhook", || trusts(&stage)).await?;
    let secret = stage.api.peek("secrets", "aliquot", NAME).unwrap();
    assert!(secret["data"]["tls.crt"].is_string(), "{secret}");
    assert!(replica.stop()?.success(), "{}", replica.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_secret_the_rest_of_the_controller_works_and_is_ready() -> Result<()> {
    let stage = Stage::start().await?;
    stage.permit_webhook()?;
    stage.api.seed("resourceslices", [slice(DRIVER, "gone", "u1", &[])]);
    let replica = stage.replica("a", &[&FAST[..], &[ADDRESS]].concat())?;
    replica.ready().await?;
    stage.until("the slice is gone", || stage.slices().is_empty()).await?;
    stage.until("the log says what to do", || replica.log().contains("Secret aliquot-webhook is not there")).await?;
    seed(&stage, "Secret", "secrets")?;
    seed(&stage, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations")?;
    stage.until("it goes on by itself", || trusts(&stage)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_served_ends_the_controller_with_the_reason() -> Result<()> {
    let stage = Stage::start().await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let flag = format!("--webhook-address={}", taken.local_addr()?);
    let mut replica = stage.replica("a", &[&PATIENT[..], &[flag.as_str()]].concat())?;
    stage.until("it ends", || replica.log().contains("can't be served")).await?;
    assert_eq!(replica.wait()?.code(), Some(1), "{}", replica.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_address_means_no_webhook() -> Result<()> {
    let stage = Stage::start().await?;
    seed(&stage, "Secret", "secrets")?;
    let replica = stage.replica("a", &[&PATIENT[..], &["--webhook-address="]].concat())?;
    replica.ready().await?;
    assert!(!replica.log().contains("webhook"), "{}", replica.log());
    assert!(stage.api.peek("secrets", "aliquot", NAME).unwrap().get("data").is_none());
    Ok(())
}
