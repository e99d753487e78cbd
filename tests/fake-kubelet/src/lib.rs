//! A stand-in for the kubelet's side of the DRA protocol.
