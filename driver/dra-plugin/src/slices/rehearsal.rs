//! Asks the API server what it would store of a pool, without storing anything.
//!
//! A field whose feature gate is off is dropped without a word. By the time a published slice has been read back, a
//! scheduler may have acted on it; a dry run tells before.
use std::time::Duration;

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
    /// It is invalid, for this reason: an API server that knows these fields in another form.
    Invalid(String),
}

/// The API server can't be asked now, which says nothing of what it stores.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RehearsalError {
    /// It gives no answer, or has too much to do; this may pass by itself.
    #[error("the API server can't be asked what it stores of a ResourceSlice: {reason}")]
    Busy {
        /// What happened.
        reason: String,
        /// The pause that the server asks for.
        retry_after: Option<Duration>,
    },
    /// It answers that this must not be asked: a permission is missing, or a webhook takes no dry run. Somebody has to
    /// mend it.
    #[error("the API server refuses a dry run of a ResourceSlice with HTTP status {status}: {reason}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the server said.
        reason: String,
    },
}

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
            Err(CallError::Invalid(reason)) => return Ok(Rehearsal::Invalid(reason)),
            Err(CallError::Refused { message: reason, status }) => {
                return Err(RehearsalError::Refused { status, reason });
            }
            Err(CallError::Busy { message: reason, retry_after }) => {
                return Err(RehearsalError::Busy { reason, retry_after });
            }
            Err(CallError::Stale(reason)) => return Err(RehearsalError::Busy { reason, retry_after: None }),
        }
    }
    Ok(if dropped.is_empty() { Rehearsal::Complete } else { Rehearsal::Dropped(dropped.fields()) })
}
