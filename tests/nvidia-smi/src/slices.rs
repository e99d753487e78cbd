//! The lengths of time slices. NVML has no call for them, so they are kept in files beside the library.
use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use fake_nvml::Profile;

use crate::failure::Failure;

/// By UUID, the lengths that were set.
const LENGTHS: &str = "fake-timeslices.json";
/// A line for each time that one was set.
const LOG: &str = "fake-timeslices.log";
/// Holds the exit code with which setting fails.
const FAIL: &str = "fake-timeslices.fail";
/// Holds the milliseconds for which setting hangs.
const HANG: &str = "fake-timeslices.hang";

/// How long a time slice is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length(u8);

impl Length {
    const NAMES: [&str; 4] = ["Default", "Short", "Medium", "Long"];

    pub(crate) fn parse(number: &str) -> Option<Self> {
        number.parse().ok().filter(|number| usize::from(*number) < Self::NAMES.len()).map(Self)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.get(usize::from(self.0)).unwrap_or(&"Unknown"))
    }
}

/// The files, and the GPUs that they are about.
pub(crate) struct Slices {
    dir: PathBuf,
    profile: Profile,
}

impl Slices {
    /// Beside the library that this process has loaded: the driver starts the program with no environment to say where.
    pub(crate) fn open() -> Result<Self, Failure> {
        let library = loaded_library().ok_or(Failure::NoLibrary)?;
        let profile = Profile::in_force(&library).ok_or(Failure::NotSupported)?;
        let dir = library.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { dir, profile })
    }

    /// The length that a GPU has.
    pub(crate) fn of(&self, uuid: &str) -> Result<Length, Failure> {
        Ok(Length(self.lengths()?.get(uuid).copied().unwrap_or_default()))
    }

    /// Sets a GPU's length; callers at the same time wait for each other.
    pub(crate) fn set(&self, uuid: &str, length: Length) -> Result<(), Failure> {
        if let Some(milliseconds) = self.order(HANG) {
            thread::sleep(Duration::from_millis(milliseconds));
        }
        if let Some(code) = self.order(FAIL) {
            return Err(Failure::Ordered(u8::try_from(code).unwrap_or(u8::MAX)));
        }
        if !self.profile.gpus.iter().any(|gpu| gpu.uuid == uuid && gpu.time_slice) {
            return Err(Failure::NotSupported);
        }
        let mut log = OpenOptions::new().create(true).append(true).open(self.dir.join(LOG))?;
        log.lock()?;
        let mut lengths = self.lengths()?;
        lengths.insert(uuid.to_owned(), length.0);
        let fresh = self.dir.join("fake-timeslices.new");
        fs::write(&fresh, serde_json::to_vec(&lengths).map_err(std::io::Error::other)?)?;
        fs::rename(fresh, self.dir.join(LENGTHS))?;
        writeln!(log, "{uuid} {}", length.0)?;
        Ok(())
    }

    fn lengths(&self) -> Result<BTreeMap<String, u8>, Failure> {
        match fs::read(self.dir.join(LENGTHS)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).map_err(std::io::Error::other)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The number in a file by which a test orders trouble.
    fn order(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.dir.join(name)).ok()?.trim().parse().ok()
    }
}

/// The kernel tells it with all links resolved.
fn loaded_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    let is_nvml = |file: &&str| file.rsplit('/').next().is_some_and(|name| name.starts_with("libnvidia-ml.so"));
    files.find(is_nvml).map(PathBuf::from)
}
