//! `aliquot-driver run`: builds the parts, joins the tasks, and orders their end.
use std::{path::PathBuf, sync::Arc, time::Instant};

use aliquot_daemon::logs;
use dra_plugin::{
    Builder, DriverName, Plugin,
    slices::{NodeName, Publisher},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    alias,
    args::RunArgs,
    binding::Binder,
    claim::{self, Claims, Site},
    discovery::{self, View},
    edits::Edits,
    events, facts,
    fault::{self, Point},
    health::{self, Chart, Health},
    hook, instance,
    notices::{self, Notices},
    offer,
    offering::{self, Offering},
    others::{self, Others},
    policy::{self, InForce},
    privileges,
    roots::Roots,
    sharing::{
        guard::{self, Procfs, Turn, Usage},
        guarding,
        limits::{self, Limits},
    },
    sweep::{self, report::Report},
    telemetry::{health::Readiness, metrics},
};

/// Why the driver can't run on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The log filter.
    #[error(transparent)]
    Logs(#[from] logs::BadFilter),
    /// What the process may do can't be made less.
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    /// The system refuses the runtime or its signals.
    #[error("the runtime can't be started")]
    Runtime(#[source] std::io::Error),
    /// The kernel's boot id can't be read.
    #[error("the boot id can't be read below {}: is --proc-root right?", proc.display())]
    BootId {
        /// procfs.
        proc: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No way to the API server.
    #[error("no access to the API server: run in a pod with a service account, or set KUBECONFIG")]
    Access(#[source] kube::Error),
    /// No way to the API server.
    #[error("no access to the API server: run in a pod with a service account, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// A name that Kubernetes refuses.
    #[error("--driver-name")]
    Driver(#[from] dra_plugin::InvalidDriverName),
    /// A name that Kubernetes refuses.
    #[error("--node-name")]
    Node(#[from] dra_plugin::slices::InvalidName),
    /// The CDI kind of claims.
    #[error("--driver-name can't be a CDI vendor")]
    Kind(#[from] cdi_spec::InvalidName),
    /// Another driver.
    #[error(transparent)]
    Instance(#[from] instance::Error),
    /// Claims.
    #[error(transparent)]
    Claims(#[from] claim::Error),
    /// The CDI directory.
    #[error("--cdi-root can't be used")]
    Store(#[from] cdi_spec::StoreError),
    /// The directory in which drivers take turns.
    #[error("--run-root can't be used")]
    Run(#[from] owned_dir::Error),
    /// The metrics' address.
    #[error(transparent)]
    Metrics(#[from] metrics::BindError),
    /// The plugin's sockets.
    #[error(transparent)]
    Build(#[from] dra_plugin::BuildError),
    /// The plugin's sockets.
    #[error(transparent)]
    Plugin(#[from] dra_plugin::RunError),
}

/// Runs until SIGTERM or SIGINT, or until something fails that a restart may mend.
pub(crate) fn run(args: RunArgs) -> Result<(), Error> {
    logs::start(&args.logs)?;
    args.keep_capabilities.alone()?;
    // One thread serves: all work is short or waits, and NVML has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let result = runtime.block_on(serve(args));
    // A hung NVML call must not hold up the end.
    runtime.shutdown_background();
    result
}

#[allow(clippy::too_many_lines, reason = "all parts and how they are joined, to be read in one go")]
async fn serve(args: RunArgs) -> Result<(), Error> {
    // Destructured in full, so that a flag that nothing uses doesn't compile.
    let RunArgs {
        identity,
        places,
        logs: _,
        pod_uid,
        policy,
        metrics_address,
        prepare_budget,
        rescan_interval,
        nvml_deadline,
        guard_interval,
        sweep,
        hook,
        other_plugins,
        vfio_alias,
        device_metadata,
        hook_root,
        cgroup_root,
        evict_from_ill_gpus,
        illness_settles,
        keep_capabilities: _,
    } = args;
    let stop = aliquot_daemon::stop_on_signals().map_err(Error::Runtime)?;
    let roots = Roots::new(&places, &identity.driver_name);
    let _sole = instance::alone(&roots.run, pod_uid.as_deref())?;
    let boot_id = roots.boot_id().map_err(|source| Error::BootId { proc: roots.proc.clone(), source })?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        driver = identity.driver_name,
        node = identity.node_name,
        "starting"
    );

    let (views, view) = watch::channel(View::Searching);
    let (questions, asked) = watch::channel(None);
    let (happened, happenings) = mpsc::unbounded_channel();
    let (ended, read) = watch::channel(Instant::now());
    let findings = discovery::Findings { views, read: ended, questions, events: happened };
    let hook = hook::begin(&roots, hook.as_deref(), &hook_root.join(&identity.driver_name));
    let procfs = Procfs::open(&roots.proc, cgroup_root.as_deref());
    let limits = Limits::begin(&roots, hook.is_some(), procfs.kubepods().clone());
    let edits = Edits::new(roots.clone(), hook.clone());
    let alias = vfio_alias.map(|kind| cdi_spec::Store::open(&roots.cdi).map(|store| (kind, store))).transpose()?;
    let discovering = discovery::Settings {
        roots: roots.clone(),
        deadline: nvml_deadline,
        interval: rescan_interval,
        hard_limits: limits.are_ready(),
        processes: procfs.sight().is_ok(),
    };
    let (driver, node) = (DriverName::new(&identity.driver_name)?, NodeName::new(&identity.node_name)?);
    let pool = offer::pool_name(&driver, &node)?;
    let client = client().await?;
    let (publisher, publishing) = Publisher::new(client.clone(), driver.clone(), node.clone());
    let (slices, shown) = (publishing.status(), publishing.clone());
    let publisher = tokio::spawn(publisher.run(stop.clone()));
    let (healths, health) = watch::channel(Vec::new());
    let (policies, in_force) = watch::channel(InForce::default());
    let settings = policy::Settings { file: policy, run: roots.run.clone() };
    let following = tokio::spawn(policy::follow(settings, view.clone(), policies, stop.clone()));
    let (notices, told) = Notices::new();
    let writing =
        tokio::spawn(notices::write(client.clone(), driver.to_string(), node.to_string(), told, stop.clone()));
    let chart = Chart::open(&roots.run, boot_id.clone())?;
    let (wards, ward) = watch::channel(Health::kept(&chart));
    let readings = read.clone();
    let (resets, reset) = mpsc::unbounded_channel();
    let sources =
        health::Sources { view: view.clone(), read, events: happenings, resets: reset, notices: notices.clone() };
    let illness = health::Marker::new(&identity.driver_name, evict_from_ill_gpus);
    let settings = health::Settings { settle: illness_settles, marker: illness.clone() };
    let nursing = tokio::spawn(health::follow(settings, chart, sources, wards, stop.clone()));
    let telling = tokio::spawn(tell(roots.clone(), notices.clone(), view.clone(), in_force.clone(), stop.clone()));

    let others = Others::new(&roots.kubelet, &identity, other_plugins);
    let around = claim::Around {
        view: view.clone(),
        read: readings,
        policy: in_force.clone(),
        notices: notices.clone(),
        gate: others.gate(),
        health: health::Gate::new(ward.clone()),
        resets,
        binder: Binder::new(roots.clone(), asked.clone()),
    };
    let claims = open_claims(&roots, &identity.driver_name, pool.to_string(), boot_id, hook, around)?;
    let claims = Arc::new(claims.telling(device_metadata));
    // What they have taken from NVIDIA's driver belongs to what is there.
    let discovery = tokio::spawn(discovery::follow(discovering, findings, Arc::clone(&claims), stop.clone()));
    let in_cluster = sweep::Asker { client: client.clone(), driver: driver.to_string(), pool: pool.to_string() };
    let known = others.latest();
    let offering = Offering {
        client: client.clone(),
        driver,
        node,
        pool,
        publishing,
        healths,
        notices: notices.clone(),
        elsewhere: others.marker(),
        illness,
    };
    let deciding = offering::Sources {
        view: view.clone(),
        policy: in_force.clone(),
        others: known.clone(),
        health: ward.clone(),
        claims: Arc::clone(&claims),
    };
    let around = others::Sources {
        client: client.clone(),
        view: view.clone(),
        policy: in_force.clone(),
        notices: notices.clone(),
        claims: Arc::clone(&claims),
    };
    let watching = tokio::spawn(others.follow(around, stop.clone()));
    let (tallies, tally) = watch::channel(facts::Tally::default());
    let sources = facts::Sources {
        claims: Arc::clone(&claims),
        view: view.clone(),
        policy: in_force.clone(),
        health: ward.clone(),
    };
    let settings = facts::Settings { client: client.clone(), driver: identity.driver_name.clone() };
    let informing = tokio::spawn(facts::follow(settings, sources, tallies, stop.clone()));
    let (usages, usage) = watch::channel(Usage::default());
    let library = limits::Library::new(asked.clone(), nvml_deadline);
    let limiting = tokio::spawn(answer_hooks(limits, Arc::clone(&claims), library, stop.clone()));
    let library = guarding::Library { questions: asked.clone(), deadline: nvml_deadline };
    let sources = guarding::Sources {
        claims: Arc::clone(&claims),
        view: view.clone(),
        policy: in_force.clone(),
        library: library.clone(),
    };
    let settings = guard::Settings {
        procfs: procfs.clone(),
        turn: Turn::open(&roots.run, "guard")?,
        interval: guard_interval,
        driver: identity.driver_name.clone(),
        node: identity.node_name.clone(),
        notices: notices.clone(),
    };
    let guarding = tokio::spawn(guarding::run(sources, settings, client.clone(), usages, stop.clone()));
    let calls = Arc::new(metrics::Calls::default());
    let plugin = Plugin::builder(&identity.driver_name)?
        .kubelet_root(&roots.kubelet)
        .claims(client)
        .health(health)
        .observer(calls.clone())
        .budget(prepare_budget);
    let plugin = beside_others(plugin, pod_uid).build(Arc::clone(&claims))?;
    let readiness = Readiness { registration: plugin.registration(), slices };
    let offering = tokio::spawn(offering.run(deciding, plugin.registration(), stop.clone()));
    let aliases = view.clone();
    let (reports, report) = watch::channel(Report::default());
    let sources = metrics::Sources {
        view,
        policy: in_force,
        usage,
        others: known,
        health: ward,
        claims: Arc::clone(&claims),
        report,
        facts: tally,
        calls,
        publishing: shown,
        questions: asked,
        procfs: procfs.clone(),
    };
    let metrics = metrics::serve(metrics_address, identity.driver_name, sources, readiness, stop.clone()).await?;
    let aliasing = tokio::spawn(alias::follow(alias, edits, aliases, stop.clone()));
    let restoring = tokio::spawn(restore(Arc::clone(&claims), stop.clone()));
    let resetting = tokio::spawn(reset_again(Arc::clone(&claims), stop.clone()));
    let settling = tokio::spawn(settle(Arc::clone(&claims), stop.clone()));
    let turns = plugin.turns();
    let settings = sweep::Settings { args: sweep, roots, claims, asker: in_cluster, turns, notices, procfs, library };
    let sweeping = tokio::spawn(sweep::run(settings, reports, stop.clone()));
    let result = plugin.run(stop.clone()).await;
    stop.cancel();
    for task in [
        discovery, publisher, following, offering, nursing, telling, writing, watching, guarding, limiting, metrics,
        restoring, settling, resetting, sweeping, aliasing, informing,
    ] {
        let _ = task.await;
    }
    tracing::info!("stopped; slices and prepared claims stay");
    Ok(result?)
}

/// The claims of this node, with their records and the CDI directory.
fn open_claims(
    roots: &Roots,
    driver: &str,
    pool: String,
    boot_id: String,
    hook: Option<hook::Hook>,
    around: claim::Around,
) -> Result<Claims, Error> {
    let site = Site { pool, cdi_kind: cdi_spec::Kind::new(driver, "claim")? };
    let store = spec_store(roots)?;
    let edits = Edits::new(roots.clone(), hook);
    Ok(Claims::open(site, boot_id, &roots.run, store, edits, around)?)
}

/// With sockets of its own, if this instance has a name of its own.
fn beside_others(plugin: Builder, pod_uid: Option<String>) -> Builder {
    match pod_uid {
        Some(uid) => plugin.rolling_update(uid),
        None => plugin,
    }
}

/// Of GPUs, the policy, and containers that the hook refused, until `stop`.
async fn tell(
    roots: Roots,
    notices: Notices,
    view: watch::Receiver<View>,
    policy: watch::Receiver<InForce>,
    stop: CancellationToken,
) {
    let refusals = hook::refusals::tell(roots, notices.clone(), stop.clone());
    tokio::join!(events::tell(notices, view, policy, stop), refusals);
}

/// From the claims' records, until `stop`.
async fn answer_hooks(limits: Limits, claims: Arc<Claims>, library: limits::Library, stop: CancellationToken) {
    let records = |uid: &str| claims.record(uid).map_err(|error| crate::report(&error));
    limits.serve(records, library, stop).await;
}

fn spec_store(roots: &Roots) -> Result<cdi_spec::Store, cdi_spec::StoreError> {
    let dir = owned_dir::Dir::open(&roots.cdi)?.watched(fault::specs);
    fault::point(Point::CdiDirMade);
    Ok(cdi_spec::Store::within(dir))
}

/// The specs of claims that were prepared before.
async fn restore(claims: Arc<Claims>, stop: CancellationToken) {
    stop.run_until_cancelled(claims.restore_specs()).await.unwrap_or_default();
}

/// The time slices that earlier claims have left behind.
async fn settle(claims: Arc<Claims>, stop: CancellationToken) {
    stop.run_until_cancelled(claims.settle_debts()).await.unwrap_or_default();
}

/// What virtual machines have left on GPUs.
async fn reset_again(claims: Arc<Claims>, stop: CancellationToken) {
    stop.run_until_cancelled(claims.reset_again()).await.unwrap_or_default();
}

/// A client whose retries are those of the callers, who know their deadlines.
pub(crate) async fn client() -> Result<kube::Client, Error> {
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    kube::Client::try_from(config).map_err(Error::Access)
}
