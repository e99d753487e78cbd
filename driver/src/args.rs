//! Every flag and environment variable of the driver, typed.
#![allow(clippy::doc_markdown, reason = "these comments are the text of --help, where backticks are noise")]
use std::{net::SocketAddr, path::PathBuf, time::Duration};

use aliquot_daemon::logs::Logs;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::privileges::Keep;

/// Hands out NVIDIA GPUs to Kubernetes pods through Dynamic Resource Allocation.
///
/// Runs on each node with GPUs, finds them through NVML, publishes them as ResourceSlices, and prepares the
/// ResourceClaims of pods by writing one CDI spec per claim.
#[derive(Debug, Parser)]
#[command(name = "aliquot-driver", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve this node: publish its GPUs and prepare claims, until SIGTERM.
    ///
    /// Needs root on the node, access to the API server (in-cluster or KUBECONFIG) and the kubelet's root directory at
    /// the same path inside and outside of the container.
    Run(Box<RunArgs>),
    /// Show this node's GPUs and the claims that hold them, and what the sweep thinks of each; no cluster needed.
    ///
    /// Like nvidia-smi, but by claim: below each GPU the claims that hold it or a share of it, their pods, what they use of
    /// its memory and of its time, and their age. Reads NVML and the records as they are, takes no lock and changes nothing,
    /// so it works without a running driver too. What is stale is told by the running driver, which only root may ask; what
    /// each claim uses shows where the node's processes do (in the driver's pod, or as root on the node).
    ///
    /// For example: kubectl -n aliquot exec -it ds/aliquot-driver -- aliquot-driver status --watch
    ///
    /// Or: aliquot-driver status -o json | jq -r '.claims[] | select(.state == "quarantined") | .file'
    ///
    /// The JSON is one object, with --watch one a line: apiVersion "gpu.aliquot.dev/v1alpha1", kind "ClaimReport", version
    /// (of this program), driver, sweep {mode, graceSeconds, secondsAgo} where a driver runs that sweeps, gpus [{index,
    /// uuid, pciBusID, iommuGroup, productName, driverVersion, memoryBytes, memoryUsedBytes, busyPercent,
    /// temperatureCelsius, powerMilliwatts, powerLimitMilliwatts, trouble, othersMemoryBytes}], gpusTrouble where there are
    /// none, claims [{namespace, name, uid, state, pods [{name, uid}], ageSeconds, file, trouble, devices [{device,
    /// request, gpu, shareId, memoryBytes, hardLimit, iommuGroup, pciBusIDs, memoryUsedBytes, smPercent, isTogether}],
    /// sweep {verdict, reason, forSeconds}}], and timeSlicesOwed [{gpu, reason}], GPUs that keep the time slice of a claim
    /// that is gone. state is "preparing", "prepared", "quarantined" or "spec-only"; verdict is "in_use", "asked",
    /// "allocated", "unknown", "suspect" or "stale"; with isTogether, the figures are of all claims of one pod on that GPU;
    /// iommuGroup is of what virtual machines can have. What isn't known is left out. Names and fields stay; new ones may
    /// come.
    Status(Box<StatusArgs>),
    /// Print what this node would publish; no cluster needed.
    Inspect(Box<InspectArgs>),
    /// Check a policy file, or print its schema; no cluster needed.
    ///
    /// A policy says which of a node's GPUs are offered, whole or in shares, and how these are sized and guarded.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Move from NVIDIA's device plugin with time slicing: print or write what aliquot needs instead; no cluster needed.
    ///
    /// Reads a configuration of the device plugin (a file, or a ConfigMap with one or several) and manifests with pods.
    /// Makes the policy file and its ConfigMap, DeviceClasses for resources of your own, ResourceClaimTemplates, and the
    /// pods changed to use them. Why each choice was made is said in comments, and on standard error as "note: ...";
    /// what is lost or may surprise as "warning: ...". Nothing is written unless everything can be converted.
    ///
    /// For example: aliquot-driver convert --config time-slicing.yaml --out converted deployment.yaml
    ///
    /// Or: kubectl get deployments -o yaml | aliquot-driver convert --config time-slicing.yaml --out converted /dev/stdin
    ///
    /// What was read from a cluster goes back with "kubectl replace -f converted/stdin.yaml": "kubectl apply" would leave
    /// what it hasn't set itself. The other files are applied.
    Convert(Box<ConvertArgs>),
    /// Check all that this node needs, and say how to mend what is wrong.
    ///
    /// Looks at NVML and the driver's installation, device numbers and nodes, the container hook, the kubelet's
    /// directories, CDI in the container runtime, and at the API server: its versions, feature gates and permissions, and
    /// who else hands out these GPUs. Changes nothing. Best run where the driver runs, with its environment and service
    /// account; it serves as well before anything is installed.
    ///
    /// For example: KUBECONFIG=/etc/kubernetes/admin.conf aliquot-driver doctor --node-name "$(hostname)"
    ///
    /// Or, in scripts: aliquot-driver doctor --strict -o json | jq -r '.checks[] | select(.fix) | .name + ": " + .fix'
    ///
    /// Exits with 0 if nothing failed, 1 if a check did (with --strict: or warns), 2 if the command line is wrong. A check
    /// that can't be made here is skipped, and says why.
    ///
    /// The JSON is one object: apiVersion "gpu.aliquot.dev/v1alpha1", kind "DoctorReport", version (of this program),
    /// driver, node, summary {failed, warnings, skipped, ok}, and checks [{name, verdict, found, fix}], the worst first.
    /// Each name comes once, verdict is "failed", "warning", "skipped" or "ok", and fix is there for the first two only.
    /// Names and fields stay; new ones may come.
    Doctor(Box<DoctorArgs>),
    /// Remove what the driver leaves on this node; no cluster needed.
    ///
    /// For the time after the last driver: its CDI specs, its directories below the kubelet's root, --run-root and
    /// --hook-root, and its registration sockets. Refuses, and removes nothing, while a claim is prepared on this node or
    /// a driver serves. Says what it removes. deploy/uninstall runs it on every node.
    Uninstall(Box<UninstallArgs>),
}

