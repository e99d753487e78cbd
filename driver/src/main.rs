//! Wires the node agent.
fn main() {}
