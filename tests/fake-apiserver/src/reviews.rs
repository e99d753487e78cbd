//! What clients ask about themselves: who they are, and what they may do.
use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Who every client is.
const USER: &str = "anybody";

/// The answer to a review that is posted; `denied` are verbs and resources, these with their subresource.
pub(crate) fn answer(path: &[&str], review: &Value, denied: &BTreeSet<(String, String)>) -> Option<Value> {
    let status = match path {
        ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"] => {
            json!({"userInfo": {"username": USER, "groups": ["system:authenticated"]}})
        }
        ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => {
            let field = |name: &str| review["spec"]["resourceAttributes"][name].as_str().unwrap_or_default();
            let (verb, mut resource) = (field("verb").to_owned(), field("resource").to_owned());
            if !field("subresource").is_empty() {
                resource = format!("{resource}/{}", field("subresource"));
            }
            json!({"allowed": !denied.contains(&(verb, resource))})
        }
        _ => return None,
    };
    let mut answer = review.clone();
    answer["status"] = status;
    Some(answer)
}
