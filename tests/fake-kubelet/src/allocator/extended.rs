//! What a pod's extended resources, such as `nvidia.com/gpu: 1`, ask for as requests for devices (KEP-5004).
use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Container, ContainerExtendedResourceRequest, PodSpec},
        resource::v1::{DeviceClass, DeviceRequest, ExactDeviceRequest},
    },
    apimachinery::pkg::api::resource::Quantity as Text,
};

use super::quantity::{NotAQuantity, Quantity};

/// What stands before a class's name in the resource that always means the class.
const OF_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// The requests of a pod's special claim, and which of them is for which container.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Extended {
    pub(super) requests: Vec<DeviceRequest>,
    pub(super) mappings: Vec<ContainerExtendedResourceRequest>,
}

/// Amounts by resource.
type Amounts = BTreeMap<String, Quantity>;

/// The class that stands for a resource: of those that name it the newest, and of these the first by name.
pub(super) fn class<'a>(resource: &str, classes: &'a [DeviceClass]) -> Option<&'a DeviceClass> {
    if let Some(name) = resource.strip_prefix(OF_CLASS) {
        return classes.iter().find(|class| class.metadata.name.as_deref() == Some(name));
    }
    let named = |class: &&DeviceClass| {
        class.spec.as_ref().and_then(|spec| spec.extended_resource_name.as_deref()) == Some(resource)
    };
    let age = |class: &&DeviceClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let newer = |a: &&'a DeviceClass, b: &&'a DeviceClass| {
        age(a).cmp(&age(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
    };
    classes.iter().filter(named).max_by(newer)
}

/// The extended resources that a pod's containers want, each once.
pub(super) fn resources(spec: &PodSpec) -> Result<Vec<String>, NotAQuantity> {
    let mut all = Amounts::new();
    for container in containers(spec) {
        all.extend(wanted(container)?.into_iter().filter(|(name, amount)| extended(name) && *amount > Quantity::ZERO));
    }
    Ok(all.into_keys().collect())
}

/// The requests for those resources that classes stand for, by resource.
pub(super) fn requests(spec: &PodSpec, classes: &BTreeMap<String, String>) -> Result<Extended, NotAQuantity> {
    let mut all = Extended::default();
    for (resource, class) in classes {
        let of = Of { resource, class, containers: containers(spec).collect(), short: short_lived(spec) };
        let Extended { requests, mappings } = of.requests()?;
        all.requests.extend(requests);
        all.mappings.extend(mappings);
    }
    all.requests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Which containers end before the next one starts.
fn short_lived(spec: &PodSpec) -> Vec<bool> {
    let init = spec.init_containers.iter().flatten().map(|one| one.restart_policy.as_deref() != Some("Always"));
    init.chain(spec.containers.iter().map(|_| false)).collect()
}

fn extended(resource: &str) -> bool {
    resource.starts_with(OF_CLASS)
        || (resource.contains('/') && !resource.contains("kubernetes.io/") && !resource.starts_with("requests."))
}

/// A container's requests; what has only a limit is requested too, which the real API server sees to.
fn wanted(container: &Container) -> Result<Amounts, NotAQuantity> {
    let resources = container.resources.iter();
    let texts = resources.flat_map(|all| all.limits.iter().flatten().chain(all.requests.iter().flatten()));
    texts.map(|(name, text): (&String, &Text)| Ok((name.clone(), Quantity::try_from(text)?))).collect()
}

/// One resource of a pod.
struct Of<'a> {
    resource: &'a str,
    class: &'a str,
    containers: Vec<&'a Container>,
    short: Vec<bool>,
}

impl Of<'_> {
    fn requests(&self) -> Result<Extended, NotAQuantity> {
        let mut found = Extended::default();
        let mut lasting = BTreeMap::new();
        for (at, container) in self.containers.iter().enumerate().filter(|(at, _)| !self.short(*at)) {
            if let Some((name, count)) = self.own(at, container)? {
                found.mappings.push(self.mapping(container, &name));
                lasting.insert(at, self.request(name, count));
            }
        }
        // Containers that end before others start use what these will have, and lend each other the rest.
        let mut lent = None::<DeviceRequest>;
        let mut borrowers = Vec::new();
        for (at, container) in self.containers.iter().enumerate().filter(|(at, _)| self.short(*at)) {
            let Some((name, count)) = self.own(at, container)? else {
                continue;
            };
            let mut missing = count;
            for later in lasting.range(at..).map(|(_, later)| later) {
                borrowers.push((*container, Some(later.name.clone())));
                missing -= count_of(later);
                if missing <= 0 {
                    break;
                }
            }
            if missing > 0 {
                borrowers.push((*container, None));
                if lent.as_ref().is_none_or(|lent| count_of(lent) < missing) {
                    lent = Some(self.request(name, missing));
                }
            }
        }
        let lent_name = lent.as_ref().map(|lent| lent.name.clone());
        let borrowed = borrowers.into_iter().filter_map(|(container, name)| {
            let name = name.or_else(|| lent_name.clone())?;
            Some(self.mapping(container, &name))
        });
        found.mappings.extend(borrowed);
        found.requests = lent.into_iter().chain(lasting.into_values()).collect();
        Ok(found)
    }

    fn short(&self, at: usize) -> bool {
        self.short.get(at) == Some(&true)
    }

    /// What a request of a container's own would be called, and how many devices it needs, if any.
    fn own(&self, at: usize, container: &Container) -> Result<Option<(String, i64)>, NotAQuantity> {
        let wanted = wanted(container)?;
        let place = wanted.keys().position(|name| name == self.resource);
        let count = wanted.get(self.resource).map_or(0, |amount| amount.whole());
        Ok(place.filter(|_| count > 0).map(|place| (format!("container-{at}-request-{place}"), count)))
    }

    fn request(&self, name: String, count: i64) -> DeviceRequest {
        let exactly = ExactDeviceRequest {
            device_class_name: self.class.to_owned(),
            allocation_mode: Some("ExactCount".to_owned()),
            count: Some(count),
            ..ExactDeviceRequest::default()
        };
        DeviceRequest { name, exactly: Some(exactly), ..DeviceRequest::default() }
    }

    fn mapping(&self, container: &Container, request: &str) -> ContainerExtendedResourceRequest {
        ContainerExtendedResourceRequest {
            container_name: container.name.clone(),
            resource_name: self.resource.to_owned(),
            request_name: request.to_owned(),
        }
    }
}

/// How many devices a request is for.
pub(super) fn count_of(request: &DeviceRequest) -> i64 {
    request.exactly.as_ref().and_then(|exactly| exactly.count).unwrap_or_default()
}
