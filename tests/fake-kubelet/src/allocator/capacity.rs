//! How much of a device's capacities a request takes (KEP-5075).
use std::collections::BTreeMap;

use k8s_openapi::{
    api::resource::v1::{CapacityRequestPolicy, Device, DeviceCapacity},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use super::{
    in_use::Used,
    quantity::{NotAQuantity, Quantity},
};

/// Amounts by a capacity's name.
pub(super) type Amounts = BTreeMap<String, Text>;

/// What a request takes of every capacity of a device. None if it cannot have that: it asks for a capacity that the
/// device lacks, or for more than the policy allows.
pub(super) fn taken(requests: Option<&Amounts>, device: &Device) -> Result<Option<Amounts>, NotAQuantity> {
    let published = device.capacity.as_ref();
    let lacks = |name| published.is_none_or(|capacities| !capacities.contains_key(name));
    if requests.into_iter().flat_map(BTreeMap::keys).any(lacks) {
        return Ok(None);
    }
    let mut taken = Amounts::new();
    for (name, capacity) in published.into_iter().flatten() {
        let request = requests.and_then(|requests| requests.get(name));
        let Some(amount) = amount(request, capacity)? else {
            return Ok(None);
        };
        taken.insert(name.clone(), amount);
    }
    Ok(Some(taken))
}

/// Whether every capacity has as much left.
pub(super) fn fits(taken: &Amounts, device: &Device, used: &[&Used]) -> Result<bool, NotAQuantity> {
    for (name, capacity) in device.capacity.iter().flatten() {
        let used: Quantity = used.iter().filter_map(|used| used.get(name)).copied().sum();
        let wanted = taken.get(name).map_or(Ok(Quantity::ZERO), Quantity::try_from)?;
        if used + wanted > Quantity::try_from(&capacity.value)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Amounts to count with.
pub(super) fn used(taken: &Amounts) -> Result<Used, NotAQuantity> {
    taken.iter().map(|(name, amount)| Ok((name.clone(), Quantity::try_from(amount)?))).collect()
}

fn amount(request: Option<&Text>, capacity: &DeviceCapacity) -> Result<Option<Text>, NotAQuantity> {
    let policy = capacity.request_policy.as_ref();
    let Some(request) = request else {
        let default = policy.and_then(|policy| policy.default.as_ref());
        // The default need not keep to the range.
        return Ok(Some(default.unwrap_or(&capacity.value).clone()));
    };
    policy.map_or_else(|| Ok(Some(request.clone())), |policy| rounded(request, policy))
}

fn rounded(request: &Text, policy: &CapacityRequestPolicy) -> Result<Option<Text>, NotAQuantity> {
    let wanted = Quantity::try_from(request)?;
    if let Some(range) = &policy.valid_range {
        let min = Quantity::try_from(&range.min)?;
        let (amount, text) = match &range.step {
            _ if wanted <= min => (min, range.min.clone()),
            None => (wanted, request.clone()),
            Some(step) => {
                let amount = wanted.round_up(min, Quantity::try_from(step)?);
                (amount, amount.binary())
            }
        };
        let max = range.max.as_ref().map(Quantity::try_from).transpose()?;
        return Ok(max.is_none_or(|max| amount <= max).then_some(text));
    }
    let Some(values) = &policy.valid_values else {
        return Ok(Some(request.clone()));
    };
    for value in values {
        if wanted <= Quantity::try_from(value)? {
            return Ok(Some(value.clone()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What a request, or none, takes of one capacity.
    fn of(capacity: &Value, request: &Value) -> Option<String> {
        let capacity = serde_json::from_value(capacity.clone()).unwrap();
        let request = serde_json::from_value::<Option<Text>>(request.clone()).unwrap();
        amount(request.as_ref(), &capacity).unwrap().map(|text| text.0)
    }

    #[test]
    fn without_a_policy_what_is_asked_for_is_taken_or_all() {
        let capacity = json!({"value": "80Gi"});
        assert_eq!(of(&capacity, &Value::Null).as_deref(), Some("80Gi"));
        assert_eq!(of(&capacity, &json!("1500Mi")).as_deref(), Some("1500Mi"));
    }

    #[test]
    fn a_range_rounds_up_from_its_least_in_steps_and_ends() {
        let range = json!({"min": "1Gi", "max": "80Gi", "step": "1Gi"});
        let capacity = json!({"value": "80Gi", "requestPolicy": {"default": "8Gi", "validRange": range}});
        for (request, taken) in [
            (Value::Null, Some("8Gi")),
            (json!("0"), Some("1Gi")),
            (json!("2500Mi"), Some("3Gi")),
            (json!("80Gi"), Some("80Gi")),
            (json!("81Gi"), None),
        ] {
            assert_eq!(of(&capacity, &request).as_deref(), taken, "{request}");
        }
    }

    #[test]
    fn of_a_list_of_values_the_next_is_taken() {
        let capacity = json!({"value": "8", "requestPolicy": {"default": "1", "validValues": ["1", "2", "4"]}});
        for (request, taken) in
            [(Value::Null, Some("1")), (json!("2"), Some("2")), (json!("3"), Some("4")), (json!("5"), None)]
        {
            assert_eq!(of(&capacity, &request).as_deref(), taken, "{request}");
        }
    }

    #[test]
    fn the_default_may_lie_outside_the_range() {
        let capacity = json!({"value": "8", "requestPolicy": {"default": "0", "validRange": {"min": "1"}}});
        assert_eq!(of(&capacity, &Value::Null).as_deref(), Some("0"));
        assert_eq!(of(&capacity, &json!("3")).as_deref(), Some("3"));
    }
}
