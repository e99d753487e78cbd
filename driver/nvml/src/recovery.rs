//! What NVIDIA's driver says a GPU needs before it is used again.
use aliquot_model::Remedy;
use nvml_wrapper::{Device, enums::device::SampleValue, structs::device::FieldId};
use nvml_wrapper_sys::bindings::{
    field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    nvmlDeviceGpuRecoveryAction_s_NVML_GPU_RECOVERY_ACTION_NODE_REBOOT as NODE_REBOOT,
    nvmlDeviceGpuRecoveryAction_s_NVML_GPU_RECOVERY_ACTION_NONE as NONE,
};

/// None where the driver is too old to say, or the GPU is of a kind for which it doesn't.
pub(crate) fn needed(device: &Device<'_>) -> Option<Remedy> {
    let answers = device.field_values_for(&[FieldId(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)]).ok()?;
    let value = answers.into_iter().next()?.ok()?.value.ok()?;
    let number = match value {
        SampleValue::U32(number) => u64::from(number),
        SampleValue::U64(number) => number,
        SampleValue::I64(number) => u64::try_from(number).ok()?,
        SampleValue::F64(_) => return None,
    };
    Some(match u32::try_from(number) {
        Ok(NONE) => Remedy::None,
        Ok(NODE_REBOOT) => Remedy::RestartNode,
        // A reset, with its peers drained first or not; and what later drivers add won't be less.
        _ => Remedy::ResetGpu,
    })
}
