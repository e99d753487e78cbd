//! `cargo xtask fuzz`: coverage-guided fuzzing of everything that reads what others wrote.
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;

use super::{Error, cargo};

/// In the order in which data comes to the driver.
const TARGETS: [&str; 12] = [
    "parameters",
    "policy",
    "record",
    "cdi",
    "grpc",
    "names",
    "procfs",
    "runtime_config",
    "ld_cache",
    "oci_state",
    "hook_log",
    "pod_resources",
];

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(super) struct Fuzz {
    /// For all targets together.
    #[arg(long, default_value_t = 80)]
    seconds: u64,
    /// Only this one.
    #[arg(long)]
    target: Option<String>,
}

impl Fuzz {
    /// Builds the targets, runs each for its part of the time from its corpus on, and adds up what they did.
    pub(super) fn run(self) -> Result<(), Error> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let targets: Vec<&str> =
            TARGETS.into_iter().filter(|name| self.target.as_deref().is_none_or(|one| one == *name)).collect();
        if let Err(error) = compiler() {
            println!("SKIPPED fuzz: libFuzzer needs a C++ compiler ({error}); on Debian: apt-get install g++");
            return Ok(());
        }
        let (binaries, found) = (build(&root, &targets)?, root.join("../target/fuzz/found"));
        let seconds = (self.seconds / targets.len().max(1) as u64).max(1);
        let (mut executions, mut failed) = (0, Vec::new());
        for target in &targets {
            let outcome = fuzz(target, &binaries, &root, &found, seconds)?;
            println!("{target}: {} executions, {} edges covered", outcome.executions, outcome.edges);
            executions += outcome.executions;
            if let Some(report) = outcome.report {
                eprintln!("{report}");
                failed.push((*target).to_owned());
            }
        }
        println!("targets {} executions {executions} crashes {}", targets.len(), failed.len());
        if failed.is_empty() { Ok(()) } else { Err(Error::Crashed { targets: failed, found }) }
    }
}

/// What a target came to.
struct Outcome {
    executions: u64,
    edges: u64,
    /// The end of what it said, if it failed.
    report: Option<String>,
}

/// Whether the compiler that libFuzzer's build takes can be started.
fn compiler() -> std::io::Result<()> {
    let program = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut command = Command::new(&program);
    let status = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.map(drop).map_err(|error| std::io::Error::other(format!("{}: {error}", program.display())))
}

/// Compiles this workspace's crates anew, with instrumentation, and all others as tests have them.
fn build(root: &Path, targets: &[&str]) -> Result<PathBuf, Error> {
    let names: Vec<String> = targets.iter().map(|target| program(target)).collect();
    // Of the whole workspace, so that crates of others have the features with which tests have compiled them already.
    let mut arguments = vec!["build", "--locked", "--workspace", "--features", "fuzz/link"];
    for name in &names {
        arguments.extend(["--bin", name]);
    }
    let wrapper: (&str, OsString) = ("RUSTC_WORKSPACE_WRAPPER", root.join("instrument.sh").into());
    cargo(&arguments, &[wrapper])?;
    Ok(root.join("../target/debug"))
}

/// What a target's program is called.
fn program(target: &str) -> String {
    format!("fuzz-{target}")
}

fn fuzz(target: &str, binaries: &Path, root: &Path, found: &Path, seconds: u64) -> Result<Outcome, Error> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Io { what, source }
    };
    // What is found goes into a directory of its own; what is checked in stays as it is.
    let own = found.join(target);
    fs::create_dir_all(&own).map_err(io("make a directory for what is found"))?;
    let program = binaries.join(program(target));
    let output = Command::new(&program)
        .arg(&own)
        .arg(root.join("corpus").join(target))
        .args([format!("-max_total_time={seconds}"), "-print_final_stats=1".into(), "-rss_limit_mb=2048".into()])
        .args(["-max_len=65536", "-timeout=10"])
        .arg(format!("-artifact_prefix={}/crash-{target}-", found.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|source| Error::Start { program: program.display().to_string(), source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = |name: &str| {
        let number =
            said.lines().rev().find_map(|line| line.split_once(name)?.1.split_whitespace().next()?.parse().ok());
        number.unwrap_or_default()
    };
    let lines: Vec<&str> = said.lines().collect();
    let report = (!output.status.success()).then(|| lines[lines.len().saturating_sub(40)..].join("\n"));
    Ok(Outcome { executions: last("stat::number_of_executed_units:"), edges: last("cov: "), report })
}
