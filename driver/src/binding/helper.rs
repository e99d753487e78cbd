//! The process that reads or writes one of the kernel's files, so that it can be left behind where that never ends.
//!
//! A write that waits in the kernel can't be taken back, and ends with nothing that is done to its process; and files of a
//! function wait for one another. So no other process of the driver touches them.
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use super::files::KernelFile;
use crate::{args::KernelFileArgs, streams};

/// As much as any of them has.
const LONGEST: u64 = 4096;

/// Does it; the number of what the system said otherwise is on standard error.
pub(crate) fn run(args: &KernelFileArgs) -> ExitCode {
    match attend(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.raw_os_error() {
                Some(number) => streams::tell(format_args!("{number}")),
                None => streams::tell(format_args!("{error}")),
            }
            ExitCode::FAILURE
        }
    }
}

fn attend(args: &KernelFileArgs) -> io::Result<()> {
    let KernelFileArgs { sys_root, proc_root, path, value } = args;
    if KernelFile::at(path, sys_root, proc_root).is_none() {
        return Err(io::Error::other(format!("{} is none of the kernel's files about drivers", path.display())));
    }
    let Some(value) = value else {
        let mut text = Vec::new();
        File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
        return io::stdout().write_all(&text);
    };
    // One write, as the kernel takes each for itself; and nothing is made where it has no such file.
    OpenOptions::new().write(true).open(path)?.write_all(format!("{value}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn args(root: &Path, path: &str, value: Option<&str>) -> KernelFileArgs {
        KernelFileArgs {
            sys_root: root.join("sys"),
            proc_root: root.join("proc"),
            path: root.join(path),
            value: value.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn only_files_about_drivers_are_written_and_none_is_made() {
        let root = tempfile::tempdir().unwrap();
        let drivers = root.path().join("sys/bus/pci/drivers/nvidia");
        fs::create_dir_all(&drivers).unwrap();
        fs::write(drivers.join("unbind"), "").unwrap();
        fs::write(drivers.join("new_id"), "").unwrap();
        attend(&args(root.path(), "sys/bus/pci/drivers/nvidia/unbind", Some("0000:41:00.0"))).unwrap();
        assert_eq!(fs::read_to_string(drivers.join("unbind")).unwrap(), "0000:41:00.0\n");
        attend(&args(root.path(), "sys/bus/pci/drivers/nvidia/new_id", Some("x"))).unwrap_err();
        assert_eq!(fs::read_to_string(drivers.join("new_id")).unwrap(), "");
        let error = attend(&args(root.path(), "sys/bus/pci/drivers/nvidia/bind", Some("x"))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!drivers.join("bind").exists());
    }
}