/// What can be done with a policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print the JSON schema of the policy file, for editors and linters.
    Schema,
    /// Check a policy file, and show what it would offer on this node.
    ///
    /// Exits with an error, naming line and column, if the driver would refuse the file.
    Check(Box<CheckArgs>),
}

/// `aliquot-driver policy check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The policy file.
    pub file: PathBuf,
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Show what is offered to API servers that can't tell shares from whole GPUs (see fallback in the schema).
    #[arg(long)]
    pub fixed: bool,
    /// A table, or the ResourceSlices as YAML or JSON.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Where things are on this node.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Places")]
pub struct Places {
    /// Where the NVIDIA driver is installed, as this process sees it.
    ///
    /// "/" for a driver installed on the host; /run/nvidia/driver for NVIDIA's driver container. It may appear after
    /// the start: it is watched.
    #[arg(long, env = "ALIQUOT_DRIVER_ROOT", default_value = "/", value_parser = absolute, value_name = "DIR")]
    pub driver_root: PathBuf,
    /// The same installation as the host names it, if this process sees it elsewhere (a mount in a container).
    #[arg(long, env = "ALIQUOT_DRIVER_ROOT_ON_HOST", value_parser = absolute, value_name = "DIR")]
    pub driver_root_on_host: Option<PathBuf>,
    /// Where the kubelet keeps its state; some distributions move it (k0s: /var/lib/k0s/kubelet).
    #[arg(long, env = "ALIQUOT_KUBELET_ROOT", default_value = "/var/lib/kubelet", value_parser = absolute, value_name = "DIR")]
    pub kubelet_root: PathBuf,
    /// Where the container runtime looks for CDI specs that live until the next boot.
    #[arg(long, env = "ALIQUOT_CDI_ROOT", default_value = "/var/run/cdi", value_parser = absolute, value_name = "DIR")]
    pub cdi_root: PathBuf,
    /// Where the records of prepared claims are kept; should be a tmpfs, as they end with the boot.
    #[arg(long, env = "ALIQUOT_RUN_ROOT", default_value = "/run/aliquot", value_parser = absolute, value_name = "DIR")]
    pub run_root: PathBuf,
    /// Device nodes.
    #[arg(long, env = "ALIQUOT_DEV_ROOT", default_value = "/dev", value_parser = absolute, value_name = "DIR", hide_short_help = true)]
    pub dev_root: PathBuf,
    /// sysfs.
    #[arg(long, env = "ALIQUOT_SYS_ROOT", default_value = "/sys", value_parser = absolute, value_name = "DIR", hide_short_help = true)]
    pub sys_root: PathBuf,
    /// procfs.
    #[arg(long, env = "ALIQUOT_PROC_ROOT", default_value = "/proc", value_parser = absolute, value_name = "DIR", hide_short_help = true)]
    pub proc_root: PathBuf,
}

