//! A thread that owns libnvidia-ml and answers with plain data.
