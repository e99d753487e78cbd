//! Which of a claim's parameters count for one of its devices. Pure.
//!
//! The claim's come before the class's (KEP-4381), and of one source those for the request before those for all; of two
//! alike the later one counts. One counts as a whole: fields of several are not mixed.
use aliquot_model::{DeviceName, Part};
use aliquot_params::{Config, Iommu, Sharing};
use dra_plugin::{AllocatedClaim, DeviceResult, OpaqueConfig};

use super::{
    plan::{Fault, Site},
    record::Slice,
};

/// The time slice that the parameters ask for.
pub(super) fn time_slice(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    device: &DeviceName,
    part: Part,
    site: &Site,
) -> Result<Option<Slice>, Fault> {
    let config = chosen(claim, result, device, part, site)?;
    Ok(config.and_then(Config::sharing).map(|Sharing::TimeSlicing(slicing)| Slice {
        interval: slicing.interval,
        asked: true,
        required: slicing.required,
    }))
}

/// How a virtual machine's monitor is to reach the IOMMU.
pub(super) fn iommu(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    device: &DeviceName,
    site: &Site,
) -> Result<Iommu, Fault> {
    match chosen(claim, result, device, Part::Vfio, site)? {
        Some(Config::Vfio(iommu)) => Ok(iommu),
        _ => Ok(Iommu::default()),
    }
}

/// The parameters that count.
fn chosen(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    device: &DeviceName,
    part: Part,
    site: &Site,
) -> Result<Option<Config>, Fault> {
    let needed = match part {
        Part::Whole | Part::Admin => Config::Gpu(None),
        Part::Shared | Part::Slot(_) => Config::Share(None),
        Part::Vfio => Config::Vfio(Iommu::default()),
    };
    let driver = || site.cdi_kind.vendor().to_owned();
    let mut best: Option<(_, Config)> = None;
    for config in claim.configs_for(result) {
        // All are decoded, so that users hear of parameters that would do nothing.
        let decoded = aliquot_params::decode(&config.parameters).map_err(|faults| Fault::Parameters {
            driver: driver(),
            source_of: config.source,
            faults,
        })?;
        if decoded.fits(needed) {
            let rank = (config.source, !config.requests.is_empty());
            if best.as_ref().is_none_or(|(best, _)| *best <= rank) {
                best = Some((rank, decoded));
            }
        } else if names(config, result) {
            return Err(Fault::WrongKind {
                driver: driver(),
                source_of: config.source,
                kind: decoded.kind(),
                request: result.request.to_string(),
                device: device.clone(),
                needed: needed.kind(),
            });
        }
    }
    Ok(best.map(|(_, config)| config))
}

/// Whether the parameters are for this very request: those for all requests, or for all alternatives of one
/// (`firstAvailable`), may be meant for others.
fn names(config: &OpaqueConfig, result: &DeviceResult) -> bool {
    config.requests.contains(&result.request.to_string())
}