/// Who this driver is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Identity")]
pub struct Identity {
    /// The name of the Kubernetes node this runs on; in a DaemonSet from spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// The DRA driver's name: a DNS subdomain. DeviceClasses select devices by it.
    #[arg(long, env = "ALIQUOT_DRIVER_NAME", default_value = "gpu.aliquot.dev", value_name = "NAME")]
    pub driver_name: String,
}

/// `aliquot-driver run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Who this driver is.
    #[command(flatten)]
    pub identity: Identity,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
    /// Log form.
    #[command(flatten)]
    pub logs: Logs,
    /// This pod's UID (from metadata.uid): sockets get a name of their own, so that an old and a new pod can serve side
    /// by side during a rolling update.
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// Which GPUs are offered, whole or in shares; every GPU as both if not given.
    ///
    /// Changes of the file are taken without a restart; a file that is wrong changes nothing. See "aliquot-driver policy".
    #[arg(long, env = "ALIQUOT_POLICY", value_parser = absolute, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Where Prometheus metrics are served, at /metrics, and for probes /healthz (the driver doesn't hang) and /readyz
    /// (the kubelet has registered it and the node's devices are published; else what is missing); empty for nowhere.
    #[arg(long, env = "ALIQUOT_METRICS_ADDRESS", default_value = "0.0.0.0:2112", value_parser = address, value_name = "IP:PORT")]
    pub metrics_address: Address,
    /// How long a prepare call may wait and retry before it answers with an error; the kubelet gives up after 45 s.
    #[arg(long, env = "ALIQUOT_PREPARE_BUDGET", default_value = "35s", value_parser = duration, value_name = "TIME")]
    pub prepare_budget: Duration,
    /// How often GPUs are read again, since NVML tells of no GPU that comes or goes; device nodes and the driver's
    /// installation are watched besides.
    #[arg(long, env = "ALIQUOT_RESCAN_INTERVAL", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub rescan_interval: Duration,
    /// How long NVML may take for one reading before it counts as hung.
    #[arg(long, env = "ALIQUOT_NVML_DEADLINE", default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub nvml_deadline: Duration,
    /// How often the memory of shares in use is measured, if the policy has it guarded.
    #[arg(long, env = "ALIQUOT_GUARD_INTERVAL", default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub guard_interval: Duration,
    /// What is cleaned up.
    #[command(flatten)]
    pub sweep: SweepArgs,
    /// The hook that makes NVIDIA's driver known in containers, and holds them to their share of a GPU's memory;
    /// aliquot-hook beside this program if not given, and none if empty.
    ///
    /// It is copied into this driver's directory below the kubelet's root, where the container runtime starts it. Without
    /// it, libraries are mounted under their names where most loaders look, and neither ldconfig -p nor modules for
    /// graphics know them; and shares are offered with memoryEnforcement "guard" or "none" instead of "hard", which
    /// NVIDIA's driver can do from release 615 on, on hosts with cgroup v2.
    #[arg(long, env = "ALIQUOT_HOOK", value_parser = hook, value_name = "FILE")]
    pub hook: Option<PathBuf>,
    /// A CDI kind, such as nvidia.com/pgpu, by which GPUs for virtual machines can also be had without a claim: devices 0, 1
    /// and so on in the order of the PCI bus, for Kata set-ups that name them in annotations of pods
    /// (cdi.k8s.io/gpu: nvidia.com/pgpu=0).
    ///
    /// Whoever can annotate pods then has these GPUs, whatever claims hold: docs/passthrough.md says how to go about it.
    #[arg(long, env = "ALIQUOT_VFIO_ALIAS", value_parser = kind, value_name = "KIND")]
    pub vfio_alias: Option<cdi_spec::Kind>,
    /// What is done about GPUs that a device plugin or another DRA driver on this node hands out too, as two pods could get
    /// one.
    ///
    /// They are found by the kubelet's pod-resources socket and by the ResourceSlices of other drivers, and told by the Event
    /// GPUContested on the Node, with what to do. GPUs that the policy doesn't offer are nobody's trouble.
    #[arg(long, env = "ALIQUOT_OTHER_PLUGINS", value_enum, default_value_t = OtherPlugins::Taint)]
    pub other_plugins: OtherPlugins,
    /// Where the hook is installed so that also the runtime of a pod with user namespaces (hostUsers: false) can start it: a
    /// directory that only root may write, all may pass, and programs may run from.
    ///
    /// Such a pod's hook runs as a user without rights on the host, and the kubelet's root is closed to it. Where this
    /// directory doesn't do, the hook is used in the kubelet's root, and pods with user namespaces don't start with a GPU.
    /// A driver in a pod needs the host's directory mounted at the same path.
    #[arg(long, env = "ALIQUOT_HOOK_ROOT", default_value = "/var/lib/aliquot", value_parser = absolute, value_name = "DIR")]
    pub hook_root: PathBuf,
    /// What the kubelet was given as --cgroup-root, if it was given any.
    ///
    /// GPU memory is attributed to pods by the cgroups of processes, and only those count that are where this node's
    /// kubelet makes them: anybody may name a cgroup of his own like a pod's. A driver in a pod that sees the node's
    /// cgroups (a privileged one does) finds the place by itself.
    #[arg(long, env = "ALIQUOT_CGROUP_ROOT", value_parser = absolute, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Whether the pods that hold a GPU are evicted when it falls ill. New claims don't get it anyway (taint
    /// DRIVER-NAME/unhealthy), and the Event GPUUnhealthy on the Node says what to do.
    ///
    /// The effect of the taint is then NoExecute (KEP-5055): kube-controller-manager deletes the pods, unless their claims
    /// tolerate it, so that whatever made them starts them elsewhere. It needs the feature gate DRADeviceTaints, on by
    /// default from Kubernetes 1.36.
    #[arg(long, env = "ALIQUOT_EVICT_FROM_ILL_GPUS", value_enum, default_value_t = Eviction::Never, value_name = "WHEN")]
    pub evict_from_ill_gpus: Eviction,
    /// How long after an error what NVIDIA's driver says of the GPU is believed to take it into account.
    #[arg(long, env = "ALIQUOT_ILLNESS_SETTLES", default_value = "60s", value_parser = duration, value_name = "TIME", hide = true)]
    pub illness_settles: Duration,
    /// What the driver keeps of root's capabilities, of capabilities(7); the others are given up at the start, for good.
    ///
    /// sys_admin is what NVIDIA's kernel module asks for where a time slice or a memory limit is set; kill is for a guard
    /// that ends processes of any user. All else works without any. Empty for none; "all" to give up nothing.
    #[arg(long, env = "ALIQUOT_KEEP_CAPABILITIES", default_value = "sys_admin,kill", value_name = "NAMES")]
    pub keep_capabilities: Keep,
}

