//! Trouble that a test asks for.
use std::time::Duration;

/// What a request runs into.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// An error of this code, with this `Retry-After` in seconds.
    Error(u16, Option<u32>),
    /// The answer comes later.
    Delay(Duration),
    /// The answer is no JSON.
    Garbage,
    /// No answer ever comes.
    Silence,
}

/// Trouble for some requests.
#[derive(Debug, Clone)]
pub struct Fault {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`; empty for any.
    pub verb: String,
    /// Such as `resourceclaims` or `pods/eviction`; empty for any.
    pub resource: String,
    /// How many requests; the rest pass.
    pub times: usize,
    /// What happens.
    pub trouble: Trouble,
}

impl Fault {
    pub(crate) fn is_for(&self, verb: &str, resource: &str) -> bool {
        self.times > 0
            && (self.verb.is_empty() || self.verb == verb)
            && (self.resource.is_empty() || self.resource == resource)
    }
}
