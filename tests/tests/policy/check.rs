//! `aliquot-driver policy`: what an editor and an administrator learn of a policy before it is in force.
use std::process::Command;

use aliquot_tests::testbed::documents;
use serde_json::Value;

use super::*;

/// Runs to the end; whether it went well, standard output and standard error.
fn ended(command: &mut Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// `policy check` of these bytes on the testbed's node, with more arguments.
fn checked(testbed: &Testbed, content: impl AsRef<[u8]>, more: &[&str]) -> (bool, String, String) {
    replace(testbed, content).unwrap();
    ended(testbed.node.driver("policy").arg("check").arg(file(testbed)).args(more).env_remove("KUBECONFIG"))
}

fn schema() -> Value {
    let (ok, text, errors) = ended(
        Command::new(aliquot_tests::node::Artifacts::find().unwrap().driver()).args(["policy", "schema"]).env_clear(),
    );
    assert!(ok && errors.is_empty(), "{errors}");
    serde_json::from_str(&text).unwrap()
}

/// What of a value the schema doesn't allow, by the keywords that the policy's schema is made of.
fn faults(schema: &Value, root: &Value, value: &Value, path: &str, told: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let definition = root.pointer(name.trim_start_matches('#')).unwrap();
        return faults(definition, root, value, path, told);
    }
    for alternatives in ["oneOf", "anyOf"] {
        let Some(all) = schema[alternatives].as_array() else { continue };
        let fits = |one: &Value| {
            let mut inner = Vec::new();
            faults(one, root, value, path, &mut inner);
            inner.is_empty()
        };
        if !all.iter().any(fits) {
            told.push(format!("{path} is none of {alternatives}: {value}"));
        }
    }
    if let Some(constant) = schema.get("const").filter(|constant| *constant != value) {
        told.push(format!("{path} is {value}, not {constant}"));
    }
    if let Some(values) = schema["enum"].as_array().filter(|values| !values.contains(value)) {
        told.push(format!("{path} is {value}, none of {values:?}"));
    }
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !kinds.is_empty() && !kinds.contains(&kind) {
        told.push(format!("{path} is a {kind}, not {kinds:?}"));
    }
    if let Some(number) = value.as_i64() {
        let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            told.push(format!("{path} is {number}, not {least:?} to {most:?}"));
        }
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(name) {
            Some(schema) => faults(schema, root, inner, &format!("{path}.{name}"), told),
            None => told.push(format!("{path} has no {name}")),
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    told.extend(required.filter(|name| value.get(name).is_none()).map(|name| format!("{path} lacks {name}")));
    for (at, inner) in value.as_array().into_iter().flatten().enumerate() {
        faults(&schema["items"], root, inner, &format!("{path}[{at}]"), told);
    }
}

fn refusals(text: &str) -> Vec<String> {
    let (schema, mut told) = (schema(), Vec::new());
    faults(&schema, &schema, &serde_saphyr::from_str(text).unwrap(), "policy", &mut told);
    told
}

/// The policy that the documentation shows.
fn example() -> String {
    let text = include_str!("../../../docs/sharing.md");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.into_iter().find(|block| block.contains("kind: Policy")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_and_the_driver_agree_on_the_example_and_on_what_is_wrong() -> Result<()> {
    let testbed = prepared("t4x1", "[]").await?;
    assert_eq!(refusals(&example()), Vec::<String>::new());
    let (ok, _, errors) = checked(&testbed, example(), &[]);
    assert!(ok && errors.is_empty(), "{errors}");
    for (from, to) in [
        ("kind: Policy", "kind: Polity"),
        ("/v1alpha1", "/v9"),
        ("rules:", "ruls:"),
        ("match:", "mach:"),
        ("[shares]", "[mig]"),
        ("count: 4", "count: 0"),
        ("count: 4", "count: -4"),
        ("count: 4", "count: 129"),
        ("count: 4", "count: many"),
        ("minimum: 2Gi", "maximum: 2Gi"),
        ("order: spread", "order: any"),
        ("timeSlice: Short", "timeSlice: Brief"),
        ("mode: evict", "mode: shout"),
        ("fallback: shares", "fallback: both"),
    ] {
        let wrong = example().replacen(from, to, 1);
        assert_ne!(wrong, example(), "{from}");
        assert_eq!(refusals(&wrong).len(), if from == "rules:" { 1 } else { refusals(&wrong).len().max(1) }, "{to}");
        let (ok, shown, errors) = checked(&testbed, &wrong, &[]);
        assert!(!ok && shown.is_empty() && errors.contains("line "), "{to}: {errors}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_shows_what_the_driver_then_publishes() -> Result<()> {
    let rules = "[{match: {productName: '*H100*'}, offer: [shares], shares: {count: 4, memory: {default: 10Gi}}}, \
                 {match: {pciAddress: '0000:65:00.0'}, offer: []}]";
    let testbed = under("mixed", rules).await?;
    let (ok, json, errors) = checked(&testbed, policy(rules), &["-o", "json"]);
    assert!(ok && errors.is_empty(), "{errors}");
    // What says which rule decides is a comment.
    let json: String = json.lines().filter(|line| !line.starts_with('#')).collect();
    let list: Value = serde_json::from_str(&json)?;
    let devices = list["items"].as_array().unwrap().iter().filter_map(|slice| slice["spec"]["devices"].as_array());
    let shown: Vec<k8s_openapi::api::resource::v1::Device> = devices
        .flatten()
        .map(|device| serde_json::from_value(device.clone()))
        .collect::<std::result::Result<_, _>>()?;
    assert!(!shown.is_empty());
    testbed.until("the same is published", || testbed.devices() == shown).await?;
    let (_, yaml, _) = checked(&testbed, policy(rules), &["-o", "yaml"]);
    let same: Vec<Value> = documents(&yaml)?;
    assert_eq!(same, [list]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_the_rule_for_each_gpu_and_warns_of_one_that_never_decides() -> Result<()> {
    let testbed = prepared("l40sx2", "[]").await?;
    let rules = "[{match: {pciAddress: '0000:17:00.0'}, offer: [shares], shares: {count: 4}}, \
                 {match: {pciAddress: '0000:17:00.0', productName: '*'}}]";
    let (ok, table, errors) = checked(&testbed, policy(rules), &[]);
    assert!(ok, "{errors}");
    assert!(errors.starts_with("warning: rules[1] never decides: rules[0]"), "{errors}");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("# gpu-0000-17-00 (NVIDIA L40S") && lines[0].ends_with(": rules[0]"), "{table}");
    assert!(
        lines[1].starts_with("# gpu-0000-ca-00") && lines[1].ends_with("no rule matches, so the default"),
        "{table}"
    );
    assert!(table.contains("gpu-0000-17-00-shared") && !table.contains("gpu-0000-17-00 \n"), "{table}");
    let (ok, fixed, _) = checked(&testbed, policy(rules), &["--fixed"]);
    assert!(ok && fixed.contains("gpu-0000-17-00-share-3") && !fixed.contains("-shared"), "{fixed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_that_dont_all_fit_are_warned_of_in_a_check_and_in_the_log() -> Result<()> {
    let rules = "[{offer: [shares], shares: {count: 10, memory: {default: 10Gi}}}]";
    let told = "10 shares of 10Gi are 100Gi, but it has 46068Mi: 4 fit";
    let testbed = under("l40sx2", rules).await?;
    let (ok, table, errors) = checked(&testbed, policy(rules), &[]);
    assert!(ok && table.contains("gpu-0000-17-00-shared"), "{errors}");
    assert!(errors.starts_with("warning: line 3, column ") && errors.contains(told), "{errors}");
    assert!(errors.lines().count() == 1 && errors.ends_with("(and on 1 more GPUs)\n"), "{errors}");
    let (ok, fixed, errors) = checked(&testbed, policy(rules), &["--fixed"]);
    assert!(ok && fixed.contains("4606Mi") && errors.contains("each has 4606Mi"), "{fixed}{errors}");
    testbed.until("the log has it", || testbed.log().contains(told)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_a_bad_file_says_where_it_is_wrong_and_fails() -> Result<()> {
    let testbed = prepared("l40sx2", "[]").await?;
    for (content, words) in [
        (policy("[{ofer: [whole]}]").into_bytes(), vec!["policy.yaml: ", "line 3, column 10", "ofer"]),
        (policy("[{shares: {count: 0}}]").into_bytes(), vec!["line 3, column 26: rules[0].shares.count is 0"]),
        (
            policy("[{shares: {memory: {default: 60Gi}}}]").into_bytes(),
            vec!["line 3, column 37", "memory.default is 60Gi", "and on 1 more GPUs"],
        ),
        (b"kind: Policy\n# \xff\n".to_vec(), vec!["line 2, column 3", "UTF-8"]),
        (vec![b'#'; 10 << 20], vec!["more than 1048576 bytes"]),
    ] {
        let (ok, shown, errors) = checked(&testbed, content, &[]);
        assert!(!ok && shown.is_empty(), "{shown}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        for word in words {
            assert!(errors.contains(word), "{word}: {errors}");
        }
    }
    fs::remove_file(file(&testbed))?;
    let (ok, _, errors) = ended(testbed.node.driver("policy").arg("check").arg(file(&testbed)));
    assert!(!ok && errors.contains("policy.yaml can't be read: No such file"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_checked_where_there_are_no_gpus_too() -> Result<()> {
    let testbed = prepared("t4x1", "[]").await?;
    fs::remove_dir_all(testbed.node.path("driver"))?;
    let (ok, shown, errors) = checked(&testbed, policy("[{offer: [whole]}]"), &[]);
    assert!(ok && shown.is_empty() && errors.starts_with("note: the file is good"), "{errors}");
    let (ok, _, errors) = checked(&testbed, policy("[{offer: [whole, whole]}]"), &[]);
    assert!(!ok && errors.contains("line 3, column 17: rules[0].offer names one form twice"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_early_is_no_failure() -> Result<()> {
    let testbed = prepared("t4x1", "[{}, {match: {productName: '*'}}]").await?;
    for (command, args) in [("policy", vec!["check", file(&testbed).to_str().unwrap()]), ("inspect", vec![])] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = testbed.node.driver(command);
        command.args(args).env_remove("KUBECONFIG").stdout(writer.try_clone()?).stderr(writer);
        assert_eq!(command.status()?.code(), Some(0), "{command:?}");
    }
    Ok(())
}
