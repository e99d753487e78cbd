//! What a claim asks for, resolved: classes looked up, expressions compiled, defaults filled in.
use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceClass, DeviceRequest, DeviceSelector, DeviceTaint, DeviceToleration,
};

use super::{Unallocatable, capacity::Amounts, features::Features, pool::Candidate, selector::Selector};

/// How many devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    /// As many.
    Exactly(usize),
    /// All that match, and at least one.
    All,
}

/// One way to satisfy a request.
pub(super) struct Ask<'a> {
    /// As in the result: `request`, or `request/subrequest`.
    pub(super) name: String,
    /// The request's own name.
    pub(super) request: &'a str,
    pub(super) class: &'a DeviceClass,
    pub(super) amount: Amount,
    pub(super) admin: bool,
    pub(super) tolerations: &'a [DeviceToleration],
    /// How much it wants of the device's capacities.
    pub(super) capacity: Option<&'a Amounts>,
    selectors: Vec<Selector>,
}

/// What `exactly` and an entry of `firstAvailable` have in common.
struct Terms<'a> {
    class: &'a str,
    mode: Option<&'a str>,
    count: Option<i64>,
    selectors: Option<&'a Vec<DeviceSelector>>,
    tolerations: Option<&'a Vec<DeviceToleration>>,
    capacity: Option<&'a CapacityRequirements>,
    derived_attributes: bool,
}

/// The ways to satisfy a request, best first.
pub(super) fn asks<'a>(
    request: &'a DeviceRequest,
    classes: &'a [DeviceClass],
    features: Features,
) -> Result<Vec<Ask<'a>>, Unallocatable> {
    if let Some(exactly) = &request.exactly {
        let terms = Terms {
            class: &exactly.device_class_name,
            mode: exactly.allocation_mode.as_deref(),
            count: exactly.count,
            selectors: exactly.selectors.as_ref(),
            tolerations: exactly.tolerations.as_ref(),
            capacity: exactly.capacity.as_ref(),
            derived_attributes: exactly.derived_attributes.is_some(),
        };
        let ask = ask(request, request.name.clone(), &terms, classes, features)?;
        return Ok(vec![Ask { admin: exactly.admin_access.unwrap_or_default(), ..ask }]);
    }
    let subrequests = request.first_available.iter().flatten().map(|sub| {
        let terms = Terms {
            class: &sub.device_class_name,
            mode: sub.allocation_mode.as_deref(),
            count: sub.count,
            selectors: sub.selectors.as_ref(),
            tolerations: sub.tolerations.as_ref(),
            capacity: sub.capacity.as_ref(),
            derived_attributes: sub.derived_attributes.is_some(),
        };
        ask(request, format!("{}/{}", request.name, sub.name), &terms, classes, features)
    });
    subrequests.collect()
}

fn ask<'a>(
    request: &'a DeviceRequest,
    name: String,
    terms: &Terms<'a>,
    classes: &'a [DeviceClass],
    features: Features,
) -> Result<Ask<'a>, Unallocatable> {
    if terms.derived_attributes {
        return Err(Unallocatable::Unsupported { at: format!("request {name}"), field: "derivedAttributes" });
    }
    if terms.capacity.is_some() && !features.consumable_capacity {
        return Err(Unallocatable::CapacityDisabled { request: name });
    }
    let class = classes.iter().find(|class| class.metadata.name.as_deref() == Some(terms.class));
    let class = class.ok_or_else(|| Unallocatable::NoClass { request: name.clone(), class: terms.class.to_owned() })?;
    let amount = match terms.mode {
        None | Some("ExactCount") => Amount::Exactly(usize::try_from(terms.count.unwrap_or(1)).unwrap_or(1).max(1)),
        Some("All") => Amount::All,
        Some(_) => return Err(Unallocatable::Unsupported { at: format!("request {name}"), field: "allocationMode" }),
    };
    let of_class = class.spec.iter().flat_map(|spec| spec.selectors.iter().flatten());
    let expressions = of_class.chain(terms.selectors.into_iter().flatten());
    let expressions = expressions.filter_map(|selector| selector.cel.as_ref());
    let selectors = expressions.map(|cel| Selector::compile(&cel.expression)).collect::<Result<_, _>>()?;
    let tolerations = terms.tolerations.map_or(&[][..], Vec::as_slice);
    let capacity = terms.capacity.and_then(|capacity| capacity.requests.as_ref());
    Ok(Ask { name, request: &request.name, class, amount, admin: false, tolerations, capacity, selectors })
}

impl Ask<'_> {
    /// Whether a list of names in a constraint or configuration, where none means all, covers this.
    pub(super) fn named_in(&self, names: Option<&Vec<String>>) -> bool {
        let names = names.map_or(&[][..], Vec::as_slice);
        names.is_empty() || names.iter().any(|name| *name == self.name || name == self.request)
    }

    /// Whether the selectors of class and request hold for a device.
    pub(super) fn selects(&self, candidate: &Candidate<'_>) -> Result<bool, Unallocatable> {
        for selector in &self.selectors {
            if !selector.matches(&candidate.id.driver, candidate.device)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether no taint keeps a device from being allocated.
    pub(super) fn tolerates(&self, candidate: &Candidate<'_>) -> bool {
        let mut taints = candidate.device.taints.iter().flatten();
        taints.all(|taint| {
            !matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                || self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
        })
    }
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    match given(&toleration.key) {
        None => exists,
        Some(key) => {
            key == taint.key
                && (exists || toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""))
        }
    }
}
