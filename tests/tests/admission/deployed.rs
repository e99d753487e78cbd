//! What is deployed fits together: names that several files have are the same everywhere.
use aliquot_tests::testbed;
use clap::CommandFactory as _;
use serde_json::{Value, json};

use super::{
    cel::{Attributes, Expressions},
    tls::{bad, review},
    *,
};

const POLICY: &str = include_str!("../../../deploy/base/admission-policy.yaml");
const RBAC: &str = include_str!("../../../deploy/base/rbac.yaml");
const NAMES: &str = include_str!("../../../deploy/components/admission-names/kustomization.yaml");
const BASE: &str = include_str!("../../../deploy/base/kustomization.yaml");
const CONTROLLER: &str = include_str!("../../../deploy/base/controller.yaml");
const CERTIFICATE: &str = include_str!("../../../deploy/components/cert-manager/certificate.yaml");

fn all(text: &str, kind: &str) -> Result<Vec<Value>> {
    Ok(documents::<Value>(text)?.into_iter().filter(|object| object["kind"] == kind).collect())
}

fn named(text: &str, kind: &str, name: &str) -> Result<Value> {
    let found = all(text, kind)?.into_iter().find(|object| object["metadata"]["name"] == name);
    found.ok_or_else(|| format!("there is no {kind} {name}").into())
}

#[test]
fn policies_are_about_the_account_and_the_driver_that_are_deployed() -> Result<()> {
    let account = all(RBAC, "ServiceAccount")?.remove(0)["metadata"].clone();
    let user = format!(
        "'system:serviceaccount:' + '{}' + ':' + '{}'",
        account["namespace"].as_str().unwrap(),
        account["name"].as_str().unwrap()
    );
    let policies = all(POLICY, "ValidatingAdmissionPolicy")?;
    assert_eq!(policies.len(), 3);
    for policy in &policies {
        let spec = &policy["spec"];
        assert_eq!(spec["failurePolicy"], "Fail");
        let condition = spec.pointer("/matchConditions/0").unwrap();
        assert_eq!(condition["name"], "driver-account");
        assert_eq!(condition["expression"], json!(format!("request.userInfo.username == {user}")));
        assert_eq!(spec["matchConditions"].as_array().unwrap().len(), 1);
        let driver =
            spec["variables"].as_array().unwrap().iter().find(|variable| variable["name"] == "driver").unwrap();
        assert_eq!(driver["expression"], json!(format!("'{}'", testbed::DRIVER)));
        let bound = |binding: &Value| {
            binding["spec"]["policyName"] == policy["metadata"]["name"]
                && binding["spec"]["validationActions"] == json!(["Deny"])
                && binding["spec"].get("matchResources").is_none()
        };
        assert!(all(POLICY, "ValidatingAdmissionPolicyBinding")?.iter().any(bound), "it is in force");
    }
    Ok(())
}

#[test]
fn every_write_of_slices_that_the_account_may_make_is_judged() -> Result<()> {
    let policies = all(POLICY, "ValidatingAdmissionPolicy")?;
    for rule in rules(RBAC, "aliquot-driver")? {
        for (verb, operation) in [("create", "CREATE"), ("update", "UPDATE"), ("patch", "UPDATE"), ("delete", "DELETE")]
        {
            if !rule.verbs.iter().any(|one| one == verb) {
                continue;
            }
            let covers = |policy: &Value| {
                let constraint = &policy["spec"]["matchConstraints"]["resourceRules"][0];
                let has = |field: &str, value: &str| constraint[field].as_array().unwrap().contains(&json!(value));
                has("apiGroups", &rule.api_groups[0])
                    && has("resources", &rule.resources[0])
                    && has("operations", operation)
            };
            assert!(policies.iter().any(covers), "{verb} {:?} is judged by no policy", rule.resources);
        }
    }
    Ok(())
}

