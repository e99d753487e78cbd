//! `aliquot-driver status`: this node's GPUs, the claims that hold them, and what the running driver's sweep thinks of each.
mod node;
mod paint;
mod report;
mod table;

use std::{io, path::Path, time::Duration};

use tokio::{io::AsyncReadExt as _, net::UnixStream};

use crate::{
    args::{StatusArgs, StatusForm},
    claim::{self, LookAt, Seen},
    roots::Roots,
    streams,
    sweep::report::{SOCKET, Told},
};
use node::Eyes;
use paint::Paint;
use report::Sources;

/// How long the running driver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// To the upper left, and nothing left below.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel's boot id, without which records of an earlier boot can't be told from others.
    #[error("the boot id can't be read: is --proc-root right?")]
    BootId(#[source] io::Error),
    /// The records.
    #[error("the records of prepared claims can't be read")]
    Records(#[from] owned_dir::Error),
    /// The runtime that asks the driver can't start.
    #[error("the runtime can't be started")]
    Runtime(#[source] io::Error),
    /// The driver's name.
    #[error("--driver-name can't be a CDI vendor")]
    Kind(#[from] cdi_spec::InvalidName),
    /// The output can't be written.
    #[error("the output can't be written")]
    Json(#[from] serde_json::Error),
    /// Standard output takes nothing.
    #[error("standard output can't be written")]
    Stdout(#[source] io::Error),
}

/// Looks once and prints, or again and again.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let result = runtime.block_on(show(args));
    // A hung NVML call must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn show(args: &StatusArgs) -> Result<(), Error> {
    let roots = Roots::new(&args.places, &args.driver_name);
    let boot_id = roots.boot_id().map_err(Error::BootId)?;
    let kind = cdi_spec::Kind::new(&args.driver_name, "claim")?;
    let mut eyes = Eyes::open(roots.clone(), boot_id.clone(), args.nvml_deadline);
    let paint = Paint::of_stdout(args.color);
    let (socket, mut said) = (roots.run.join(SOCKET), None);
    loop {
        let seen = records(&roots, &boot_id, &kind)?;
        let owed = claim::look_at_owed(&roots.run.join(claim::OWED), &boot_id)?;
        let (node, told) = tokio::join!(eyes.look(), told(&socket));
        if let Err(reason) = &told
            && said.as_ref() != Some(reason)
        {
            streams::tell(format_args!("no driver on this node tells what its sweep thinks: {reason}"));
            said = Some(reason.clone());
        }
        #[allow(clippy::disallowed_methods, reason = "it tells how old records are, and nothing is decided by it")]
        let now = std::time::SystemTime::now();
        let sources = Sources { seen: &seen, owed: &owed, node: &node, told: told.as_ref().ok() };
        let report = report::report(&args.driver_name, &sources, now);
        let text = match args.output {
            StatusForm::Table => table::table(&report, paint),
            StatusForm::Json if args.watch => serde_json::to_string(&report)? + "\n",
            StatusForm::Json => serde_json::to_string_pretty(&report)? + "\n",
        };
        let again = args.watch && args.output == StatusForm::Table;
        let text = if again && paint.0 { format!("{CLEAR}{text}") } else { text };
        let is_read = streams::print_to_reader(&text).map_err(Error::Stdout)?;
        if !args.watch || !is_read {
            return Ok(());
        }
        tokio::time::sleep(args.interval).await;
    }
}

fn records(roots: &Roots, boot_id: &str, kind: &cdi_spec::Kind) -> Result<Vec<Seen>, Error> {
    // Opening it would make it.
    let store = roots.cdi.is_dir().then(|| cdi_spec::Store::open(&roots.cdi).ok()).flatten();
    let records = &roots.run.join(claim::RECORDS);
    Ok(claim::look(&LookAt { records, boot_id, store: store.as_ref(), kind })?)
}

/// What the running driver says, or why it doesn't.
async fn told(socket: &Path) -> Result<Told, String> {
    let asking = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(error)) => Err(format!("{}: {error}; is it running, and not with --sweep=off?", socket.display())),
        Err(_) => Err(format!("{}: no answer within {} s", socket.display(), PATIENCE.as_secs())),
    }
}