/// When pods lose the GPU that they hold since it is ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Eviction {
    /// They go on for as long as they can: an error may have harmed one of them, or none.
    Never,
    /// When nothing can run on the GPU until the node is started anew, as after it has fallen off the bus.
    Fatal,
}

/// What is done about GPUs that others hand out too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OtherPlugins {
    /// New claims don't get them (taint DRIVER-NAME/handed-out-elsewhere), and a claim that was allocated one before is
    /// refused while a pod of the other holds it.
    Taint,
    /// They are offered and prepared all the same; events say what is wrong.
    Warn,
    /// Nobody is asked, and nothing is said.
    Ignore,
}

/// What becomes of what is left of claims that are gone.
#[derive(Debug, Clone, Args)]
pub struct SweepArgs {
    /// What becomes of claims that are gone and that the kubelet has not unprepared: act, report or off.
    ///
    /// Such leftovers come about where the kubelet has lost its state, for example. With "act" they are unprepared, which
    /// gives their devices to other claims; with "report" an event on the Node and a metric say what would be; with "off"
    /// nothing is looked at. Stale is only what the API server has said twice not to be here any more, a grace period
    /// apart, while the kubelet showed no container that uses it. "aliquot-driver status" shows what is thought of each.
    #[arg(id = "sweep", long = "sweep", env = "ALIQUOT_SWEEP", value_enum, default_value_t = SweepMode::Act)]
    pub mode: SweepMode,
    /// How often it is looked for stale claims. Without any claim on the node, this asks nobody.
    #[arg(id = "sweep_interval", long = "sweep-interval", env = "ALIQUOT_SWEEP_INTERVAL", default_value = "1m", value_parser = duration, value_name = "TIME")]
    pub interval: Duration,
    /// How long a claim must look stale before it is taken for that. The kubelet cleans up once a minute by itself, and
    /// should have had two chances: at least 2m.
    #[arg(id = "sweep_grace", long = "sweep-grace", env = "ALIQUOT_SWEEP_GRACE", default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub grace: Duration,
}

