//! The opaque parameters that users write in claims and classes.
