//! GPUs change their kernel driver, on a simulated node with a kernel: both ways, and whatever goes wrong on them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{path::PathBuf, time::Duration};

use aliquot_driver::{
    binding::{Binder, Trouble},
    discovery::{self, installation::Installation},
    roots::Roots,
};
use aliquot_model::{Gpu, Origin, PciAddress, Taken};
use aliquot_nvml::{Nvml, Patience, Questions, Session};
use aliquot_tests::{
    kernel::{Disorder, Holder, Kernel},
    node::{Artifacts, Node},
    passthrough::Function,
};
use fake_nvml::{Control, Persistence, Process, Profile};
use rustix::io::Errno;
use tokio::sync::watch;

const LONG: Duration = Duration::from_secs(20);
/// For those who wait for a kernel that hangs.
const SHORT: Duration = Duration::from_millis(700);
const GPU: &str = "0000:1b:00.0";
const AUDIO: &str = "0000:1b:00.1";
const SECOND: &str = "0000:43:00.0";

/// A node whose driver is this process.
struct Scene {
    // Before the directory goes.
    kernel: Kernel,
    nvml: Nvml,
    roots: Roots,
    questions: watch::Receiver<Option<Questions>>,
    gpus: Vec<Gpu>,
    node: Node,
    _asked: watch::Sender<Option<Questions>>,
    _dir: tempfile::TempDir,
}
