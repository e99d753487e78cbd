//! `aliquot-driver doctor`: what a node needs for this driver, what of it is wrong, and how to mend it.
//!
//! ```text
//! NVML ───────────┬─> disk ──────┬─> one pure judgement for each check ──> Report ──> text or JSON, exit code
//! API server: api ┴─> rehearsal ─┘
//! ```
//! Only `disk` and `api` read anything, each within a time limit; nothing is changed.
mod access;
mod admission;
mod api;
mod check;
mod devices;
mod disk;
mod features;
mod gpus;
mod installation;
mod others;
mod places;
mod policy;
mod runtime;
mod server;

use std::{process::ExitCode, sync::Arc, time::Duration};

use aliquot_model::Inventory;
use aliquot_params::policy::Policy;
use dra_plugin::{DriverName, slices::NodeName};

use self::{
    api::{Answer, Answers, Asking},
    check::{Check, Report},
    disk::Disk,
    features::Rehearsed,
};
use crate::{
    args::{DoctorArgs, ReportForm},
    discovery::{self, Found, Trouble},
    inspect,
    others::{Kubelet, Plugins},
    streams,
};

/// A way in for the fuzzer.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    use std::path::{Path, PathBuf};

    use super::{check::Verdict, runtime};

    /// What is wrong comes with a fix, and what is imported is an absolute path.
    pub(crate) fn runtime_config(told: &str, files: &str) {
        let source = |(at, text): (usize, &str)| runtime::Source {
            path: PathBuf::from(format!("/etc/runtime/{at}.toml")),
            text: Ok(text.to_owned()),
        };
        let files: Vec<runtime::Source> = files.split('\0').enumerate().map(source).collect();
        for file in &files {
            let imports = runtime::imports(&file.path, file.text.as_deref().unwrap_or_default());
            assert!(imports.iter().all(|path| path.is_absolute()));
        }
        let (drop_ins, main) =
            files.split_last().map_or((&[][..], &[][..]), |(last, main)| (std::slice::from_ref(last), main));
        let sources = runtime::Sources {
            containerd: main.to_vec(),
            containerd_drop_ins: drop_ins.to_vec(),
            crio: if told.starts_with("cri-o") { files.clone() } else { Vec::new() },
        };
        let told = Some(told).filter(|told| !told.is_empty());
        let check = runtime::judge(told, &sources, Path::new("/var/run/cdi"));
        assert_eq!(check.fix.is_some(), matches!(check.verdict, Verdict::Failed | Verdict::Warning));
        assert!(!check.found.is_empty());
    }
}

