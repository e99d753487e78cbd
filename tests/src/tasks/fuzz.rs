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
const TARGETS: [&str; 8] = ["parameters", "policy", "record", "cdi", "grpc", "names", "procfs", "ld_cache"];

/// As cargo-fuzz has it, without a sanitizer: there is next to no unsafe code to watch, and it works with a stable compiler.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

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
        let (binaries, found) = (build(&root)?, root.join("../target/fuzz/found"));
        let targets: Vec<&str> =
            TARGETS.into_iter().filter(|name| self.target.as_deref().is_none_or(|one| one == *name)).collect();
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

fn build(root: &Path) -> Result<PathBuf, Error> {
    let target_dir = root.join("../target/fuzz");
    let triple = host()?;
    let text = |path: &Path| path.as_os_str().to_owned();
    // With a target named, build scripts and macros are built without instrumentation.
    let arguments = ["build", "--locked", "--release", "--target", &triple];
    let manifest = root.join("Cargo.toml");
    let environment: [(&str, OsString); 2] =
        [("RUSTFLAGS", INSTRUMENTED.into()), ("CARGO_TARGET_DIR", text(&target_dir))];
    let manifest = ["--manifest-path", manifest.to_str().unwrap_or_default()];
    cargo(&[arguments.as_slice(), &manifest].concat(), &environment)?;
    Ok(target_dir.join(triple).join("release"))
}

/// The triple for which the compiler builds by itself.
fn host() -> Result<String, Error> {
    let start = |source| Error::Start { program: "rustc".to_owned(), source };
    let output = Command::new("rustc").arg("-vV").output().map_err(start)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).ok_or_else(|| Error::Io {
        what: "find the compiler's host".to_owned(),
        source: std::io::Error::other("rustc -vV doesn't name it"),
    })
}

fn fuzz(target: &str, binaries: &Path, root: &Path, found: &Path, seconds: u64) -> Result<Outcome, Error> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Io { what, source }
    };
    // What is found goes into a directory of its own; what is checked in stays as it is.
    let own = found.join(target);
    fs::create_dir_all(&own).map_err(io("make a directory for what is found"))?;
    let program = binaries.join(target);
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
