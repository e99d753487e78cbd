//! The admission webhook over real TLS, its certificates beside an API server, and the expressions of what is deployed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod answers;
mod cel;
mod certificates;
mod deployed;
mod policy;
mod tls;

use std::{net::SocketAddr, time::Duration};

use aliquot_admission::{Args, Metrics, Site, Webhook};
use aliquot_tests::testbed::{PATIENCE, Result, documents, rules};
use clap::Parser;
use fake_apiserver::Server;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

const DRIVER: &str = "gpu.aliquot.dev";
const NAMESPACE: &str = "aliquot";
/// The name of the Secret, the configuration, the Service and the roles.
const NAME: &str = "aliquot-webhook";
/// The token of the webhook's account.
const ACCOUNT: &str = "aliquot-controller";
const HOST: &str = "aliquot-webhook.aliquot.svc";
const WEBHOOK: &str = include_str!("../../../deploy/base/webhook.yaml");

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// One replica.
struct Replica {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<std::result::Result<(), aliquot_admission::Error>>,
}

impl Replica {
    async fn start(api: &Server, flags: &[&str]) -> Result<Self> {
        let flags = [&["webhook", "--webhook-address", "127.0.0.1:0"], flags].concat();
        let site = Site { driver_name: DRIVER.to_owned(), namespace: NAMESPACE.to_owned() };
        let webhook = Webhook::bind(Cli::try_parse_from(flags)?.args, site, Metrics::default())
            .await?
            .ok_or("there is no webhook")?;
        let (address, stop) = (webhook.address(), CancellationToken::new());
        let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig_with(ACCOUNT))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let task = tokio::spawn(webhook.run(Client::try_from(config)?, stop.clone()));
        Ok(Self { address, stop, task })
    }

    /// Ends as it does at SIGTERM.
    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await??)
    }
}

/// An API server with what is deployed for the webhook.
async fn deployed() -> Result<Server> {
    let api = Server::builder().start().await?;
    api.permit(ACCOUNT, rules(WEBHOOK, NAME)?);
    create(&api, "Secret").await?;
    create(&api, "ValidatingWebhookConfiguration").await?;
    Ok(api)
}

fn document(kind: &str) -> Result<Value> {
    let found = documents::<Value>(WEBHOOK)?.into_iter().find(|object| object["kind"] == kind);
    found.ok_or_else(|| format!("there is no {kind}").into())
}

/// Creates an object of the deployment.
async fn create(api: &Server, kind: &str) -> Result<()> {
    let object = document(kind)?;
    let path = match kind {
        "Secret" => "/api/v1/namespaces/aliquot/secrets",
        _ => "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    };
    let client = Client::try_from(Config::new(api.url().parse()?))?;
    let request =
        http::Request::post(path).header("Content-Type", "application/json").body(object.to_string().into())?;
    client.request::<Value>(request).await?;
    Ok(())
}

/// Whom the configuration trusts.
fn bundle(api: &Server) -> Option<Vec<u8>> {
    let configuration = api.peek("validatingwebhookconfigurations", "", NAME)?;
    let encoded = configuration.pointer("/webhooks/0/clientConfig/caBundle")?;
    serde_json::from_value::<k8s_openapi::ByteString>(encoded.clone()).ok().map(|bytes| bytes.0)
}

/// A part of the Secret.
fn secret(api: &Server, name: &str) -> Option<Vec<u8>> {
    let secret = api.peek("secrets", NAMESPACE, NAME)?;
    serde_json::from_value::<k8s_openapi::ByteString>(secret["data"].get(name)?.clone()).ok().map(|bytes| bytes.0)
}

/// Waits until something is there.
async fn until<T>(what: &str, mut there: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = there().await {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("it did not come to be that {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
