//! What those that share a GPU need that the holder of a whole one does not: equal turns, and an eye or a limit on
//! memory.
pub mod guard;
pub(crate) mod guarding;
pub(crate) mod limits;
pub mod time_slice;
