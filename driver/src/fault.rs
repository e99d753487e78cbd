//! Named places at which tests end, stop or fail the driver: every step of its start, of prepare and of unprepare that
//! changes anything.
//!
//! In debug builds `ALIQUOT_FAULT` says what happens where: `record-written=kill,spec-placed=ENOSPC@2`; a value that begins
//! with `/` names a file that says so, and is read at each place. `kill` ends the process as SIGKILL does, `stop` stops it as
//! SIGSTOP does, and `ENOSPC`, `EIO` and `EROFS` make the step fail once it is done. `@2` means the second passage alone,
//! `@1+` every one from the first on; without, it is the first alone. `ALIQUOT_FAULT_TRACE` names a file that gets a line for
//! each passage, and one for each order that is obeyed (`spec-placed=ENOSPC@2`). In release builds a place is nothing.
#[cfg(debug_assertions)]
mod desk;
#[cfg(debug_assertions)]
mod orders;

use std::io;

use owned_dir::Step;

/// Makes the points and the list of them, so that neither lacks one of the other.
macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident $name:literal $kind:ident,)*) => {
        /// One of the places.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point {
            $($(#[doc = $doc])* $point,)*
        }

        impl Point {
            /// All of them: the start's, then in the order in which a claim passes them.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// As orders name it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }

            /// What a test can make of it.
            pub fn kind(self) -> Kind {
                match self {
                    $(Self::$point => Kind::$kind,)*
                }
            }
        }
    };
}

/// What a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something was done to a file, which can fail.
    File,
    /// Between two steps: nothing fails there.
    Between,
}

points! {
    /// The plugin's directory below the kubelet's is there.
    PluginDirMade "plugin-dir-made" Between,
    /// The hook has its temporary file.
    HookBegun "hook-begun" File,
    /// The hook is copied.
    HookWritten "hook-written" File,
    /// The hook has its name.
    HookPlaced "hook-placed" File,
    /// The kernel module's parameters have their temporary file.
    ParamsBegun "params-begun" File,
    /// They are written.
    ParamsWritten "params-written" File,
    /// They have their name.
    ParamsPlaced "params-placed" File,
    /// The hook's socket listens, and has no name yet.
    LimitsSocketMade "limits-socket-made" File,
    /// It has its name.
    LimitsSocketPlaced "limits-socket-placed" File,
    /// The directory of CDI specs is there.
    CdiDirMade "cdi-dir-made" Between,
    /// The directory of records is there.
    RecordsDirMade "records-dir-made" Between,
    /// A prepare has its devices, and has changed nothing.
    PrepareBegun "prepare-begun" Between,
    /// Other instances are told that a record will change.
    ChangeAnnounced "change-announced" File,
    /// A record has its temporary file: first as what is intended, then as what is done.
    RecordBegun "record-begun" File,
    /// It is written.
    RecordWritten "record-written" File,
    /// It has its name.
    RecordPlaced "record-placed" File,
    /// The devices are spoken for.
    Reserved "reserved" Between,
    /// A GPU has the claim's time slice.
    TimeSliceSet "time-slice-set" Between,
    /// NVIDIA's driver lets nobody open a GPU any more that is to go to a virtual machine.
    BindLocked "bind-locked" Between,
    /// Only vfio may have one of its group's functions.
    BindOverridden "bind-overridden" Between,
    /// No driver has it.
    BindUnbound "bind-unbound" Between,
    /// The vfio driver has it.
    BindProbed "bind-probed" Between,
    /// The node's spec has its temporary file.
    NodeSpecBegun "node-spec-begun" File,
    /// It is written.
    NodeSpecWritten "node-spec-written" File,
    /// It has its name.
    NodeSpecPlaced "node-spec-placed" File,
    /// What a container may read of its devices has its temporary file.
    MetadataBegun "metadata-begun" File,
    /// It is written.
    MetadataWritten "metadata-written" File,
    /// It has its name.
    MetadataPlaced "metadata-placed" File,
    /// The claim's spec has its temporary file.
    SpecBegun "spec-begun" File,
    /// It is written.
    SpecWritten "spec-written" File,
    /// It has its name.
    SpecPlaced "spec-placed" File,
    /// The claim is prepared, and nobody has been told.
    Committed "committed" Between,
    /// A container's memory is limited, and its hook has not been told.
    LimitSet "limit-set" Between,
    /// An unprepare has changed nothing.
    UnprepareBegun "unprepare-begun" Between,
    /// A GPU has its time slice back.
    TimeSliceRestored "time-slice-restored" Between,
    /// The vfio driver has let go of a function of a group that goes back to the host.
    ReturnUnbound "return-unbound" Between,
    /// Any driver may have it again.
    ReturnCleared "return-cleared" Between,
    /// The driver that had it has it again.
    ReturnBound "return-bound" Between,
    /// That a GPU keeps its time slice is written down.
    DebtNoted "debt-noted" File,
    /// That it has it back after all, likewise.
    DebtSettled "debt-settled" File,
    /// What a killed writer left of a spec is gone.
    SpecLeftoverRemoved "spec-leftover-removed" File,
    /// The claim's spec is gone.
    SpecRemoved "spec-removed" File,
    /// What a killed writer left of what a container may read is gone.
    MetadataLeftoverRemoved "metadata-leftover-removed" File,
    /// That is gone, and the claim's directory for it is not.
    MetadataRemoved "metadata-removed" File,
    /// What a killed writer left of a record is gone.
    RecordLeftoverRemoved "record-leftover-removed" File,
    /// The record is gone.
    RecordRemoved "record-removed" File,
    /// The claim is unprepared, and nobody has been told.
    Released "released" Between,
}

