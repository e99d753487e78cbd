//! The node agent: finds GPUs, publishes them, and prepares resource claims.
