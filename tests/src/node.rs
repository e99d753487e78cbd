//! A simulated GPU node: a driver installation, device nodes, /proc and /sys of its own below one directory.
//!
//! The libraries in it are real ELF files that the driver loads, reads and mounts as it does NVIDIA's.
use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use fake_nvml::{Control, Limits, Profile};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// The fixed major number of the nvidia module.
const NVIDIA: u32 = 195;
/// One of those that the kernel gives out dynamically.
const UVM: u32 = 511;
#[cfg(target_arch = "x86_64")]
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
#[cfg(target_arch = "aarch64")]
const LIBRARIES: &str = "usr/lib/aarch64-linux-gnu";

/// What NVML is told to do.
const CONTROL: &str = "nvml-control.json";
/// The hierarchy of cgroups.
const CGROUPS: &str = "sys/fs/cgroup";

/// What cargo builds for a node.
const NAMES: [&str; 8] = [
    "aliquot-controller",
    "aliquot-driver",
    "aliquot-hook",
    "isolation-probe",
    "libfake_nvml.so",
    "libkernel_files.so",
    "nvidia-smi",
    "vm-runtime",
];

/// What cargo built and a node is made from.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// Those beside the running program, of the same profile.
    ///
    /// `cargo xtask` builds them first; a bare `cargo test` of this crate says what is missing.
    pub fn find() -> io::Result<Self> {
        let exe = std::env::current_exe()?;
        let has_all = |dir: &&Path| NAMES.iter().all(|name| dir.join(name).is_file());
        let dir = exe.ancestors().skip(1).find(has_all).map(Path::to_path_buf);
        let dir = dir.ok_or_else(|| {
            io::Error::other(
                "the driver, the controller and the simulated GPUs are not built: run cargo xtask test, or cargo build --workspace first",
            )
        })?;
        Ok(Self { dir })
    }

    /// Those in a directory, of which the ones must be there that are used.
    pub fn within(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// What a node is laid out with.
    pub(crate) fn of_a_node(&self) -> [PathBuf; 3] {
        [self.driver(), self.library(), self.smi()]
    }

    /// The driver's binary.
    pub fn driver(&self) -> PathBuf {
        self.dir.join("aliquot-driver")
    }

    /// The controller's binary.
    pub fn controller(&self) -> PathBuf {
        self.dir.join("aliquot-controller")
    }

    /// The container hook's binary.
    pub fn hook(&self) -> PathBuf {
        self.dir.join("aliquot-hook")
    }

    /// The program that tries in a container to reach devices.
    pub fn probe(&self) -> PathBuf {
        self.dir.join("isolation-probe")
    }

    /// The container runtime that stands in for one with virtual machines.
    pub fn vm_runtime(&self) -> PathBuf {
        self.dir.join("vm-runtime")
    }

    fn library(&self) -> PathBuf {
        self.dir.join("libfake_nvml.so")
    }

    /// What is preloaded into the driver on a node with a kernel.
    fn kernel_files(&self) -> PathBuf {
        self.dir.join("libkernel_files.so")
    }

    fn smi(&self) -> PathBuf {
        self.dir.join("nvidia-smi")
    }
}

/// A node's directories.
#[derive(Debug, Clone)]
pub struct Node {
    root: PathBuf,
    profile: Profile,
    driver: PathBuf,
    kernel_files: PathBuf,
}

