//! The admission policy's expressions over requests: a node's driver writes its own, and nothing else.
use serde_json::{Value, json};

use super::{
    cel::{Attributes, Expressions},
    *,
};

const POLICY: &str = include_str!("../../../deploy/base/admission-policy.yaml");
const NODE: &str = "node1";

fn policy(name: &str) -> Result<Expressions> {
    let found = documents::<Value>(POLICY)?.into_iter();
    let found = found.filter(|object| object["kind"] == "ValidatingAdmissionPolicy");
    let found = found.into_iter().find(|object| object["metadata"]["name"] == name).ok_or("no such policy")?;
    Ok(Expressions(found["spec"].clone()))
}

fn request<'a>(operation: &str, user: &Value, object: &'a Value, old: &'a Value) -> Attributes<'a> {
    Attributes { request: json!({"operation": operation, "userInfo": user}), object, old }
}

fn account(node: Option<&str>) -> Value {
    let mut user = json!({"username": "system:serviceaccount:aliquot:aliquot-driver"});
    if let Some(node) = node {
        user["extra"] = json!({"authentication.kubernetes.io/node-name": [node]});
    }
    user
}

fn pool(node: &str) -> Value {
    json!({"name": format!("{DRIVER}/{node}"), "generation": 7})
}

/// Of the pool that the account on `NODE` keeps.
fn slice(node: &str) -> Value {
    json!({"spec": {"driver": DRIVER, "nodeName": node, "pool": pool(NODE)}})
}

fn with(mut object: Value, at: &str, value: Value) -> Value {
    let (parent, field) = at.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = value;
    object
}

#[test]
fn only_the_drivers_account_is_held_to_it() -> Result<()> {
    for name in ["aliquot-driver", "aliquot-driver-events", "aliquot-driver-claims"] {
        let (policy, object) = (policy(name)?, slice(NODE));
        for (user, matched) in [
            (account(None), true),
            (json!({"username": "system:serviceaccount:aliquot:aliquot-controller"}), false),
            (json!({"username": "system:serviceaccount:other:aliquot-driver"}), false),
            (json!({"username": "system:node:node1"}), false),
            (json!({"username": "kubernetes-admin"}), false),
        ] {
            assert_eq!(policy.matches(&request("CREATE", &user, &object, &Value::Null))?, matched, "{user}");
        }
    }
    Ok(())
}

#[test]
fn a_driver_writes_slices_of_its_own_node_and_name_only() -> Result<()> {
    let policy = policy("aliquot-driver")?;
    let own = slice(NODE);
    let nowhere = json!({"spec": {"driver": DRIVER, "pool": pool(NODE)}});
    let everywhere = with(nowhere.clone(), "/spec/allNodes", json!(true));
    let selected = with(nowhere.clone(), "/spec/nodeSelector", json!({"nodeSelectorTerms": []}));
    let each = with(nowhere.clone(), "/spec/perDeviceNodeSelection", json!(true));
    let foreign = with(own.clone(), "/spec/driver", json!("gpu.example.com"));
    for (what, object, refused) in [
        ("its own", &own, vec![]),
        ("another node's", &slice("node2"), vec![1]),
        ("of no node", &nowhere, vec![1]),
        ("of all nodes", &everywhere, vec![1]),
        ("of selected nodes", &selected, vec![1]),
        ("with a node for each device", &each, vec![1]),
        ("its own and of all nodes", &with(own.clone(), "/spec/allNodes", json!(true)), vec![1]),
        ("another driver's", &foreign, vec![2]),
        ("in another node's pool", &with(own.clone(), "/spec/pool", pool("node2")), vec![3]),
        ("in a pool that begins as its own", &with(own.clone(), "/spec/pool", pool("node12")), vec![3]),
        ("in a pool of any name", &with(own.clone(), "/spec/pool/name", json!(NODE)), vec![3]),
        ("another node's in its pool", &with(slice("node2"), "/spec/pool", pool("node2")), vec![1, 3]),
    ] {
        let null = Value::Null;
        for (operation, object, old) in
            [("CREATE", object, &null), ("DELETE", &null, object), ("UPDATE", object, &own), ("UPDATE", &own, object)]
        {
            let found = policy.refused(&request(operation, &account(Some(NODE)), object, old))?;
            assert_eq!(found, refused, "{operation} of a slice {what}");
        }
    }
    Ok(())
}

