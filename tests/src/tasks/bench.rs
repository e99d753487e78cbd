//! `cargo xtask bench`: the figures that the project promises, measured.
use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use kube::Client;

use super::{Error, build_release};
use crate::bench::{Driver, Floor, Plan, Report, claims, controller, embedded, prepare};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// One JSON object a line: {"name","unit","value","floor","ratio"}.
    #[arg(long)]
    json: bool,
    /// Measure the driver behind this socket, any vendor's, in place of starting one.
    #[arg(long, requires = "claims")]
    socket: Option<PathBuf>,
    /// A file with allocated claims for it: [{"namespace","name","uid"}…].
    #[arg(long)]
    claims: Option<PathBuf>,
    /// Make such claims in the cluster of KUBECONFIG, for the driver of this name, print them, and end.
    #[arg(long, value_name = "DRIVER", conflicts_with_all = ["socket", "claims"])]
    make_claims: Option<String>,
    /// Measure the controller in place of the driver, with 50,000 claims and 5,000 nodes; takes some ten minutes.
    #[arg(long, conflicts_with_all = ["socket", "claims", "make_claims"])]
    controller: bool,
}

impl Bench {
    /// Runs and prints.
    pub(super) fn run(self) -> Result<(), Error> {
        if self.controller {
            return self.measure_controller();
        }
        if cfg!(debug_assertions) && self.make_claims.is_none() {
            return again_in_release();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?.block_on(self.measure())
    }

    /// The controller is built as it is shipped; the stand-in beside it needn't be.
    fn measure_controller(self) -> Result<(), Error> {
        super::cargo(&["build", "--locked", "--release", "-p", "aliquot-controller"], &[])?;
        let missing = |source| Error::Io { what: "find the release build".to_owned(), source };
        let exe = std::env::current_exe().map_err(missing)?;
        let target = exe.parent().and_then(Path::parent).unwrap_or(Path::new(""));
        let binary = target.join("release/aliquot-controller");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?;
        let report = runtime.block_on(controller::run(binary)).map_err(Error::Broke)?;
        print!("{}", if self.json { report.json() } else { report.table() });
        Ok(())
    }

    async fn measure(self) -> Result<(), Error> {
        let plan = Plan::default();
        let mut report = Report::default();
        match (&self.make_claims, &self.socket, &self.claims) {
            (Some(driver), _, _) => {
                let made = claims::make(&client().await?, driver, plan.claims()).await.map_err(failed)?;
                println!("{}", serde_json::to_string(&made).map_err(failed)?);
                return Ok(());
            }
            (None, Some(socket), Some(file)) => foreign(socket, file, &plan, &mut report).await?,
            _ => embedded::run(&plan, &mut report).await.map_err(Error::Broke)?,
        }
        print!("{}", if self.json { report.json() } else { report.table() });
        Ok(())
    }
}

/// Figures of a build without optimisation say nothing, so this program is built anew and started with the same arguments.
fn again_in_release() -> Result<(), Error> {
    build_release()?;
    let missing = |source| Error::Io { what: "find the release build".to_owned(), source };
    let exe = std::env::current_exe().map_err(missing)?;
    let target = exe.parent().and_then(Path::parent).map(|target| target.join("release/xtask")).unwrap_or_default();
    // Only returns if it cannot be started.
    let source = std::process::Command::new(target).args(std::env::args_os().skip(1)).exec();
    Err(missing(source))
}

async fn foreign(socket: &Path, file: &Path, plan: &Plan, report: &mut Report) -> Result<(), Error> {
    let read = std::fs::read(file).map_err(|source| Error::Io { what: format!("read {}", file.display()), source })?;
    let references: Vec<claims::Reference> = serde_json::from_slice(&read).map_err(failed)?;
    let claims: Vec<_> = references.iter().map(Into::into).collect();
    let dir = tempfile::Builder::new().prefix("aliquot-bench").tempdir_in("/run");
    let dir = dir.map_err(|source| Error::Io { what: "make a directory in /run".to_owned(), source })?;
    let floor = client().await.ok().map(|client| Floor::new(client, dir.path().to_owned()));
    let mut driver = Driver::connect(socket).await.map_err(failed)?;
    prepare(&mut driver, floor.as_ref(), &claims, plan, report).await.map_err(failed)
}

async fn client() -> Result<Client, Error> {
    Client::try_default().await.map_err(failed)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broke(Box::new(error))
}