#[test]
fn the_webhook_is_deployed_under_the_names_of_its_flags() -> Result<()> {
    let args = Cli::try_parse_from(["webhook"])?.args;
    let configuration = document("ValidatingWebhookConfiguration")?;
    let (secret, service) = (document("Secret")?, document("Service")?);
    assert_eq!(configuration["metadata"]["name"], args.webhook_configuration.as_str());
    assert_eq!(secret["metadata"]["name"], args.webhook_secret.as_str());
    assert_eq!(service["metadata"]["name"], args.webhook_service.as_str());
    assert!(secret.get("data").is_none(), "an empty Secret is filled, and not emptied by the next kubectl apply");
    let client = configuration.pointer("/webhooks/0/clientConfig").unwrap();
    assert!(client.get("caBundle").is_none());
    assert_eq!(
        client["service"],
        json!({"name": args.webhook_service, "namespace": service["metadata"]["namespace"], "path": "/validate"})
    );
    assert_eq!(service["spec"]["ports"][0]["targetPort"], args.webhook_address.unwrap().port());
    let namespaces = [&secret, &service, &document("Role")?].map(|object| object["metadata"]["namespace"].clone());
    assert_eq!(namespaces, [json!(NAMESPACE), json!(NAMESPACE), json!(NAMESPACE)]);
    for rule in rules(WEBHOOK, NAME)? {
        assert_eq!(rule.resource_names, [NAME]);
    }
    let certificate = named(CERTIFICATE, "Certificate", NAME)?["spec"].clone();
    assert_eq!(certificate["dnsNames"], json!([HOST]));
    assert_eq!(certificate["secretName"], args.webhook_secret.as_str());
    Cli::command().debug_assert();
    Ok(())
}

#[test]
fn cert_managers_certificate_is_signed_by_an_authority_that_outlives_it() -> Result<()> {
    let issuer_of = |certificate: &Value| {
        named(CERTIFICATE, "Issuer", certificate["spec"]["issuerRef"]["name"].as_str().unwrap_or_default())
    };
    let leaf = named(CERTIFICATE, "Certificate", NAME)?;
    let secret = issuer_of(&leaf)?["spec"]["ca"]["secretName"].clone();
    let signs = |one: &Value| one["spec"]["isCA"] == json!(true) && one["spec"]["secretName"] == secret;
    let authority = all(CERTIFICATE, "Certificate")?.into_iter().find(signs).ok_or("nobody signs")?;
    assert_eq!(authority["spec"]["privateKey"]["rotationPolicy"], "Never");
    assert_eq!(authority["spec"]["duration"], "87600h");
    assert!(leaf["spec"].get("duration").is_none(), "90 days, cert-manager's default");
    assert!(issuer_of(&authority)?["spec"].get("selfSigned").is_some());
    Ok(())
}

#[test]
fn the_api_server_calls_only_for_parameters_of_ours_in_objects_that_stay() -> Result<()> {
    let configuration = document("ValidatingWebhookConfiguration")?;
    let webhook = Expressions(configuration["webhooks"][0].clone());
    assert_eq!(webhook.0["failurePolicy"], "Ignore");
    for resource in ["resourceclaims", "resourceclaimtemplates", "deviceclasses"] {
        for version in ["v1", "v1beta2", "v1beta1"] {
            let is_covered = |rule: &Value| {
                rule["resources"].as_array().unwrap().contains(&json!(resource))
                    && rule["apiVersions"].as_array().unwrap().contains(&json!(version))
            };
            assert!(webhook.0["rules"].as_array().unwrap().iter().any(is_covered), "{version} {resource}");
            let ours = review(resource, version, "CREATE", &[bad()])["request"]["object"].clone();
            let none = review(resource, version, "CREATE", &[])["request"]["object"].clone();
            let theirs: Value = serde_json::from_str(&ours.to_string().replace(DRIVER, "gpu.example.com"))?;
            let mut going = ours.clone();
            going["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
            for (object, called) in [(&ours, true), (&none, false), (&theirs, false), (&going, false)] {
                let request = Attributes { request: json!({"operation": "CREATE"}), object, old: &Value::Null };
                assert_eq!(webhook.matches(&request)?, called, "{object}");
            }
        }
    }
    Ok(())
}

/// The values at a path as kustomize writes them: `webhooks.*.matchConditions.[name=stays].expression`.
fn at<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    path.split('.').fold(vec![object], |values, step| {
        let named = step.strip_prefix("[name=").and_then(|step| step.strip_suffix(']'));
        let below = |value: &'a Value| match (step, named, value) {
            ("*", _, Value::Array(items)) => items.iter().collect::<Vec<_>>(),
            (_, Some(name), Value::Array(items)) => items.iter().filter(|item| item["name"] == name).collect(),
            (place, None, Value::Array(items)) => items.get(place.parse().unwrap_or(usize::MAX)).into_iter().collect(),
            (field, None, value) => value.get(field).into_iter().collect(),
            _ => Vec::new(),
        };
        values.into_iter().flat_map(below).collect()
    })
}

