//! `cargo xtask playground`: the main job, to be looked at.
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, build};
use crate::playground::Playground;

/// Options of `cargo xtask playground`.
#[derive(Debug, Args)]
pub(super) struct Play {
    /// End after showing everything, in place of waiting for Ctrl-C.
    #[arg(long)]
    once: bool,
}

impl Play {
    /// Builds, starts, shows, and stays up.
    pub(super) fn run(self) -> Result<(), Error> {
        build()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(|source| Error::Io { what: "start a runtime".to_owned(), source })?.block_on(async {
            // From the beginning, so that an early Ctrl-C cleans up as well.
            let mut interrupt = listen(SignalKind::interrupt())?;
            let mut terminate = listen(SignalKind::terminate())?;
            tokio::select! {
                done = self.play() => done,
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
            }
        })
    }

    async fn play(&self) -> Result<(), Error> {
        println!("Starting the API server's and kubelet's stand-ins, eight simulated H100s, and the real driver…\n");
        let playground = Playground::start().await.map_err(Error::Broke)?;
        print!("{}", playground.show().await.map_err(Error::Broke)?);
        print!("{}", playground.invitation());
        if self.once {
            return Ok(());
        }
        println!("\nIt stays up until Ctrl-C, and then leaves nothing behind.");
        std::future::pending().await
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(|source| Error::Io { what: "listen for signals".to_owned(), source })
}