/// What becomes of what is stale on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SweepMode {
    /// It is removed.
    Act,
    /// It is told.
    Report,
    /// Nothing is looked at.
    Off,
}

impl std::fmt::Display for SweepMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Act => "act",
            Self::Report => "report",
            Self::Off => "off",
        })
    }
}

/// An address to listen on, or none.
pub type Address = Option<SocketAddr>;

/// `aliquot-driver inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// A table, or the ResourceSlices as YAML or JSON.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// `aliquot-driver status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The DRA driver's name.
    #[arg(long, env = "ALIQUOT_DRIVER_NAME", default_value = "gpu.aliquot.dev", value_name = "NAME")]
    pub driver_name: String,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
    /// How long NVML may take for each question.
    #[arg(long, env = "ALIQUOT_NVML_DEADLINE", default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub nvml_deadline: Duration,
    /// For people, or for machines.
    #[arg(short, long, value_enum, default_value_t = StatusForm::Table)]
    pub output: StatusForm,
    /// Show it again and again, until it is interrupted.
    #[arg(short, long)]
    pub watch: bool,
    /// How long after one look comes the next.
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME", requires = "watch")]
    pub interval: Duration,
    /// Whether the table has colours: auto is on a terminal, unless NO_COLOR is set.
    #[arg(long, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

/// `aliquot-driver uninstall`.
#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    /// The DRA driver's name; what is another one's stays.
    #[arg(long, env = "ALIQUOT_DRIVER_NAME", default_value = "gpu.aliquot.dev", value_name = "NAME")]
    pub driver_name: String,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
    /// Where the driver installed the hook for pods with user namespaces (hostUsers: false).
    #[arg(long, env = "ALIQUOT_HOOK_ROOT", default_value = "/var/lib/aliquot", value_parser = absolute, value_name = "DIR")]
    pub hook_root: PathBuf,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Don't end when all is done, but at SIGTERM: for a DaemonSet, whose pods start again when they end.
    #[arg(long)]
    pub stay: bool,
}

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Anywhere.
    Always,
    /// Nowhere.
    Never,
}

/// The form of what `status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusForm {
    /// Each GPU, and below it the claims that hold it.
    Table,
    /// One object.
    Json,
}

/// A node that is looked at without a cluster.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// The node's name in the pool's name.
    #[arg(long, env = "NODE_NAME", default_value = "localhost", value_name = "NAME")]
    pub node_name: String,
    /// The DRA driver's name.
    #[arg(long, env = "ALIQUOT_DRIVER_NAME", default_value = "gpu.aliquot.dev", value_name = "NAME")]
    pub driver_name: String,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
    /// How long NVML may take for the reading.
    #[arg(long, env = "ALIQUOT_NVML_DEADLINE", default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub nvml_deadline: Duration,
}

/// `aliquot-driver doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The policy file that the driver is given, to be checked too.
    #[arg(help_heading = "Checks", long, env = "ALIQUOT_POLICY", value_parser = absolute, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The container hook that the driver is given; aliquot-hook beside this program if not given, and none if empty.
    #[arg(help_heading = "Checks", long, env = "ALIQUOT_HOOK", value_parser = hook, value_name = "FILE")]
    pub hook: Option<PathBuf>,
    /// Where the driver is to install the hook for pods with user namespaces (hostUsers: false).
    #[arg(help_heading = "Checks", long, env = "ALIQUOT_HOOK_ROOT", default_value = "/var/lib/aliquot",
        value_parser = absolute, value_name = "DIR")]
    pub hook_root: PathBuf,
    /// containerd's configuration; what it imports is read as well.
    ///
    /// Some distributions keep it elsewhere (k3s: /var/lib/rancher/k3s/agent/etc/containerd/config.toml).
    #[arg(help_heading = "Checks", long, env = "ALIQUOT_CONTAINERD_CONFIG", default_value = "/etc/containerd/config.toml", value_parser = absolute, value_name = "FILE")]
    pub containerd_config: PathBuf,
    /// CRI-O's configuration; the files in the directory of this name with .d are read as well.
    #[arg(help_heading = "Checks", long, env = "ALIQUOT_CRIO_CONFIG", default_value = "/etc/crio/crio.conf", value_parser = absolute, value_name = "FILE")]
    pub crio_config: PathBuf,
    /// How long the API server may take for one answer.
    #[arg(help_heading = "Checks", long, env = "ALIQUOT_API_DEADLINE", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub api_deadline: Duration,
    /// Take warnings for failures in the exit code.
    #[arg(help_heading = "Checks", long)]
    pub strict: bool,
    /// For people, or for machines.
    #[arg(help_heading = "Checks", short, long, value_enum, default_value_t = ReportForm::Text)]
    pub output: ReportForm,
}