#[test]
fn an_overlays_names_go_where_the_expressions_have_the_deployed_ones() -> Result<()> {
    let component: Value = documents(NAMES)?.remove(0);
    let objects = [documents::<Value>(POLICY)?, documents(WEBHOOK)?, documents(RBAC)?].concat();
    let chosen = |select: &Value| {
        let same = |object: &&Value, field: &str, at: &str| {
            select.get(field).is_none() || object.pointer(at) == select.get(field)
        };
        let found =
            objects.iter().filter(|object| same(object, "kind", "/kind") && same(object, "name", "/metadata/name"));
        found.collect::<Vec<_>>()
    };
    let part = |text: &Value, options: &Value| {
        let Some(delimiter) = options["delimiter"].as_str() else { return text.as_str().unwrap().to_owned() };
        let index = usize::try_from(options["index"].as_u64().unwrap_or_default()).unwrap();
        text.as_str().unwrap().split(delimiter).nth(index).unwrap().to_owned()
    };
    let mut places = 0;
    for replacement in component["replacements"].as_array().unwrap() {
        let source = &replacement["source"];
        let named = chosen(source);
        let value = part(at(named[0], source["fieldPath"].as_str().unwrap())[0], &source["options"]);
        assert!([NAMESPACE, DRIVER, "aliquot-driver"].contains(&value.as_str()), "{value}");
        for target in replacement["targets"].as_array().unwrap() {
            let path = target["fieldPaths"][0].as_str().unwrap();
            let found: Vec<_> = chosen(&target["select"]).into_iter().flat_map(|object| at(object, path)).collect();
            assert!(!found.is_empty(), "{path} is nowhere");
            for text in found {
                assert_eq!(part(text, &target["options"]), value, "{text}");
                places += 1;
            }
        }
    }
    let written = |text: &str| objects.iter().map(|object| object.to_string().matches(text).count()).sum::<usize>();
    let places_of = ["'aliquot'", "'aliquot-driver'", "'gpu.aliquot.dev'", "[\"gpu.aliquot.dev\"]"].map(written);
    assert_eq!(places, places_of.iter().sum::<usize>(), "none is left out");
    assert!(places_of.iter().all(|places| *places > 0));
    Ok(())
}

#[test]
fn the_policy_and_the_webhook_are_part_of_what_is_deployed() -> Result<()> {
    let base: Value = documents(BASE)?.remove(0);
    for file in ["admission-policy.yaml", "webhook.yaml"] {
        assert!(base["resources"].as_array().unwrap().contains(&json!(file)), "{file}");
    }
    Ok(())
}

#[test]
fn the_controllers_pods_serve_what_the_service_points_at() -> Result<()> {
    let deployment = all(CONTROLLER, "Deployment")?.remove(0);
    let pod = &deployment["spec"]["template"];
    let service = document("Service")?;
    assert_eq!(service["spec"]["selector"], pod["metadata"]["labels"]);
    let container = &pod["spec"]["containers"][0];
    let ports = container["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == "webhook").unwrap();
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["containerPort"]);
    let set: Vec<(String, String)> = container["env"].as_array().unwrap().iter().filter_map(variable).collect();
    let flags = set.iter().filter_map(|(name, value)| {
        let flag = name.strip_prefix("ALIQUOT_WEBHOOK_")?.to_lowercase().replace('_', "-");
        Some(format!("--webhook-{flag}={value}"))
    });
    let given = Cli::try_parse_from(std::iter::once("webhook".to_owned()).chain(flags))?.args;
    assert_eq!(port["containerPort"], given.webhook_address.unwrap().port());
    assert_eq!([&given.webhook_service, &given.webhook_secret, &given.webhook_configuration], [NAME; 3]);
    Ok(())
}

fn variable(one: &Value) -> Option<(String, String)> {
    Some((one["name"].as_str()?.to_owned(), one["value"].as_str()?.to_owned()))
}