/// A file system that gives no answer for so long hangs.
const FILES: Duration = Duration::from_secs(10);
/// As of clap, where the command line is wrong.
const USAGE: u8 = 2;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The system refuses the runtime.
    #[error("the runtime can't be started")]
    Runtime(#[source] std::io::Error),
    /// The report can't be written.
    #[error("the report can't be written")]
    Json(#[from] serde_json::Error),
    /// Standard output takes nothing.
    #[error("standard output can't be written")]
    Stdout(#[source] std::io::Error),
}

/// Makes all checks and prints them.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Error> {
    let (driver, node) = match (DriverName::new(&args.node.driver_name), NodeName::new(&args.node.node_name)) {
        (Ok(driver), Ok(node)) => (driver, node),
        (driver, node) => {
            let (driver, node) = (driver.err().map(|e| crate::report(&e)), node.err().map(|e| crate::report(&e)));
            streams::tell(format_args!("aliquot-driver: {}", driver.or(node).unwrap_or_default()));
            return Ok(ExitCode::from(USAGE));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let checks = runtime.block_on(checks(args, &driver, &node));
    // A hung NVML call or file system must not hold up the end.
    runtime.shutdown_background();
    let report = Report::new(&args.node.driver_name, &args.node.node_name, checks);
    let text = match args.output {
        ReportForm::Text => report.text(),
        ReportForm::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    streams::print(&text).map_err(Error::Stdout)?;
    Ok(if report.is_good(args.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn checks(args: &DoctorArgs, driver: &DriverName, node: &NodeName) -> Vec<Check> {
    let (settings, mut library) = (inspect::once(&args.node), discovery::Library::default());
    let asking = async {
        let asking = Asking::begin(args.api_deadline).await?;
        let answers = Box::pin(asking.all(driver, node)).await?;
        Ok((asking, answers))
    };
    let kubelet = Kubelet::new(&args.node.places.kubelet_root);
    let reading = discovery::read(&mut library, aliquot_nvml::Session::Keep, &settings, Vec::new);
    let (reading, asked, plugins) = tokio::join!(reading, asking, kubelet.ask());
    let reading = Arc::new(reading);
    let looking = tokio::task::spawn_blocking({
        let (args, roots, reading) = (args.clone(), settings.roots.clone(), Arc::clone(&reading));
        move || disk::look(&args, &roots, &reading)
    });
    let disk = tokio::time::timeout(FILES, looking).await.ok().and_then(Result::ok);
    let inventory = reading.as_ref().as_ref().ok().map(|found| &found.inventory);
    let mut checks = vec![gpus::nvml(&reading), gpus::gpus(inventory)];
    match &disk {
        Some(disk) => checks.extend(on_node(args, disk, &reading, told(&asked))),
        None => checks.push(Check::failed(
            "files",
            format!("the node's files can't be read within {FILES:?}"),
            "look for a file system that hangs, below the paths that this was given",
        )),
    }
    let rehearsed = match (&asked, inventory, disk.as_ref().and_then(|disk| disk.policy.as_ref())) {
        (Err(_), ..) => Rehearsed::Not(api::UNASKED.to_owned()),
        (_, None, _) => Rehearsed::Not("what would be published isn't known without GPUs".to_owned()),
        (_, _, Some(Err(_))) => Rehearsed::Not("what would be published isn't known with this policy".to_owned()),
        (Ok((asking, _)), Some(inventory), Some(Ok((policy, _)))) => {
            asking.rehearse(driver, node, inventory, policy).await
        }
        (Ok((asking, _)), Some(inventory), None) => asking.rehearse(driver, node, inventory, &Policy::default()).await,
    };
    let evicts =
        matches!(disk.as_ref().and_then(|disk| disk.policy.as_ref()), Some(Ok((policy, _))) if policy.evicts());
    checks.extend(in_cluster(
        args,
        evicts,
        &asked.map(|(_, answers)| answers),
        &rehearsed,
        inventory,
        plugins.map_err(|error| crate::report(&error)),
    ));
    checks
}

/// The container runtime, as the Node names it.
fn told(asked: &Answer<(Asking, Answers)>) -> Option<&str> {
    let node = asked.as_ref().ok()?.1.node.as_ref().ok()?.as_ref()?;
    Some(node.status.as_ref()?.node_info.as_ref()?.container_runtime_version.as_str())
}

fn on_node(args: &DoctorArgs, disk: &Disk, reading: &Result<Found, Trouble>, runtime: Option<&str>) -> Vec<Check> {
    let places = &args.node.places;
    vec![
        installation::root(&disk.files),
        installation::module(&disk.files, reading.is_ok()),
        devices::numbers(&disk.devices),
        devices::nodes(&disk.devices, &disk.nodes, &places.dev_root.display().to_string()),
        places::hook(&disk.hook),
        places::exec(&disk.hook, disk.mount.as_ref()),
        places::hook_root(&disk.hook, &disk.hook_root),
        places::kubelet(&places.kubelet_root, &disk.kubelet),
        places::cdi(&places.cdi_root, &disk.cdi, &disk.fatal),
        runtime::judge(runtime, &disk.sources, &places.cdi_root),
        policy::judge(args.policy.as_deref(), disk.policy.as_ref(), reading.is_ok()),
    ]
}

fn in_cluster(
    args: &DoctorArgs,
    evicts: bool,
    answers: &Answer<Answers>,
    rehearsed: &Rehearsed,
    inventory: Option<&Inventory>,
    plugins: Result<Plugins, String>,
) -> Vec<Check> {
    let (driver, node) = (&args.node.driver_name, &args.node.node_name);
    let unasked;
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => {
            unasked = Answers::none(error);
            &unasked
        }
    };
    vec![
        server::server(&answers.version),
        server::dra(&answers.versions),
        server::kubelet(node, &answers.node),
        features::judge(rehearsed),
        access::judge(&answers.user, &answers.refused, evicts),
        admission::judge(&answers.user, &answers.foreign),
        others::classes(driver, &answers.classes),
        others::drivers(others::Sources {
            driver,
            node,
            plugins,
            object: &answers.node,
            slices: &answers.slices,
            inventory,
        }),
    ]
}
