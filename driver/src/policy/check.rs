//! `aliquot-driver policy`: the schema, and what a file would offer on this node.
use std::fmt::Write as _;

use aliquot_params::policy::{self, LARGEST, Policy};

use super::{Refusal, doubts, file, fits};
use crate::{
    args::CheckArgs,
    discovery::Trouble,
    inspect,
    offer::{self, Layout},
    streams,
};

/// Why a policy isn't good, or can't be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is refused.
    #[error("{file}: {source}")]
    Refused {
        /// The file.
        file: String,
        /// Why.
        source: Refusal,
    },
    /// It can't be shown.
    #[error(transparent)]
    Show(#[from] inspect::Error),
    /// The schema can't be written.
    #[error("the schema can't be written")]
    Json(#[from] serde_json::Error),
}

/// The JSON schema, for editors and linters.
pub(crate) fn schema() -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&policy::schema())? + "\n";
    Ok(streams::print(&text).map_err(inspect::Error::Stdout)?)
}

/// Reads a policy as the driver would, and shows what it would offer.
pub(crate) fn check(args: &CheckArgs) -> Result<(), Error> {
    let refused = |source| Error::Refused { file: args.file.display().to_string(), source };
    let bytes = file::read(&args.file, LARGEST).map_err(|error| refused(error.into()))?;
    let policy = Policy::parse(&bytes).map_err(|error| refused(error.into()))?;
    let warn = |warning: &String| streams::tell(format_args!("warning: {warning}"));
    policy.warnings().iter().for_each(warn);
    let inventory = match inspect::inventory(&args.node) {
        Ok(inventory) => inventory,
        // A policy is checked where it is written, too.
        Err(inspect::Error::Trouble(trouble @ (Trouble::NoLibrary { .. } | Trouble::Nvml(_)))) => {
            let why = "the file is good, but what it would offer can't be shown here";
            streams::tell(format_args!("note: {why}: {trouble}"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    fits(&policy, &inventory).map_err(refused)?;
    doubts(&policy, &inventory).iter().for_each(warn);
    let layout = if args.fixed { Layout::Fixed } else { Layout::Counters };
    let offered = offer::offered(&inventory, &policy, &[], layout);
    let mut text = String::new();
    for gpu in inventory.gpus() {
        let rule = policy.for_gpu(gpu).ok().and_then(|offer| offer.rule);
        let rule = rule.map_or_else(|| "no rule matches, so the default".to_owned(), |rule| format!("rules[{rule}]"));
        let _ = writeln!(text, "# {} ({}, {}): {rule}", gpu.whole_name(), gpu.product_name, gpu.uuid);
    }
    text.push_str(&inspect::show(&args.node, offered, args.output)?);
    Ok(streams::print(&text).map_err(inspect::Error::Stdout)?)
}
