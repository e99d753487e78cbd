//! What those that share a GPU need that the holder of a whole one does not: equal turns, and an eye on memory.
pub mod guard;
pub(crate) mod guarding;
pub mod time_slice;
