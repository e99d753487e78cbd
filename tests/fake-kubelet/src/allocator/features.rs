//! Which of Kubernetes' optional features the stand-in has on.

/// Feature gates of the scheduler; all of them are on by default, as in Kubernetes 1.36.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `DRAConsumableCapacity` (KEP-5075).
    pub consumable_capacity: bool,
    /// `DRAPartitionableDevices` (KEP-4815).
    pub partitionable_devices: bool,
    /// `DRAExtendedResource` (KEP-5004).
    pub extended_resources: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { consumable_capacity: true, partitionable_devices: true, extended_resources: true }
    }
}
