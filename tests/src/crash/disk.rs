//! Small file systems of a node's own that fill up or can't be written, in a mount namespace that ends with the test.
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::testbed::Result;

/// More than records and specs of some claims need, less than a suite would notice.
const SIZE: &str = "256k";
const FILLER: &str = "filler";

/// A mount namespace with a tmpfs at each of a few directories.
pub struct Disks {
    /// Lives for as long as its input is open.
    holder: Child,
}

impl Disks {
    /// Mounts them; needs root.
    pub fn mount(dirs: &[PathBuf]) -> Result<Self> {
        let script =
            format!("for dir; do mount -t tmpfs -o size={SIZE},mode=0755 tmpfs \"$dir\"; done; echo mounted; exec cat");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc", &script, "sh"])
            .args(dirs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let disks = Self { holder };
        if line.trim() == "mounted" { Ok(disks) } else { Err("the file systems can't be mounted".into()) }
    }

    /// What starts a program among them.
    pub fn launcher(&self) -> Vec<String> {
        let of = format!("--target={}", self.holder.id());
        ["nsenter", "--mount", &of, "--"].map(ToOwned::to_owned).to_vec()
    }

    /// A path as it is among them.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Leaves not a byte free.
    pub fn fill(&self, dir: &Path) -> Result<()> {
        let mut file = std::fs::File::create(self.path(dir).join(FILLER))?;
        // Page by page to the last.
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }

    /// Gives it all back.
    pub fn free(&self, dir: &Path) -> Result<()> {
        Ok(std::fs::remove_file(self.path(dir).join(FILLER))?)
    }

    /// Makes one read-only, or writable again.
    pub fn set_read_only(&self, dir: &Path, read_only: bool) -> Result<()> {
        let launcher = self.launcher();
        let options = if read_only { "remount,bind,ro" } else { "remount,bind,rw" };
        let (program, arguments) = launcher.split_first().ok_or("no launcher")?;
        let mounted = Command::new(program).args(arguments).args(["mount", "-o", options]).arg(dir).status()?;
        if mounted.success() { Ok(()) } else { Err(format!("{} can't be mounted anew", dir.display()).into()) }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
