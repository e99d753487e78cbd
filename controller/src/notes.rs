//! What is told of slices and claims, as Events. Pure.
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};

/// The API server refuses a longer note (events.k8s.io/v1).
const LONGEST: usize = 1024;

/// Who tells.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    /// The driver of which it is told.
    pub(crate) driver: String,
    /// This replica.
    pub(crate) identity: String,
}

/// What is told.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) regarding: ObjectReference,
    pub(crate) related: Option<ObjectReference>,
    pub(crate) is_warning: bool,
    /// In CamelCase; with the driver and `key` it names the Event.
    pub(crate) reason: &'static str,
    pub(crate) action: &'static str,
    /// What it is about, such as a UID: of one reason and key there is one Event.
    pub(crate) key: String,
    pub(crate) text: String,
}

impl Reporter {
    /// The Event. Its name says what it tells, so that a replica which starts, or takes over, finds it and doesn't repeat it.
    pub(crate) fn event(&self, note: Note) -> Event {
        let Note { regarding, related, is_warning, reason, action, key, mut text } = note;
        text.truncate(text.floor_char_boundary(LONGEST));
        let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let name = format!("{}.{}.{key}", self.driver, reason.to_lowercase());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some(format!("{}/controller", self.driver)),
            reporting_instance: Some(self.identity.clone()),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(text),
            type_: Some(if is_warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(regarding),
            related,
            ..Event::default()
        }
    }
}

/// What an Event refers to.
pub(crate) fn reference(
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    uid: &str,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(ToOwned::to_owned),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_under_the_same_name_by_every_replica() {
        let of = |identity: &str, text: &str| {
            let reporter = Reporter { driver: "gpu.aliquot.dev".into(), identity: identity.into() };
            let note = Note {
                regarding: reference("v1", "ResourceClaim", Some("ns"), "c", "u1"),
                related: None,
                is_warning: true,
                reason: "ClaimStuckDeleting",
                action: "Sweep",
                key: "u1".into(),
                text: text.into(),
            };
            reporter.event(note)
        };
        let (a, b) = (of("a", "x"), of("b", &"ü".repeat(2000)));
        assert_eq!(a.metadata, b.metadata);
        assert_eq!(a.metadata.name.as_deref(), Some("gpu.aliquot.dev.claimstuckdeleting.u1"));
        assert!(b.note.is_some_and(|note| note.len() <= LONGEST));
    }
}
