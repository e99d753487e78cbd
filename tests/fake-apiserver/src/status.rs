//! Errors as the API server words them: `metav1.Status` objects.
use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::permissions::Asked;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u16,
    reason: &'static str,
    message: String,
    retry_after: Option<u32>,
    /// The group, resource and name that it is about.
    about: Option<Box<[String; 3]>>,
    cause: Option<&'static str>,
    /// Which field the cause is about.
    field: String,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            about: None,
            cause: None,
            field: String::new(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let about = Some(Box::new([group, resource, name].map(ToOwned::to_owned)));
        Self { about, ..Self::new(404, "NotFound", format!("{resource} {name:?} not found")) }
    }

    pub(crate) fn exists(resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} {name:?} already exists"))
    }

    pub(crate) fn conflict(resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"))
    }

    pub(crate) fn precondition(resource: &str, name: &str) -> Self {
        let why = "the UID or resourceVersion in the precondition does not match";
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// Of one field: `FieldValueInvalid` or `FieldValueForbidden`.
    pub(crate) fn invalid_field(cause: &'static str, field: &str, message: &str) -> Self {
        let message = format!("{field}: {message}");
        Self { cause: Some(cause), field: field.to_owned(), ..Self::new(422, "Invalid", message) }
    }

    /// By the rules of whoever asked.
    pub(crate) fn forbidden(asked: &Asked) -> Self {
        let Asked { verb, group, resource, name } = asked;
        let name = name.as_deref().unwrap_or_default();
        Self::new(
            403,
            "Forbidden",
            format!("{resource} {name:?} is forbidden: cannot {verb} {resource} in API group {group:?}"),
        )
    }

    /// By an admission policy.
    pub(crate) fn denied(message: String) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// As the plugin `NamespaceLifecycle` says it, by a cause that clients can tell from other refusals.
    pub(crate) fn terminating(group: &str, resource: &str, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        Self {
            about: Some(Box::new([group, resource, name].map(ToOwned::to_owned))),
            cause: Some("NamespaceTerminating"),
            ..Self::new(403, "Forbidden", format!("{resource} {name:?} is forbidden: {why}"))
        }
    }

    pub(crate) fn expired() -> Self {
        Self::new(410, "Expired", "too old resource version")
    }

    /// An error that a test asked for.
    pub(crate) fn injected(code: u16, retry_after: Option<u32>) -> Self {
        let (reason, message) = match code {
            429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
            409 => ("Conflict", "the object has been modified; please apply your changes to the latest version"),
            403 => ("Forbidden", "forbidden"),
            _ => ("InternalError", "Internal error occurred"),
        };
        Self { retry_after, ..Self::new(code, reason, message) }
    }

    pub(crate) fn body(&self) -> Value {
        let mut details = match self.about.as_deref() {
            Some([group, resource, name]) => json!({"name": name, "group": group, "kind": resource}),
            None => json!({}),
        };
        if let Some(seconds) = self.retry_after {
            details = json!({ "retryAfterSeconds": seconds });
        }
        if let Some(cause) = self.cause {
            details["causes"] = json!([{"reason": cause, "field": self.field, "message": self.message}]);
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code,
        })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (code, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