/// Between two steps.
#[cfg(debug_assertions)]
pub(crate) fn point(point: Point) {
    // Orders that fail what can't fail are refused.
    let _ = desk::pass(point);
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_point: Point) {}

/// After a step that could have failed.
#[cfg(debug_assertions)]
pub(crate) fn step(point: Point) -> io::Result<()> {
    desk::pass(point)
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[allow(clippy::unnecessary_wraps, reason = "the twin of the one in debug builds")]
pub(crate) fn step(_point: Point) -> io::Result<()> {
    Ok(())
}

/// Watches the directory of records.
pub(crate) fn records(done: Step, _name: &str) -> io::Result<()> {
    step(match done {
        Step::Begun => Point::RecordBegun,
        Step::Written => Point::RecordWritten,
        Step::Placed => Point::RecordPlaced,
        Step::LeftoverRemoved => Point::RecordLeftoverRemoved,
        Step::Removed => Point::RecordRemoved,
    })
}

/// Watches the directory of CDI specs.
pub(crate) fn specs(done: Step, name: &str) -> io::Result<()> {
    let is_node = name.ends_with("-driver_node.json");
    step(match done {
        Step::Begun if is_node => Point::NodeSpecBegun,
        Step::Written if is_node => Point::NodeSpecWritten,
        Step::Placed if is_node => Point::NodeSpecPlaced,
        Step::Begun => Point::SpecBegun,
        Step::Written => Point::SpecWritten,
        Step::Placed => Point::SpecPlaced,
        Step::LeftoverRemoved => Point::SpecLeftoverRemoved,
        Step::Removed => Point::SpecRemoved,
    })
}

/// Watches the directories of what containers may read.
pub(crate) fn metadata(done: Step, _name: &str) -> io::Result<()> {
    step(match done {
        Step::Begun => Point::MetadataBegun,
        Step::Written => Point::MetadataWritten,
        Step::Placed => Point::MetadataPlaced,
        Step::LeftoverRemoved => Point::MetadataLeftoverRemoved,
        Step::Removed => Point::MetadataRemoved,
    })
}

/// Watches sockets, of which the hook's is one that others wait for.
pub(crate) fn socket(done: Step, name: &str) -> io::Result<()> {
    if name != crate::sharing::limits::SOCKET {
        return Ok(());
    }
    step(if done == Step::Placed { Point::LimitsSocketPlaced } else { Point::LimitsSocketMade })
}

/// Watches the plugin's directory, from which nothing is removed.
pub(crate) fn plugin(done: Step, name: &str) -> io::Result<()> {
    let is_hook = name == crate::hook::NAME;
    step(match done {
        Step::Begun if is_hook => Point::HookBegun,
        Step::Written if is_hook => Point::HookWritten,
        Step::Placed if is_hook => Point::HookPlaced,
        Step::Begun => Point::ParamsBegun,
        Step::Written => Point::ParamsWritten,
        Step::Placed => Point::ParamsPlaced,
        Step::LeftoverRemoved | Step::Removed => return Ok(()),
    })
}
