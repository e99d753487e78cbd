//! Says what the image is made of, in `CycloneDX` (ECMA-424): the crates that were compiled in, and Debian's packages.
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

/// `cargo metadata --format-version 1`, as far as it is used.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Crate {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// A registry; none for those of the workspace.
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    /// `dev` or `build`; none for what is linked.
    kind: Option<String>,
}

/// A package that isn't Rust's, by its package URL (<https://github.com/package-url/purl-spec>).
#[derive(Debug, Clone)]
pub struct Foreign {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its address.
    pub purl: String,
}

/// The bill of materials of an image `name`, of programs that are the packages `programs` of the workspace.
///
/// It has neither time nor serial number: the same contents are the same text.
pub fn bill(name: &str, version: &str, programs: &[&str], metadata: &Metadata, others: &[Foreign]) -> Value {
    let linked = linked(metadata, programs);
    let crates = metadata.packages.iter().filter(|package| linked.contains(package.id.as_str()));
    let mut components: BTreeMap<String, Value> = crates.map(of_crate).collect();
    components.extend(others.iter().map(|other| {
        let component = json!({"type": "library", "bom-ref": other.purl, "name": other.name, "version": other.version,
            "purl": other.purl});
        (other.purl.clone(), component)
    }));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": components.into_values().collect::<Vec<_>>(),
    })
}

fn of_crate(package: &Crate) -> (String, Value) {
    let reference = format!("pkg:cargo/{}@{}", package.name, package.version);
    let mut component =
        json!({"type": "library", "bom-ref": reference, "name": package.name, "version": package.version});
    if package.source.is_some() {
        component["purl"] = json!(reference);
    }
    if let Some(license) = &package.license {
        // As older manifests have it.
        let expression = license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    (reference, component)
}

/// The programs and what is linked into them, by id.
fn linked<'a>(metadata: &'a Metadata, programs: &[&str]) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let is_program = |package: &&Crate| package.source.is_none() && programs.contains(&package.name.as_str());
    let mut next: Vec<&str> = metadata.packages.iter().filter(is_program).map(|package| package.id.as_str()).collect();
    let mut linked = BTreeSet::new();
    while let Some(id) = next.pop() {
        if linked.insert(id) {
            let dependencies = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
            let normal = dependencies.iter().filter(|one| one.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            next.extend(normal.map(|one| one.pkg.as_str()));
        }
    }
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let package = |name: &str, source: Option<&str>| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT / Apache-2.0", "source": source});
        let dependency = |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let registry = Some("registry+https://github.com/rust-lang/crates.io-index");
        serde_json::from_value(json!({
            "packages": [package("program", None), package("linked", registry), package("builder", registry),
                package("tester", registry), package("below", registry), package("other", None)],
            "resolve": {"nodes": [
                {"id": "program", "deps": [dependency("linked", None), dependency("builder", Some("build")),
                    dependency("tester", Some("dev"))]},
                {"id": "linked", "deps": [dependency("below", None)]},
                {"id": "below", "deps": [dependency("linked", None)]},
                {"id": "other", "deps": []},
            ]},
        }))
        .unwrap()
    }

    fn names(bill: &Value) -> Vec<&str> {
        bill["components"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn what_is_linked_is_listed_and_what_only_builds_or_tests_is_not() {
        let bill = bill("image", "1", &["program"], &metadata(), &[]);
        assert_eq!(names(&bill), ["below", "linked", "program"]);
    }

    #[test]
    fn crates_of_a_registry_have_an_address_and_a_licence() {
        let bill = bill("image", "1", &["program"], &metadata(), &[]);
        assert_eq!(bill["components"][0]["purl"], "pkg:cargo/below@1.0.0");
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert!(bill["components"][2].get("purl").is_none());
    }

    #[test]
    fn debians_packages_are_listed_too() {
        let libc = Foreign {
            name: "libc6".to_owned(),
            version: "2.41-12".to_owned(),
            purl: "pkg:deb/debian/libc6".to_owned(),
        };
        assert_eq!(names(&bill("image", "1", &[], &metadata(), &[libc])), ["libc6"]);
    }
}
