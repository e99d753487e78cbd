//! The references in docs/reference, made from the programs' own definitions.
use std::fmt::Write as _;

use aliquot_driver::offer::described::{ATTRIBUTES, CAPACITIES, Described};
use aliquot_params::{FORMS, Field, Form, Takes};
use clap::{Arg, Command, CommandFactory as _};
use serde_json::Value;

/// Every page by its name.
pub fn pages() -> [(&'static str, String); 4] {
    [("flags.md", flags()), ("policy.md", policy()), ("parameters.md", parameters()), ("attributes.md", attributes())]
}

/// `docs/reference/flags.md`.
fn flags() -> String {
    let mut page = "# Flags\n\nMade from the programs by `cargo xtask reference`. Each flag has an environment variable, where one \
                    is named; the flag counts for more. `--help` says the same.\n"
        .to_owned();
    put(&mut page, &aliquot_driver::args::Cli::command(), "");
    put(&mut page, &aliquot_controller::args::Cli::command(), "");
    page
}

/// `docs/reference/policy.md`.
fn policy() -> String {
    let mut page = "# The policy file\n\nMade from its JSON schema (`aliquot-driver policy schema`) by `cargo xtask reference`. \
                    [sharing.md](../sharing.md#the-policy-file) says what it is for.\n\n| field | value | default | |\n|---|---|---|---|\n"
        .to_owned();
    let schema = aliquot_params::policy::schema();
    put_fields(&mut page, &schema, &schema, "");
    page
}

/// `docs/reference/parameters.md`.
fn parameters() -> String {
    let mut page = "# Parameters\n\nMade by `cargo xtask reference` from the table that the driver and the webhook decode by. They stand in \
                    `config[].opaque.parameters` of ResourceClaims, ResourceClaimTemplates and DeviceClasses, beside `driver: \
                    gpu.aliquot.dev`, or whatever the driver's name is. Every other field or value is refused. Those of a claim come \
                    before those of its class, and those for a request before those for all; one counts as a whole. Kinds of \
                    `resource.nvidia.com/v1beta1` are for claims that were written for NVIDIA's DRA driver: \
                    [migrate-from-nvidia-dra.md](../migrate-from-nvidia-dra.md).\n"
        .to_owned();
    for Form { api_version, kind, about, fields } in &FORMS {
        let _ =
            write!(page, "\n## {kind}, {api_version}\n\n{about}\n\n```yaml\napiVersion: {api_version}\nkind: {kind}\n");
        put_example(&mut page, fields, "");
        page.push_str("```\n\n| field | value | default | |\n|---|---|---|---|\n");
        put_parameters(&mut page, fields, "");
    }
    page
}

/// The fields of a kind of parameters, and those below.
fn put_parameters(page: &mut String, fields: &[Field], path: &str) {
    for field in fields {
        let path = format!("{path}{}", field.name);
        let value = match &field.takes {
            Takes::Flag => "`true`, `false`".to_owned(),
            Takes::OneOf(texts) => texts.iter().map(|text| code(text)).collect::<Vec<_>>().join(", "),
            Takes::Object(..) => "object".to_owned(),
            Takes::Nothing(_) => "none".to_owned(),
        };
        let default = if field.needed { "required".to_owned() } else { code(field.default) };
        let _ = writeln!(page, "| {} |", [code(&path), value, default, cell(field.about)].join(" | "));
        if let Takes::Object(_, below) = &field.takes {
            put_parameters(page, below, &format!("{path}."));
        }
    }
}

/// All fields with the last of their values.
fn put_example(page: &mut String, fields: &[Field], indent: &str) {
    for Field { name, takes, .. } in fields {
        let value = match takes {
            Takes::Flag => " true",
            Takes::OneOf(texts) => &format!(" {}", texts.last().unwrap_or(&"")),
            Takes::Object(..) => "",
            Takes::Nothing(_) => continue,
        };
        let _ = writeln!(page, "{indent}{name}:{value}");
        if let Takes::Object(_, below) = takes {
            put_example(page, below, &format!("{indent}  "));
        }
    }
}

/// `docs/reference/attributes.md`.
fn attributes() -> String {
    let mut page = "# Attributes and capacities\n\nWhat ResourceSlices say of each device, written by `cargo xtask reference` from the driver's \
                    own description, which a test compares with what is published. Names without a domain have the driver's name as \
                    theirs: `device.attributes[\"gpu.aliquot.dev\"].productName`. What isn't known of a GPU is left out, so a claim \
                    that must not fail for that asks `has(…)` first. `admin` devices are for claims with `adminAccess`; \
                    [operators.md](../operators.md#what-it-publishes) says what each kind is for.\n"
        .to_owned();
    for (title, described) in [("Attributes", ATTRIBUTES), ("Capacities", CAPACITIES)] {
        let _ = write!(page, "\n## {title}\n\n| name | type | of | what it says | from |\n|---|---|---|---|---|\n");
        for Described { devices, name, kind, about, from } in described {
            let devices: Vec<String> = devices.iter().map(|device| code(device)).collect();
            let _ = writeln!(page, "| {} |", [&code(name), *kind, &devices.join(", "), about, from].join(" | "));
        }
    }
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
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
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
