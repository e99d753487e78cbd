//! As much of a `ValidatingAdmissionPolicy` as drivers meet: ResourceSlices of one node and its pool, and no others.
use serde_json::Value;

use crate::status::Failure;

/// What an account is held to.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) node: String,
    pub(crate) pool: String,
}

impl Held {
    /// Whether a slice may be written, in the words of Kubernetes 1.36.
    pub(crate) fn judge(&self, slice: &Value) -> Result<(), Failure> {
        let spec = &slice["spec"];
        if spec["nodeName"] != self.node.as_str() {
            return Err(self.denied(slice, &format!("nodeName {}", self.node)));
        }
        if spec.pointer("/pool/name").and_then(Value::as_str) != Some(&self.pool) {
            return Err(self.denied(slice, &format!("pool {}", self.pool)));
        }
        Ok(())
    }

    fn denied(&self, slice: &Value, with: &str) -> Failure {
        let name = slice.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let why = format!("the driver on node {} may write ResourceSlices with {with} only", self.node);
        Failure::denied(format!(
            "resourceslices.resource.k8s.io {name:?} is forbidden: ValidatingAdmissionPolicy 'aliquot-driver' with binding \
             'aliquot-driver' denied request: {why}"
        ))
    }
}
