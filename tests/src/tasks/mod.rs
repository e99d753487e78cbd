//! The tasks of `cargo xtask`, one per file.
mod bench;
mod conformance;
mod crash_matrix;
mod fuzz;
mod image;
mod installed;
mod isolation;
mod node;
mod outage;
mod passthrough;
mod passthrough_vm;
mod picture;
mod playground;
mod reference;
mod rollout;
mod symptoms;
mod test;

use std::{ffi::OsString, process::ExitCode};

use aliquot_daemon::report;
use clap::{Parser, Subcommand};

/// The workspace's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs every test and suite; says what was skipped, and why.
    Test(test::Test),
    /// Measures what the project promises, beside a floor measured in the same run.
    Bench(bench::Bench),
    /// Tries to reach, from within real containers, every device that they weren't given; counts what was reachable.
    Isolation(isolation::Isolation),
    /// Takes the steps of Kubernetes' AI conformance for access to GPUs, on the cluster of KUBECONFIG.
    Conformance(conformance::Conformance),
    /// Ends, stops and fails the driver at each point where it changes something; counts what is leaked, lost or held twice.
    CrashMatrix(crash_matrix::CrashMatrix),
    /// Updates the driver on the cluster of KUBECONFIG while pods come and go; counts what failed meanwhile.
    Rollout(rollout::Rollout),
    /// Takes the API server or the kubelet of the cluster of KUBECONFIG away for a while, under pods that start and end.
    Outage(outage::Outage),
    /// Starts a machine with a real kernel, an IOMMU and GPUs, and passes these through in it; needs Debian's packages, no root.
    PassthroughVm(passthrough_vm::PassthroughVm),
    /// What runs in that machine.
    #[command(hide = true)]
    PassthroughGuest,
    /// Provokes each symptom of docs/troubleshooting.md on the cluster of KUBECONFIG, with simulated GPUs, and waits for its Event.
    Symptoms(symptoms::Symptoms),
    /// Gives simulated GPUs to virtual machines on the cluster of KUBECONFIG, by a stand-in for Kata Containers' runtime.
    Passthrough(passthrough::Passthrough),
    /// Shows the main job on simulated GPUs, in real containers where root allows.
    Playground(playground::Play),
    /// Writes the container image, with its bill of materials; needs Debian's packages, no daemon and no root.
    Image(image::Image),
    /// Fuzzes everything that reads what others wrote; needs a C++ compiler.
    Fuzz(fuzz::Fuzz),
    /// Lays out a simulated GPU node, for trying the driver on a cluster without GPUs.
    Node(node::Lay),
    /// Draws the picture of `aliquot-driver status` in docs/ anew.
    Picture,
    /// Writes the reference of flags in docs/ anew.
    Reference,
}

/// A task that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error("{program} could not be started")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something on this machine.
    #[error("could not {what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that runs on the testbed.
    #[error("it broke off")]
    Broke(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Some input was too much.
    #[error("{} failed; the inputs are in {}, and run again with the target's program and their path", targets.join(", "), found.display())]
    Crashed {
        /// Which targets.
        targets: Vec<String>,
        /// Where the inputs are.
        found: std::path::PathBuf,
    },
    /// No such set of GPUs.
    #[error("there is no profile {0:?}; the profiles are {names}", names = fake_nvml::Profile::NAMES.join(", "))]
    UnknownProfile(String),
    /// A program ran and failed.
    #[error("{command} failed with {status}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
}

/// Parses the command line and runs the task it names.
pub fn run() -> ExitCode {
    let result = match Xtask::parse().task {
        Task::Test(test) => test.run(),
        Task::Bench(bench) => bench.run(),
        Task::Isolation(isolation) => isolation.run(),
        Task::Conformance(conformance) => conformance.run(),
        Task::CrashMatrix(matrix) => matrix.run(),
        Task::Rollout(rollout) => rollout.run(),
        Task::Outage(outage) => outage.run(),
        Task::PassthroughVm(vm) => vm.run(),
        Task::PassthroughGuest => passthrough_vm::inside(),
        Task::Symptoms(symptoms) => symptoms.run(),
        Task::Passthrough(passthrough) => passthrough.run(),
        Task::Playground(play) => play.run(),
        Task::Image(image) => image.run(),
        Task::Fuzz(fuzz) => fuzz.run(),
        Task::Node(node) => node.run(),
        Task::Picture => picture::run(),
        Task::Reference => reference::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}

/// Builds what nodes are made from and the driver, in the profile in which xtask itself was built.
fn build() -> Result<(), Error> {
    if cfg!(debug_assertions) { build_with(&[]) } else { build_release() }
}

fn build_release() -> Result<(), Error> {
    build_with(&["--release"])
}

fn build_with(more: &[&str]) -> Result<(), Error> {
    let mut arguments = vec!["build", "--locked"];
    // Built together with this package, everything has the features that are compiled already.
    for package in [
        "aliquot-tests",
        "aliquot-driver",
        "aliquot-controller",
        "aliquot-hook",
        "fake-nvml",
        "fake-nvidia-smi",
        "isolation-probe",
        "kernel-files",
        "vm-runtime",
    ] {
        arguments.extend(["-p", package]);
    }
    arguments.extend(more);
    cargo(&arguments, &[])
}

/// Runs something on the cluster of KUBECONFIG; whether it came out as it must.
fn on_cluster<E>(task: impl AsyncFnOnce(kube::Client) -> Result<bool, E>) -> Result<(), Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?;
    let is_good = runtime.block_on(async {
        let client = kube::Client::try_default().await.map_err(|error| Error::Broke(error.into()))?;
        task(client).await.map_err(|error| Error::Broke(error.into()))
    });
    if is_good? { Ok(()) } else { Err(Error::Broke("not all came out as it must, as told above".into())) }
}

/// Until someone breaks it off.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler the signal ends the process, as ever.
        std::future::pending::<()>().await;
    }
}

fn cargo(arguments: &[&str], environment: &[(&str, OsString)]) -> Result<(), Error> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = std::process::Command::new(&program);
    command.args(arguments).envs(environment.iter().cloned());
    // Of this program's own package: build scripts that look at them would run again for each cargo inside cargo.
    for (name, _) in std::env::vars_os() {
        let is_ours = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"].iter().any(|own| name.starts_with(own));
        if name.to_str().is_some_and(is_ours) {
            command.env_remove(name);
        }
    }
    let status = command.status().map_err(|source| Error::Start { program: program.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: format!("cargo {}", arguments.join(" ")), status })
}
