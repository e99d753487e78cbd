//! The references of flags and of the policy file, made from the programs' own definitions.
use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};
use serde_json::Value;

/// `docs/reference/flags.md`.
pub fn flags() -> String {
    let mut page = "# Flags\n\nMade from the programs by `cargo xtask reference`. Each flag has an environment variable, where one \
                    is named; the flag counts for more. `--help` says the same.\n"
        .to_owned();
    put(&mut page, &aliquot_driver::args::Cli::command(), "");
    put(&mut page, &aliquot_controller::args::Cli::command(), "");
    page
}

/// `docs/reference/policy.md`.
pub fn policy() -> String {
    let mut page = "# The policy file\n\nMade from its JSON schema (`aliquot-driver policy schema`) by `cargo xtask reference`. \
                    [sharing.md](../sharing.md#the-policy-file) says what it is for.\n\n| field | value | default | |\n|---|---|---|---|\n"
        .to_owned();
    let schema = aliquot_params::policy::schema();
    put_fields(&mut page, &schema, &schema, "");
    page
}

/// The fields of an object, and those below.
fn put_fields(page: &mut String, root: &Value, schema: &Value, path: &str) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}{name}");
        let default = field.get("default").filter(|default| !default.is_object() && !default.is_null());
        let default = default.map(|default| code(&default.to_string())).unwrap_or_default();
        let cells = [code(&path), value(root, field), default, cell(field["description"].as_str().unwrap_or_default())];
        let _ = writeln!(page, "| {} |", cells.join(" | "));
        put_fields(page, root, field, &format!("{path}."));
        put_fields(page, root, &field["items"], &format!("{path}[]."));
    }
}

/// What a field may be.
fn value(root: &Value, schema: &Value) -> String {
    if let Some(named) = schema["$ref"].as_str().and_then(|place| root.pointer(place.trim_start_matches('#'))) {
        return value(root, named);
    }
    if let Some(one) = schema.get("const") {
        return code(&plain(one));
    }
    if let Some(items) = schema.get("items") {
        return format!("list of {}", value(root, items));
    }
    let choices = schema["enum"].as_array().into_iter().flatten().map(|one| code(&plain(one)));
    let alternatives = ["oneOf", "anyOf"].into_iter().filter_map(|name| schema[name].as_array()).flatten();
    let alternatives = alternatives.map(|one| value(root, one));
    let all: Vec<String> = choices.chain(alternatives).filter(|one| !one.is_empty()).collect();
    if !all.is_empty() {
        return all.join(", ");
    }
    match &schema["type"] {
        Value::Array(types) => types.iter().map(plain).filter(|one| one != "null").collect::<Vec<_>>().join(", "),
        one => one.as_str().unwrap_or_default().to_owned(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// A program or one of its commands, and all below it.
fn put(page: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent}{}", command.get_name());
    let _ = write!(page, "\n## {name}\n\n{}\n", text(command.get_about()));
    let is_shown = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let args: Vec<&Arg> = command.get_arguments().filter(is_shown).collect();
    if !args.is_empty() {
        page.push_str("\n| flag | environment | default | |\n|---|---|---|---|\n");
        for arg in args {
            let about = arg.get_long_help().or_else(|| arg.get_help());
            let cells = [flag(arg), environment(arg), default(arg), text(about)];
            let _ = writeln!(page, "| {} |", cells.join(" | "));
        }
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set()) {
        put(page, below, &format!("{name} "));
    }
}

fn flag(arg: &Arg) -> String {
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
    let value = value.and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    match (arg.get_short(), arg.get_long()) {
        (_, None) => code(&value),
        (short, Some(long)) => {
            let short = short.map(|short| code(&format!("-{short}")) + ", ").unwrap_or_default();
            short + &code(format!("--{long} {value}").trim_end())
        }
    }
}

fn environment(arg: &Arg) -> String {
    arg.get_env().map(|name| code(&name.to_string_lossy())).unwrap_or_default()
}

fn default(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return String::new();
    }
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    match values.join(",") {
        none if values.is_empty() => none,
        empty if empty.is_empty() => "empty".to_owned(),
        value => code(&value),
    }
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// In one line, as a cell of a table has it.
fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    cell(&styled.map(ToString::to_string).unwrap_or_default())
}

fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}
