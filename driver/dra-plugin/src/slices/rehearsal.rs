//! Asks the API server what it would store of a pool, without storing anything.
//!
//! A field whose feature gate is off is dropped without a word. By the time a published slice has been read back, a
//! scheduler may have acted on it; a dry run tells before.
use k8s_openapi::api::resource::v1::ResourceSliceSpec;

use super::{
    DroppedField,
    api::{CallError, SliceApi},
    dropped::Dropped,
    pool::{NodeName, Pool},
};
use crate::name::DriverName;

/// What would become of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rehearsal {
    /// All of it would be stored.
    Complete,
    /// It would be taken, but not all of it stored.
    Dropped(Vec<DroppedField>),
    /// It would be refused, for this reason: an API server that knows these fields in another form.
    Refused(String),
}

/// The API server can't be asked now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server can't be asked what it stores of a ResourceSlice: {0}")]
pub struct RehearsalError(String);

/// Creates every slice of the pool as a dry run (`dryRun=All`), and compares what comes back with what was sent.
pub async fn rehearse(
    client: &kube::Client,
    driver: &DriverName,
    node: &NodeName,
    pool: &Pool,
) -> Result<Rehearsal, RehearsalError> {
    let api = SliceApi::new(client.clone(), driver.clone(), node.clone());
    let specs: Vec<ResourceSliceSpec> = pool.slices(driver, node);
    let answers =
        futures::future::join_all(specs.iter().enumerate().map(|(index, spec)| api.rehearse(index, spec.clone())))
            .await;
    let mut dropped = Dropped::default();
    for (sent, answer) in specs.iter().zip(answers) {
        match answer {
            Ok(stored) => dropped.compare(sent, &stored.spec),
            Err(CallError::Refused(reason)) => return Ok(Rehearsal::Refused(reason)),
            Err(CallError::Busy { message, .. } | CallError::Stale(message)) => return Err(RehearsalError(message)),
        }
    }
    Ok(if dropped.is_empty() { Rehearsal::Complete } else { Rehearsal::Dropped(dropped.fields()) })
}
