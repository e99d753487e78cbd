//! Whose container it is: what a refusal is about.
use std::fmt;

use serde_json::{Map, Value};

/// containerd's and CRI-O's annotations of a container, which they write themselves; a pod's author can't.
const KEYS: [[&str; 4]; 2] = [
    [
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.sandbox-uid",
        "io.kubernetes.cri.container-name",
    ],
    ["io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.pod.uid", "io.kubernetes.container.name"],
];
/// In bytes: of a DNS subdomain, the longest of all names in Kubernetes.
const LONGEST: usize = 253;

/// A container, and of which pod it is where that is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// As the runtime names it.
    pub id: String,
    /// Of the pod.
    pub namespace: Option<String>,
    /// The pod's name.
    pub pod: Option<String>,
    /// The pod's UID.
    pub uid: Option<String>,
    /// The container's name in the pod.
    pub container: Option<String>,
}

impl Subject {
    /// From a container's id and annotations.
    pub(crate) fn new(id: &str, annotations: Option<&Map<String, Value>>) -> Self {
        let value = |key: &str| {
            let text = annotations?.get(key)?.as_str()?;
            is_name(text).then(|| text.to_owned())
        };
        let found = KEYS.map(|keys| keys.map(value)).into_iter().find(|[namespace, ..]| namespace.is_some());
        let [namespace, pod, uid, container] = found.unwrap_or_default();
        let id = if is_name(id) { id } else { "?" };
        Self { id: id.to_owned(), namespace, pod, uid, container }
    }
}

/// What Kubernetes and runtimes make names of.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(is_plain)
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.pod) {
            (Some(namespace), Some(pod)) => write!(f, "container {} of pod {namespace}/{pod}", self.id),
            _ => write!(f, "container {}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subject(id: &str, annotations: &Value) -> String {
        Subject::new(id, annotations.as_object()).to_string()
    }

    #[test]
    fn the_pod_is_the_one_that_the_runtime_names() {
        for prefix in ["io.kubernetes.cri.sandbox-", "io.kubernetes.pod."] {
            let names = json!({format!("{prefix}namespace"): "ns", format!("{prefix}name"): "p.1"});
            assert_eq!(subject("c1", &names), "container c1 of pod ns/p.1");
        }
        assert_eq!(subject("c1", &json!({"other": "x"})), "container c1");
    }

    #[test]
    fn what_is_no_name_is_not_told() {
        let odd = |name: &str| json!({"io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.name": name});
        for name in ["", "a b", "a\nb", "../x", &"x".repeat(254)] {
            assert_eq!(subject("c\n1", &odd(name)), "container ?", "{name}");
        }
    }
}
