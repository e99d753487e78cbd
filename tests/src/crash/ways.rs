//! The ways in which things go wrong at a point.

/// One way for things to go wrong at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Killed once.
    Kill,
    /// Killed in a call that is never repeated; the next is an unprepare.
    Abandon,
    /// Killed at this point and then at another.
    Pair,
    /// The step fails with ENOSPC, once and then always until the error goes away.
    Full,
    /// The same with EIO.
    Broken,
    /// The same with EROFS.
    ReadOnly,
    /// Killed, and the node is rebooted.
    Reboot,
    /// The same, where the records' directory outlives the boot.
    RebootKept,
    /// Killed while a newer instance serves already.
    Surge,
    /// Stopped while a newer instance serves, and let go on later.
    Stopped,
    /// Killed, and the API server is away when the driver is back.
    NoApi,
    /// Killed, and NVML hangs when the driver is back.
    NvmlHangs,
}

impl Way {
    /// All of them, in the table's order.
    pub const ALL: [Self; 12] = [
        Self::Kill,
        Self::Abandon,
        Self::Pair,
        Self::Full,
        Self::Broken,
        Self::ReadOnly,
        Self::Reboot,
        Self::RebootKept,
        Self::Surge,
        Self::Stopped,
        Self::NoApi,
        Self::NvmlHangs,
    ];

    /// The column's head.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Abandon => "abandon",
            Self::Pair => "pair",
            Self::Full => "ENOSPC",
            Self::Broken => "EIO",
            Self::ReadOnly => "EROFS",
            Self::Reboot => "reboot",
            Self::RebootKept => "kept",
            Self::Surge => "surge",
            Self::Stopped => "stopped",
            Self::NoApi => "no-API",
            Self::NvmlHangs => "NVML",
        }
    }
}
