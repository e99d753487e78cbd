//! Builds the parts, joins the tasks, and orders their end.
use aliquot_admission::Site;
use aliquot_daemon::{
    logs,
    pages::{self, Pages},
};
use tokio::{sync::watch as channel, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    args::{Cli, LeaseArgs, SweepArgs},
    cluster::Cluster,
    http,
    lease::{self, Holder},
    metrics::Metrics,
    notes::Reporter,
    sweep::{self, Sweep},
    watch,
};

/// Why the controller can't run on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The log filter.
    #[error(transparent)]
    Logs(#[from] logs::BadFilter),
    /// The system refuses the runtime or its signals.
    #[error("the runtime can't be started")]
    Runtime(#[source] std::io::Error),
    /// No way to the API server.
    #[error("no access to the API server: run in a pod with a service account, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// No way to the API server.
    #[error("no access to the API server: run in a pod with a service account, or set KUBECONFIG")]
    Access(#[source] kube::Error),
    /// No name for this replica.
    #[error("--identity (POD_NAME) is needed: this machine's name can't be had")]
    Nameless,
    /// The address of metrics and probes.
    #[error(transparent)]
    Bind(#[from] http::BindError),
    /// The admission webhook.
    #[error(transparent)]
    Webhook(#[from] aliquot_admission::Error),
    /// A task that never ends has ended.
    #[error("a part of the controller has ended unexpectedly; the log may say why")]
    Ended,
}

/// Runs until SIGTERM or SIGINT, or until something fails that a restart may mend.
pub(crate) fn run(cli: Cli) -> Result<(), Error> {
    logs::start(&cli.logs)?;
    // One thread serves: all work is short or waits.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let result = runtime.block_on(serve(cli));
    runtime.shutdown_background();
    result
}

async fn serve(cli: Cli) -> Result<(), Error> {
    let stop = aliquot_daemon::stop_on_signals().map_err(Error::Runtime)?;
    let mut config = kube::Config::infer().await?;
    // Whoever asks knows when to ask again.
    config.default_retry = false;
    let lease = lease_settings(&cli.lease, &config)?;
    let client = kube::Client::try_from(config).map_err(Error::Access)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        driver = cli.sweep.driver_name,
        identity = lease.identity,
        "starting"
    );
    let end_lease = CancellationToken::new();
    let (holder, leadership) = Holder::new(client.clone(), lease.clone());
    let holding = tokio::spawn(holder.run(end_lease.clone()));
    let reviews = aliquot_admission::Metrics::default();
    let mut webhook = webhook(&cli, client.clone(), &lease, reviews.clone(), &stop);
    let mut tasks = tasks(cli, client, &lease, leadership, &reviews, &stop).await?;
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(_) = tasks.join_next() => if stop.is_cancelled() { Ok(()) } else { Err(Error::Ended) },
        Some(result) = webhook.join_next() => match result {
            Ok(Err(error)) => Err(error.into()),
            _ if stop.is_cancelled() => Ok(()),
            _ => Err(Error::Ended),
        },
    };
    stop.cancel();
    // The next one may begin as soon as the Lease is free, so all that acts ends first.
    tasks.shutdown().await;
    end_lease.cancel();
    let _ = holding.await;
    // Answers that are under way are given; nobody else waits for them.
    while webhook.join_next().await.is_some() {}
    tracing::info!("stopped");
    ended
}

/// The admission webhook, which every replica serves, whoever leads.
///
/// Readiness doesn't wait for it: API servers go on without (`failurePolicy`), and the sweep must not wait for a Secret.
fn webhook(
    cli: &Cli,
    client: kube::Client,
    lease: &lease::Settings,
    metrics: aliquot_admission::Metrics,
    stop: &CancellationToken,
) -> JoinSet<Result<(), aliquot_admission::Error>> {
    let site = Site { driver_name: cli.sweep.driver_name.clone(), namespace: lease.namespace.clone() };
    let mut task = JoinSet::new();
    // A token of its own: if it fails, that mustn't look like an orderly end.
    task.spawn(aliquot_admission::run(cli.webhook.clone(), site, metrics, client, stop.child_token()));
    task
}

/// Everything that runs beside the Lease and the webhook; what is added to the controller is spawned here.
async fn tasks(
    cli: Cli,
    client: kube::Client,
    lease: &lease::Settings,
    leadership: lease::Leadership,
    reviews: &aliquot_admission::Metrics,
    stop: &CancellationToken,
) -> Result<JoinSet<()>, Error> {
    // Destructured in full, so that a flag that nothing uses doesn't compile.
    let Cli { sweep, lease: _, webhook: _, http_address, logs: _ } = cli;
    let SweepArgs { driver_name, slice_grace, stuck_after, release_stuck_claims, page_size } = sweep;
    let (metrics, shared) = (Metrics::default(), watch::Shared::default());
    let (readiness, ready) = channel::channel(false);
    let mut tasks = JoinSet::new();

    let unread = || "the cluster's objects are not all read yet".to_owned();
    let missing = move || (!*ready.borrow()).then(unread).into_iter().collect();
    let pages = Pages { metrics: metrics.registry(reviews), missing, service: "aliquot-controller".to_owned() };
    tasks.spawn(pages::serve(http::bind(http_address).await?, pages, stop.clone()));

    for watch in watch::all(&client, &driver_name, page_size, &shared, &metrics) {
        tasks.spawn(watch);
    }
    let reporter = Reporter { driver: driver_name, identity: lease.identity.clone() };
    let settings = sweep::Settings { slice_grace, stuck_after, release: release_stuck_claims, reporter };
    let cluster = Cluster::new(client, leadership.clone(), metrics.clone());
    tasks.spawn(Sweep::new(settings, shared, leadership, cluster, metrics, readiness).run());
    Ok(tasks)
}

fn lease_settings(args: &LeaseArgs, config: &kube::Config) -> Result<lease::Settings, Error> {
    let LeaseArgs { identity, namespace, lease_name, lease_duration } = args;
    Ok(lease::Settings {
        namespace: namespace.clone().unwrap_or_else(|| config.default_namespace.clone()),
        name: lease_name.clone(),
        identity: identity.clone().or_else(host).ok_or(Error::Nameless)?,
        duration: *lease_duration,
    })
}

/// This machine's name.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
