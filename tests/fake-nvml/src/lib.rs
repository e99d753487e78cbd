//! A stand-in for libnvidia-ml: NVML's C ABI over GPUs that a profile file describes.
//!
//! The driver and `nvidia-smi` load it as they load the real one, so that their own NVML code is what runs. As with the
//! real library, a GPU is there for a process only if its device node can be opened: in a container it shows what the
//! container was given. While a session lasts, it holds the nodes of all GPUs open, as far as they can be.
//!
//! | variable | |
//! |---|---|
//! | `FAKE_NVML_PROFILE` | a profile file; without it, the profile that is appended to the library's own file |
//! | `FAKE_NVML_CONTROL` | a file that is looked at in each call: GPUs that are gone, errors, calls that hang, events |
//! | `FAKE_NVML_DEV` | the directory of device nodes, by default `/dev`; plain files in another directory count as nodes |
//!
//! A variable that isn't set is looked up in the file `fake-nvml.env` beside the library.
#![allow(unsafe_code, reason = "a C ABI is pointers")]

mod abi;
mod built;
mod cached;
mod control;
mod limits;
mod marks;
mod profile;
mod readings;
mod settings;
mod state;

pub use built::built_library;
pub use control::{Control, Happening, Process};
pub use limits::{Limit, Limits};
pub use marks::{Away, Persistence};
pub use profile::{GpuProfile, Profile};
pub use readings::Readings;
pub use settings::SETTINGS;