/// The form of what `doctor` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportForm {
    /// One check after the other, the worst first.
    Text,
    /// One object.
    Json,
}

/// `aliquot-driver convert`.
#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// The device plugin's configuration: the file that it reads as CONFIG_FILE, or a manifest of the ConfigMap that holds
    /// it. Without one, nvidia.com/gpu is a whole GPU and nvidia.com/gpu.shared a share.
    #[arg(long, env = "ALIQUOT_CONVERT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which of a ConfigMap's configurations nodes without the label nvidia.com/device-plugin.config use: its key.
    ///
    /// Not needed for a single one, nor if one is named "default".
    #[arg(long, env = "ALIQUOT_CONVERT_DEFAULT_CONFIG", value_name = "KEY", requires = "config")]
    pub default_config: Option<String>,
    /// Leave pods as they are, and make DeviceClasses whose extendedResourceName is what they ask for.
    ///
    /// Pods keep "nvidia.com/gpu: 1" and get a share through the class (KEP-5004, on by default from Kubernetes 1.36). It
    /// works only where the device plugin no longer runs.
    #[arg(long, env = "ALIQUOT_CONVERT_KEEP_PODS", requires = "config")]
    pub keep_pods: bool,
    /// Write the files into this directory; without it, the manifests go to standard output, for kubectl apply -f -.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Overwrite files that are in --out already.
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Print the manifests; yaml is the only form, and the default without --out.
    #[arg(short, long, value_enum, conflicts_with = "out")]
    pub output: Option<ManifestForm>,
    /// Manifests with Pods, Deployments, StatefulSets, DaemonSets, Jobs, CronJobs, ReplicaSets, or Lists of them, in YAML
    /// or JSON. Other kinds in them pass through.
    #[arg(value_name = "POD FILES")]
    pub files: Vec<PathBuf>,
}

/// The form of what `convert` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ManifestForm {
    /// Manifests, one document each.
    Yaml,
}

/// The form of what `inspect` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// As `kubectl get resourceslices -o yaml` would.
    Yaml,
    /// As `kubectl get resourceslices -o json` would.
    Json,
}

/// A path that means the same on the host, to the kubelet and to the container runtime.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_plain = path.components().all(|part| part != std::path::Component::ParentDir);
    if path.is_absolute() && is_plain { Ok(path) } else { Err("an absolute path without \"..\" is needed".to_owned()) }
}

/// An absolute path, or nothing.
fn hook(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Ok(PathBuf::new()) } else { absolute(text) }
}

/// `vendor/class`.
fn kind(text: &str) -> Result<cdi_spec::Kind, String> {
    cdi_spec::Kind::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// `0.0.0.0:2112`, `[::]:2112`, or nothing.
fn address(text: &str) -> Result<Address, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "an IP address and a port are needed, such as 0.0.0.0:2112".to_owned())
}

/// `35s`, `500ms` or `2m`; more than nothing.
fn duration(text: &str) -> Result<Duration, aliquot_params::InvalidDuration> {
    aliquot_params::duration(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        let cli = Cli::command();
        let check = cli.find_subcommand("policy").unwrap().find_subcommand("check").unwrap();
        for (name, command) in ["run", "inspect", "convert", "doctor", "status"]
            .map(|name| (name, cli.find_subcommand(name).unwrap()))
            .into_iter()
            .chain([("policy check", check)])
        {
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                // What one call reads, writes and shows says its command line alone.
                let own = ["output", "file", "fixed", "out", "force", "files", "strict", "watch", "interval", "color"];
                if !["help", "version"].contains(&id) && !own.contains(&id) {
                    assert!(arg.get_env().is_some(), "{name} --{id}");
                }
            }
        }
    }

    #[test]
    fn places_are_absolute() {
        assert!(Cli::try_parse_from(["x", "inspect", "--driver-root", "driver"]).is_err());
        assert!(Cli::try_parse_from(["x", "inspect", "--cdi-root", "/var/../etc"]).is_err());
        assert!(Cli::try_parse_from(["x", "inspect", "--driver-root", "/run/nvidia/driver"]).is_ok());
    }
}
