//! The webhook by itself: `serve --driver-name NAME --namespace NAMESPACE`, with the flags of [`aliquot_admission::Args`].
use aliquot_admission::{Args, Metrics, Site};
use clap::Parser;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Cli {
    /// Whose parameters are judged.
    #[arg(long, default_value = "gpu.aliquot.dev")]
    driver_name: String,
    /// Where the Secret is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "aliquot")]
    namespace: String,
    #[command(flatten)]
    webhook: Args,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Cli { driver_name, namespace, webhook } = Cli::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let client = kube::Client::try_default().await?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        // Without the signal it runs on.
        if tokio::signal::ctrl_c().await.is_ok() {
            told.cancel();
        }
    });
    let site = Site { driver_name, namespace };
    Ok(aliquot_admission::run(webhook, site, Metrics::default(), client, stop).await?)
}
