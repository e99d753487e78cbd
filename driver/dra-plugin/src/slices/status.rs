//! What became of what a driver last published.
use super::dropped::DroppedField;

/// Where publishing stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PublishStatus {
    /// Nothing was given to publish yet, or the API server has not been asked yet.
    #[default]
    Pending,
    /// The API server has what was given.
    Published {
        /// The pool's generation.
        generation: i64,
        /// In how many slices.
        slices: usize,
        /// What the API server did not store, because a feature is off there.
        dropped: Vec<DroppedField>,
    },
    /// The API server does not take it; this is tried again.
    Failing {
        /// Why, in one line.
        error: String,
    },
}
