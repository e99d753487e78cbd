//! Evaluates the CEL expressions of admission, with the variables that Kubernetes gives them.
use std::sync::Arc;

use aliquot_tests::testbed::Result;
use cel::{Context, Env};
use serde_json::Value;

/// What an expression is about.
pub(super) struct Attributes<'a> {
    /// `request`.
    pub(super) request: Value,
    /// `object`, null for none.
    pub(super) object: &'a Value,
    /// `oldObject`, null for none.
    pub(super) old: &'a Value,
}

/// The expressions of a policy or a webhook.
pub(super) struct Expressions(pub(super) Value);

impl Expressions {
    /// Whether all of its match conditions hold.
    pub(super) fn matches(&self, request: &Attributes<'_>) -> Result<bool> {
        let mut context = context(request)?;
        let conditions = self.0["matchConditions"].as_array().into_iter().flatten();
        for condition in conditions {
            if !holds(&condition["expression"], &mut context)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The places of the validations that don't hold.
    pub(super) fn refused(&self, request: &Attributes<'_>) -> Result<Vec<usize>> {
        let mut context = context(request)?;
        let mut variables = std::collections::HashMap::new();
        for variable in self.0["variables"].as_array().into_iter().flatten() {
            let value = evaluated(&variable["expression"], &context)?;
            variables.insert(variable["name"].as_str().unwrap_or_default().to_owned(), value);
            context.add_variable_from_value("variables", variables.clone());
        }
        let mut refused = Vec::new();
        for (at, validation) in self.0["validations"].as_array().into_iter().flatten().enumerate() {
            if validation.get("messageExpression").is_some() {
                evaluated(&validation["messageExpression"], &context)?;
            }
            if !holds(&validation["expression"], &mut context)? {
                refused.push(at);
            }
        }
        Ok(refused)
    }
}

fn context(request: &Attributes<'_>) -> Result<Context<'static, 'static>> {
    let mut context = Context::with_env(Arc::new(Env::stdlib().with_optional_support(true)));
    let given = [("request", &request.request), ("object", request.object), ("oldObject", request.old)];
    for (name, value) in given {
        context.add_variable(name, value.clone()).map_err(|error| error.to_string())?;
    }
    Ok(context)
}

fn holds(expression: &Value, context: &mut Context<'static, 'static>) -> Result<bool> {
    match evaluated(expression, context)? {
        cel::Value::Bool(holds) => Ok(holds),
        other => Err(format!("{expression} is {other:?}, not a bool").into()),
    }
}

fn evaluated(expression: &Value, context: &Context<'static, 'static>) -> Result<cel::Value> {
    let text = expression.as_str().ok_or("no expression")?;
    let program = Env::stdlib().with_optional_support(true).compile(text);
    let program = program.map_err(|error| format!("{text}: {error}"))?;
    program.execute(context).map_err(|error| format!("{text}: {error}").into())
}
