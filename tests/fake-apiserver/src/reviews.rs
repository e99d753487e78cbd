//! What clients ask about themselves: who they are, and what they may do.
use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Who has no token.
const USER: &str = "anybody";
/// Who has one: the service account that the token is named for.
const ACCOUNTS: &str = "system:serviceaccount:aliquot:";

/// The answer to a review that is posted; `denied` are verbs and resources, these with their subresource.
pub(crate) fn answer(
    path: &[&str],
    review: &Value,
    token: Option<&str>,
    denied: &BTreeSet<(String, String)>,
) -> Option<Value> {
    let status = match path {
        ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"] => {
            let user = token.map_or_else(|| USER.to_owned(), |account| format!("{ACCOUNTS}{account}"));
            json!({"userInfo": {"username": user, "groups": ["system:authenticated"]}})
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
