//! Label and field selectors.
use serde_json::Value;

use crate::status::Failure;

/// What a request chooses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Is(String, String),
    IsNot(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Has(String),
    HasNot(String),
}

impl Selector {
    pub(crate) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Failure> {
        Ok(Self {
            labels: requirements(labels.unwrap_or_default())?,
            fields: requirements(fields.unwrap_or_default())?,
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |name: &str| object.pointer("/metadata/labels")?.get(name)?.as_str().map(ToOwned::to_owned);
        let field = |path: &str| {
            let value = object.pointer(&format!("/{}", path.replace('.', "/")))?;
            Some(value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
        };
        self.labels.iter().all(|requirement| requirement.holds(&label))
            // An absent field is an empty text to a field selector.
            && self.fields.iter().all(|requirement| requirement.holds(&|path| Some(field(path).unwrap_or_default())))
    }
}

impl Requirement {
    fn holds(&self, value_of: &dyn Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Is(name, value) => value_of(name).as_ref() == Some(value),
            Self::IsNot(name, value) => value_of(name).as_ref() != Some(value),
            Self::In(name, values) => value_of(name).is_some_and(|value| values.contains(&value)),
            Self::NotIn(name, values) => value_of(name).is_none_or(|value| !values.contains(&value)),
            Self::Has(name) => value_of(name).is_some(),
            Self::HasNot(name) => value_of(name).is_none(),
        }
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, Failure> {
    split(text).into_iter().map(|part| requirement(part.trim())).collect()
}

/// At commas that aren't inside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let parts = text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    parts.filter(|part| !part.trim().is_empty()).collect()
}

fn requirement(text: &str) -> Result<Requirement, Failure> {
    let pair = |name: &str, value: &str| (name.trim().to_owned(), value.trim().to_owned());
    if let Some((name, values)) = text.split_once('(') {
        let values = values.trim_end_matches(')').split(',').map(|value| value.trim().to_owned()).collect();
        return match name.trim().rsplit_once(' ') {
            Some((name, "in")) => Ok(Requirement::In(name.trim().to_owned(), values)),
            Some((name, "notin")) => Ok(Requirement::NotIn(name.trim().to_owned(), values)),
            _ => Err(Failure::bad_request(format!("unable to parse requirement {text:?}"))),
        };
    }
    if let Some((name, value)) = text.split_once("!=") {
        let (name, value) = pair(name, value);
        return Ok(Requirement::IsNot(name, value));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        let (name, value) = pair(name, value);
        return Ok(Requirement::Is(name, value));
    }
    Ok(match text.strip_prefix('!') {
        Some(name) => Requirement::HasNot(name.to_owned()),
        None => Requirement::Has(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chooses(labels: &str, fields: &str) -> bool {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "x"}}, "spec": {"nodeName": "n1"}});
        Selector::parse(Some(labels), Some(fields)).unwrap().matches(&object)
    }

    #[test]
    fn labels_and_fields_choose_as_kubectl_writes_them() {
        assert!(chooses("", ""));
        assert!(chooses("app=x,app in (x, y),!other,app", "metadata.name=a,spec.nodeName=n1"));
        assert!(!chooses("app!=x", ""));
        assert!(!chooses("app notin (x)", ""));
        assert!(!chooses("", "spec.nodeName=n2"));
        assert!(chooses("", "spec.nodeName!=n2,status.phase="));
    }
}
