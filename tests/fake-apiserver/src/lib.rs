//! A stand-in for the Kubernetes API server, as much as DRA needs of it.
