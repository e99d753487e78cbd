//! `aliquot-driver status`: this node's claims from their records, and what the running driver's sweep thinks of each.
mod show;

use std::{io, path::Path, time::Duration};

use tokio::{io::AsyncReadExt as _, net::UnixStream};

use crate::{
    args::{StatusArgs, StatusForm},
    claim::{self, LookAt},
    roots::Roots,
    streams,
    sweep::report::{SOCKET, Told},
};

/// How long the running driver may take.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// Looks once, and prints.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Error> {
    let roots = Roots::new(&args.places, &args.driver_name);
    let boot_id = roots.boot_id().map_err(Error::BootId)?;
    let kind = cdi_spec::Kind::new(&args.driver_name, "claim")?;
    // Opening it would make it.
    let store = roots.cdi.is_dir().then(|| cdi_spec::Store::open(&roots.cdi).ok()).flatten();
    let seen = claim::look(&LookAt {
        records: &roots.run.join("claims"),
        boot_id: &boot_id,
        store: store.as_ref(),
        kind: &kind,
    })?;
    let told = told(&roots.run.join(SOCKET))?;
    if let Err(reason) = &told {
        streams::tell(format_args!("no driver on this node tells what its sweep thinks: {reason}"));
    }
    #[allow(clippy::disallowed_methods, reason = "it tells how old records are, and nothing is decided by it")]
    let now = std::time::SystemTime::now();
    let report = show::report(&args.driver_name, &seen, told.as_ref().ok(), now);
    let text = match args.output {
        StatusForm::Table => show::table(&report),
        StatusForm::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    streams::print(&text).map_err(Error::Stdout)
}

/// What the running driver says, or why it doesn't.
fn told(socket: &Path) -> Result<Result<Told, String>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let asking = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    };
    let asked = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
    Ok(match asked {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(error)) => Err(format!("{}: {error}; is it running, and not with --sweep=off?", socket.display())),
        Err(_) => Err(format!("{}: no answer within {} s", socket.display(), PATIENCE.as_secs())),
    })
}
