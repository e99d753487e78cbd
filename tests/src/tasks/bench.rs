//! `cargo xtask bench`: the figures that the project promises, measured.
use std::path::PathBuf;

use clap::Args;
use kube::Client;

use super::Error;
use crate::bench::{Driver, Floor, Plan, Report, claims, prepare};

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
}

impl Bench {
    /// Runs and prints.
    pub(super) fn run(self) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?.block_on(self.measure())
    }

    async fn measure(self) -> Result<(), Error> {
        let plan = Plan::default();
        if let Some(driver) = &self.make_claims {
            let made = claims::make(&client().await?, driver, plan.claims()).await.map_err(failed)?;
            println!("{}", serde_json::to_string(&made).map_err(failed)?);
            return Ok(());
        }
        let (Some(socket), Some(file)) = (&self.socket, &self.claims) else {
            return Err(Error::Usage("--socket and --claims"));
        };
        let read =
            std::fs::read(file).map_err(|source| Error::Io { what: format!("read {}", file.display()), source })?;
        let references: Vec<claims::Reference> = serde_json::from_slice(&read).map_err(failed)?;
        let claims: Vec<_> = references.iter().map(Into::into).collect();
        let dir = tempfile::Builder::new().prefix("aliquot-bench").tempdir_in("/run");
        let dir = dir.map_err(|source| Error::Io { what: "make a directory in /run".to_owned(), source })?;
        let floor = client().await.ok().map(|client| Floor::new(client, dir.path().to_owned()));
        let mut report = Report::default();
        let mut driver = Driver::connect(socket).await.map_err(failed)?;
        prepare(&mut driver, floor.as_ref(), &claims, &plan, &mut report).await.map_err(failed)?;
        print!("{}", if self.json { report.json() } else { report.table() });
        Ok(())
    }
}

async fn client() -> Result<Client, Error> {
    Client::try_default().await.map_err(failed)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broke(Box::new(error))
}
