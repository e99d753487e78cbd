//! What a claim says of its devices together.
use k8s_openapi::api::resource::v1::{DeviceAttribute, DeviceConstraint};

use super::{Unallocatable, ask::Ask, pool::Candidate, search::Choice};

/// Whether a constraint lets a device be taken beside those that are chosen.
pub(super) fn allows(
    constraint: &DeviceConstraint,
    ask: &Ask<'_>,
    candidate: &Candidate<'_>,
    chosen: &[Choice<'_>],
) -> bool {
    if !ask.named_in(constraint.requests.as_ref()) {
        return true;
    }
    let bound = chosen.iter().filter(|choice| choice.ask.named_in(constraint.requests.as_ref()));
    let mut bound = bound.map(|choice| choice.candidate);
    let same = constraint.match_attribute.as_deref().is_none_or(|name| {
        let mine = attribute(candidate, name);
        mine.is_some() && bound.clone().all(|other| attribute(other, name) == mine)
    });
    let distinct = constraint.distinct_attribute.as_deref().is_none_or(|name| {
        let mine = attribute(candidate, name);
        mine.is_some() && bound.all(|other| attribute(other, name) != mine)
    });
    same && distinct
}

/// A constraint that says nothing is one of a kind that is not known here, or that the API server has dropped.
pub(super) fn check(constraints: &[DeviceConstraint]) -> Result<(), Unallocatable> {
    let empty =
        |constraint: &DeviceConstraint| constraint.match_attribute.is_none() && constraint.distinct_attribute.is_none();
    match constraints.iter().position(empty) {
        None => Ok(()),
        Some(at) => {
            Err(Unallocatable::Unsupported { at: format!("constraint #{at}"), field: "this type of constraint" })
        }
    }
}

/// An attribute by its full name; drivers may leave out their own domain.
fn attribute<'a>(candidate: &Candidate<'a>, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = candidate.device.attributes.as_ref()?;
    let (domain, short) = name.split_once('/')?;
    attributes.get(name).or_else(|| (domain == candidate.id.driver).then(|| attributes.get(short)).flatten())
}