#[test]
fn a_token_without_a_node_writes_nothing() -> Result<()> {
    let empty = json!({"metadata": {}, "spec": {"driver": DRIVER, "pool": pool("")}});
    for user in [account(None), with(account(Some("")), "/username", json!("x")), {
        with(account(Some("x")), "/extra", json!({"authentication.kubernetes.io/node-name": []}))
    }] {
        for name in ["aliquot-driver", "aliquot-driver-events"] {
            for object in [&slice(NODE), &slice(""), &empty] {
                let refused = policy(name)?.refused(&request("CREATE", &user, object, &Value::Null))?;
                assert_eq!(refused.first(), Some(&0), "{user}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_driver_writes_events_in_its_own_name_and_of_no_other_node() -> Result<()> {
    let policy = policy("aliquot-driver-events")?;
    let own =
        json!({"reportingController": DRIVER, "reportingInstance": NODE, "regarding": {"kind": "Node", "name": NODE}});
    let of_pod = with(own.clone(), "/regarding", json!({"kind": "Pod", "namespace": "default", "name": "hog"}));
    for (event, refused) in [
        (own.clone(), vec![]),
        (of_pod, vec![]),
        (with(own.clone(), "/regarding/name", json!("node2")), vec![2]),
        (with(own.clone(), "/reportingInstance", json!("node2")), vec![1]),
        (with(own.clone(), "/reportingController", json!("kubelet")), vec![1]),
        (json!({}), vec![1]),
    ] {
        let null = Value::Null;
        for (operation, object, old) in [("CREATE", &event, &null), ("UPDATE", &event, &own), ("UPDATE", &own, &event)]
        {
            let found = policy.refused(&request(operation, &account(Some(NODE)), object, old))?;
            assert_eq!(found, refused, "{operation} {event}");
        }
    }
    Ok(())
}

#[test]
fn a_driver_writes_of_claims_what_its_own_devices_are_and_nothing_else() -> Result<()> {
    let policy = policy("aliquot-driver-claims")?;
    let entry = |driver: &str, node: &str| json!({"driver": driver, "pool": format!("{driver}/{node}"), "device": "d"});
    let claim = |devices: &[Value]| {
        let allocation = json!({"devices": {"results": [{"device": "d"}]}});
        json!({"status": {"allocation": allocation, "reservedFor": [{"name": "pod"}], "devices": devices}})
    };
    let (own, other) = (entry(DRIVER, NODE), entry("nic.example.com", NODE));
    let before = claim(std::slice::from_ref(&other));
    let both = claim(&[other.clone(), own.clone()]);
    for (what, object, refused) in [
        ("its own", both.clone(), vec![]),
        ("its own, in the place of another's", claim(&[own]), vec![2]),
        ("another node's", claim(&[other.clone(), entry(DRIVER, "node2")]), vec![2]),
        ("another driver's", claim(&[with(other, "/device", json!("e"))]), vec![2]),
        ("another allocation", with(both.clone(), "/status/allocation", json!({})), vec![1]),
        ("no reservation", with(both, "/status/reservedFor", json!([])), vec![1]),
        ("nothing at all", json!({"status": {}}), vec![1, 2]),
    ] {
        let found = policy.refused(&request("UPDATE", &account(Some(NODE)), &object, &before))?;
        assert_eq!(found, refused, "{what}");
    }
    let found = policy.refused(&request("UPDATE", &account(None), &before, &before))?;
    assert_eq!(found, [0]);
    Ok(())
}