impl Node {
    /// Lays a node out below `root`, which must be empty or missing.
    pub fn lay_out(root: &Path, profile: Profile, artifacts: &Artifacts) -> io::Result<Self> {
        let (driver, kernel_files) = (artifacts.driver(), artifacts.kernel_files());
        let node = Self { root: root.to_owned(), profile, driver, kernel_files };
        for dir in ["driver/usr/bin", "dev", "proc/sys/kernel/random", "sys/bus/pci/devices", "run", "cdi"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::create_dir_all(root.join("driver").join(LIBRARIES))?;
        for dir in ["kubelet/plugins", "kubelet/plugins_registry", CGROUPS] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::write(root.join(CGROUPS).join("cgroup.controllers"), "cpuset cpu io memory pids dmem misc\n")?;
        node.reboot()?;
        fs::write(
            root.join("proc/devices"),
            format!(
                "Character devices:\n  1 mem\n{NVIDIA} nvidia\n{NVIDIA} nvidiactl\n{UVM} nvidia-uvm\n\nBlock devices:\n  8 sd\n"
            ),
        )?;
        // Who reads it finds itself, as with `hostPID`.
        symlink("/proc/self", root.join("proc/self"))?;
        node.install(artifacts)?;
        node.make_node("nvidiactl", NVIDIA, 255)?;
        node.make_node("nvidia-uvm", UVM, 0)?;
        for gpu in &node.profile.gpus {
            node.make_node(&format!("nvidia{}", gpu.minor), NVIDIA, gpu.minor)?;
            let device = Path::new("devices").join(&gpu.pcie_root).join(&gpu.pci);
            fs::create_dir_all(root.join("sys").join(&device))?;
            fs::write(root.join("sys").join(&device).join("numa_node"), format!("{}\n", gpu.numa_node))?;
            symlink(Path::new("../../..").join(&device), root.join("sys/bus/pci/devices").join(&gpu.pci))?;
        }
        Ok(node)
    }

    /// The node's GPUs and driver.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// A directory of the node, such as `cdi`.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Gives the node another boot id, and takes away what a reboot does: files below /run, and the GPUs' time slices.
    pub fn reboot(&self) -> io::Result<()> {
        fs::write(self.path("proc/sys/kernel/random/boot_id"), format!("{}\n", uuid::Uuid::new_v4()))?;
        for dir in ["run", "cdi"] {
            fs::remove_dir_all(self.path(dir))?;
            fs::create_dir(self.path(dir))?;
        }
        for file in ["fake-timeslices.json", "fake-timeslices.log"] {
            match fs::remove_file(self.library_dir().join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes NVML say or do something else from its next call on.
    pub fn control(&self, control: &Control) -> io::Result<()> {
        let path = self.path(CONTROL);
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(control).map_err(io::Error::other)?)?;
        fs::rename(fresh, path)
    }

    /// The time slices that were set since the start, as GPU and length (0 to 3), in order.
    pub fn time_slices(&self) -> Vec<(String, u8)> {
        let log = fs::read_to_string(self.library_dir().join("fake-timeslices.log")).unwrap_or_default();
        let set = log.lines().filter_map(|line| line.split_once(' '));
        set.filter_map(|(uuid, length)| Some((uuid.to_owned(), length.parse().ok()?))).collect()
    }

    /// Makes nvidia-smi fail with this exit code where it is to set a time slice.
    pub fn refuse_time_slices(&self, code: u8) -> io::Result<()> {
        fs::write(self.library_dir().join("fake-timeslices.fail"), code.to_string())
    }

    /// Makes nvidia-smi set time slices again.
    pub fn allow_time_slices(&self) -> io::Result<()> {
        fs::remove_file(self.library_dir().join("fake-timeslices.fail"))
    }

    /// Puts a process of this machine into the node's procfs, in the cgroup of a pod, or of none.
    pub fn place(&self, pid: u32, pod: Option<&str>) -> io::Result<()> {
        match pod {
            Some(uid) => self.place_container(pid, uid, "1").map(drop),
            None => self.place_in(pid, "/system.slice/other.service").map(drop),
        }
    }

    /// The same in the cgroup of one of a pod's containers; the cgroup.
    pub fn place_container(&self, pid: u32, pod: &str, container: &str) -> io::Result<PathBuf> {
        let pod = format!("kubepods-besteffort-pod{}.slice", pod.replace('-', "_"));
        self.place_in(pid, &format!("/kubepods.slice/kubepods-besteffort.slice/{pod}/cri-containerd-{container}.scope"))
    }

    /// The hierarchy of cgroups, of version 2 and without any.
    pub fn cgroups(&self) -> PathBuf {
        self.path(CGROUPS)
    }

    fn place_in(&self, pid: u32, cgroup: &str) -> io::Result<PathBuf> {
        let dir = self.path("proc").join(pid.to_string());
        if !dir.exists() {
            fs::create_dir_all(&dir)?;
            // The kernel itself says when it was started, and what it has open.
            symlink(format!("/proc/{pid}/stat"), dir.join("stat"))?;
            symlink(format!("/proc/{pid}/fd"), dir.join("fd"))?;
        }
        fs::write(dir.join("cgroup"), format!("0::{cgroup}\n"))?;
        let path = self.cgroups().join(cgroup.trim_start_matches('/'));
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The memory limits that were set through NVML.
    pub fn memory_limits(&self) -> Limits {
        Limits::beside(&self.path(CONTROL))
    }

    /// Lets the node's procfs say which process its reader is, as one of another PID namespace would.
    pub fn show_self(&self, pid: u32) -> io::Result<()> {
        let (link, fresh) = (self.path("proc/self"), self.path("proc/self.new"));
        symlink(pid.to_string(), &fresh)?;
        fs::rename(fresh, link)
    }

    fn library_dir(&self) -> PathBuf {
        self.path("driver").join(LIBRARIES)
    }

    /// The driver with all its roots on this node; whoever starts it adds the API server.
    pub fn driver(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.driver);
        command
            .arg(subcommand)
            .env("NODE_NAME", "node1")
            // Suites run side by side on one machine.
            .env("ALIQUOT_METRICS_ADDRESS", "127.0.0.1:0")
            // Whatever cgroup the suites run in.
            .env("ALIQUOT_CGROUP_ROOT", "/")
            .env("FAKE_NVML_DEV", self.path("dev"))
            .env("FAKE_NVML_CONTROL", self.path(CONTROL));
        for (name, dir) in [
            ("ALIQUOT_DRIVER_ROOT", "driver"),
            ("ALIQUOT_KUBELET_ROOT", "kubelet"),
            ("ALIQUOT_CDI_ROOT", "cdi"),
            ("ALIQUOT_RUN_ROOT", "run"),
            ("ALIQUOT_HOOK_ROOT", "hook"),
            ("ALIQUOT_DEV_ROOT", "dev"),
            ("ALIQUOT_SYS_ROOT", "sys"),
            ("ALIQUOT_PROC_ROOT", "proc"),
        ] {
            command.env(name, self.path(dir));
        }
        if self.kernel_socket().exists() {
            command.env("LD_PRELOAD", &self.kernel_files);
        }
        command
    }

    /// What has a program's writes answered by the simulated kernel.
    pub(crate) fn kernel_files(&self) -> &Path {
        &self.kernel_files
    }

    /// Where a simulated kernel listens, if the node has one.
    pub(crate) fn kernel_socket(&self) -> PathBuf {
        self.path("kernel.sock")
    }

    /// What NVML is told to do.
    pub(crate) fn control_file(&self) -> PathBuf {
        self.path(CONTROL)
    }

    /// A program that is the driver on a node with a kernel, for those who start it without an environment of its own.
    pub fn driver_program(&self) -> io::Result<PathBuf> {
        let path = self.path("aliquot-driver.sh");
        let script = format!(
            "#!/bin/sh\nexport LD_PRELOAD='{}'\nexec '{}' \"$@\"\n",
            self.kernel_files.display(),
            self.driver.display()
        );
        // By another process, as no program can be started that is open for writing, be it in a child of another thread.
        let write = ["-c", "printf %s \"$0\" > \"$1\" && chmod 755 \"$1\""];
        let status = Command::new("sh").args(write).arg(script).arg(&path).status()?;
        if status.success() { Ok(path) } else { Err(io::Error::other("the script can't be written")) }
    }

    fn install(&self, artifacts: &Artifacts) -> io::Result<()> {
        let dir = self.library_dir();
        let version = &self.profile.driver_version;
        let nvml = self.profile.append_to(&fs::read(artifacts.library())?);
        let cuda = renamed(&nvml, "libnvidia-ml.so.1", "libcuda.so.1");
        for (stem, bytes) in [("libnvidia-ml", &nvml), ("libcuda", &cuda)] {
            let file = format!("{stem}.so.{version}");
            fs::write(dir.join(&file), bytes)?;
            symlink(&file, dir.join(format!("{stem}.so.1")))?;
        }
        // The driver starts nvidia-smi without its own environment.
        let settings = [("FAKE_NVML_DEV", "dev"), ("FAKE_NVML_CONTROL", CONTROL)]
            .map(|(name, path)| format!("{name}={}\n", self.path(path).display()));
        fs::write(dir.join(fake_nvml::SETTINGS), settings.concat())?;
        let smi = self.path("driver/usr/bin/nvidia-smi");
        fs::copy(artifacts.smi(), &smi)?;
        fs::set_permissions(smi, fs::Permissions::from_mode(0o755))
    }

    /// A real node where that is allowed and nodes can be opened here, else a plain file.
    pub(crate) fn make_node(&self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        let path = self.path("dev").join(name);
        if path.exists() {
            return Ok(());
        }
        let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor));
        if made.is_ok() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
            match fs::File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => fs::remove_file(&path)?,
                _ => return Ok(()),
            }
        }
        fs::write(path, "")
    }
}

/// A library under another name, which must not be longer: the name is changed in place.
fn renamed(library: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut bytes = library.to_vec();
    let (from, mut name) = ([from.as_bytes(), b"\0"].concat(), to.as_bytes().to_vec());
    name.resize(from.len(), 0);
    if let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes.splice(at..at + from.len(), name);
    }
    bytes
}
