//! The hook's own binary as root, with mounts as a runtime makes them, in a mount namespace that ends with each test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aliquot_tests::{node::Artifacts, skip::skip};
use serde_json::json;

/// A container before its root is its own: a bundle with a root file system.
struct Bundle {
    dir: tempfile::TempDir,
}

/// What the hook, and the shell around it, said.
struct Ended {
    is_success: bool,
    output: String,
}

impl Bundle {
    /// None where mounts can't be made.
    fn new(directories: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("mounts need root");
            return None;
        }
        let bundle = Self { dir: tempfile::tempdir().unwrap() };
        for dir in directories {
            fs::create_dir_all(bundle.path("rootfs").join(dir)).unwrap();
        }
        bundle.root_is("rootfs");
        Some(bundle)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn root_is(&self, path: &str) {
        fs::write(self.path("config.json"), json!({"root": {"path": path}}).to_string()).unwrap();
    }

    /// What the runtime has mounted, by destination and type.
    fn mounts_are(&self, mounts: &[(&str, &str)]) {
        let mounts: Vec<_> = mounts.iter().map(|(to, kind)| json!({"destination": to, "type": kind})).collect();
        let config = json!({"root": {"path": "rootfs"}, "mounts": mounts});
        fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    /// Runs a shell in a mount namespace of its own and in the bundle; `hook` is the hook with the state as its input.
    fn run(&self, script: &str) -> Ended {
        self.run_in(&["--mount"], script)
    }

    fn run_in(&self, namespaces: &[&str], script: &str) -> Ended {
        let state = json!({"ociVersion": "1.0.2", "id": "c1", "status": "creating", "bundle": self.dir.path()});
        fs::write(self.path("state"), state.to_string()).unwrap();
        let script =
            format!("hook() {{ env -i \"$0\" prepare-container --log \"$PWD/log\" \"$@\" < state; }}\n{script}");
        let mut shell = Command::new("unshare");
        shell
            .args(namespaces)
            .args(["sh", "-euc", &script])
            .arg(Artifacts::find().unwrap().hook())
            .current_dir(&self.dir);
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let output_text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ended { is_success: output.status.success(), output: output_text }
    }
}

impl Ended {
    #[track_caller]
    fn well(self) -> String {
        assert!(self.is_success, "{}", self.output);
        self.output
    }

    /// The refusal, which names what it is about.
    #[track_caller]
    fn badly(self, named: &[&str]) {
        assert!(!self.is_success && named.iter().all(|word| self.output.contains(word)), "{}", self.output);
    }
}

/// What every container of a driver asks for.
const LIBRARIES: &str = "--library-dir /usr/lib/multi --library-dir /usr/lib64 --library libcuda.so.1=libcuda.so.580.1";

#[test]
fn a_container_sees_the_masked_parameters_and_cannot_change_them() {
    let Some(bundle) = Bundle::new(&[]) else { return };
    bundle.write("rootfs/proc/driver/nvidia/params", "ModifyDeviceFiles: 1\n");
    bundle.write("masked", "ModifyDeviceFiles: 0\n");
    let output = bundle
        .run(
            "hook --params $PWD/masked; cat rootfs/proc/driver/nvidia/params
             ! echo x 2>&1 > rootfs/proc/driver/nvidia/params
             grep nvidia/params /proc/self/mountinfo | wc -l",
        )
        .well();
    assert!(output.contains("ModifyDeviceFiles: 0") && output.contains("Read-only file system"), "{output}");
    assert_eq!(output.lines().last().map(str::trim), Some("1"), "one mount and no more: {output}");
    assert_eq!(fs::read_to_string(bundle.path("masked")).unwrap(), "ModifyDeviceFiles: 0\n");
    assert_eq!(fs::read_to_string(bundle.path("rootfs/proc/driver/nvidia/params")).unwrap(), "ModifyDeviceFiles: 1\n");
}

#[test]
fn in_a_user_namespace_the_parameters_are_masked_and_the_cache_merged_as_elsewhere() {
    let Some(bundle) = Bundle::new(&["usr/lib/multi"]) else { return };
    bundle.write("rootfs/proc/driver/nvidia/params", "ModifyDeviceFiles: 1\n");
    bundle.write("masked", "ModifyDeviceFiles: 0\n");
    let script = format!(
        "hook --params $PWD/masked {LIBRARIES}; hook --params $PWD/masked {LIBRARIES}
         cat rootfs/proc/driver/nvidia/params
         ! echo x 2>&1 > rootfs/proc/driver/nvidia/params"
    );
    // The mounts of the host are locked as they are, which is what could be in the way.
    let output = bundle.run_in(&["--user", "--map-root-user", "--mount"], &script).well();
    assert!(output.contains("ModifyDeviceFiles: 0") && output.contains("Read-only file system"), "{output}");
    assert_eq!(fs::read_to_string(bundle.path("masked")).unwrap(), "ModifyDeviceFiles: 0\n");
    assert!(bundle.path("rootfs/etc/ld.so.cache").is_file());
}

#[test]
fn what_ldconfig_reads_lists_the_drivers_libraries_and_all_of_the_images() {
    let Some(bundle) = Bundle::new(&["etc/ld.so.conf.d", "usr/lib/multi"]) else { return };
    let ldconfig = ["/usr/sbin/ldconfig", "/sbin/ldconfig"].into_iter().find(|path| Path::new(path).exists());
    let (Some(ldconfig), true) = (ldconfig, Path::new("/etc/ld.so.cache").exists()) else {
        skip("this machine has no ldconfig");
        return;
    };
    fs::copy("/etc/ld.so.cache", bundle.path("rootfs/etc/ld.so.cache")).unwrap();
    bundle.run(&format!("hook --driver-version 580.1 {LIBRARIES}")).well();
    let listed = |cache: &Path| {
        let output = Command::new(ldconfig).arg("-p").arg("-C").arg(cache).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, after) = (listed(Path::new("/etc/ld.so.cache")), listed(&bundle.path("rootfs/etc/ld.so.cache")));
    assert!(after.iter().any(|line| line.contains("libcuda.so.1") && line.ends_with("=> /usr/lib/multi/libcuda.so.1")));
    let lost: Vec<_> = before.iter().filter(|line| line.contains("=>") && !after.contains(line)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let config = fs::read_to_string(bundle.path("rootfs/etc/ld.so.conf.d/00-aliquot.conf")).unwrap();
    assert_eq!(config, "/usr/lib/multi\n");
}

#[test]
fn the_hosts_root_is_refused_by_whatever_path() {
    let Some(bundle) = Bundle::new(&[]) else { return };
    symlink("/", bundle.path("link")).unwrap();
    for root in ["/", "link", "../../../../../../../../.."] {
        bundle.root_is(root);
        bundle.run("hook --link a::/aliquot-must-not-be-here").badly(&["the host's own root"]);
        assert!(fs::symlink_metadata("/aliquot-must-not-be-here").is_err());
    }
}

#[test]
fn where_nothing_can_be_written_the_path_and_the_reason_are_told_also_in_the_log() {
    let Some(bundle) = Bundle::new(&["usr/lib/multi", "usr/lib64"]) else { return };
    let one = bundle.run(&format!("mount -t tmpfs -o ro none rootfs/usr/lib/multi; hook {LIBRARIES}"));
    one.badly(&["/usr/lib/multi", "leads to a volume or another mount"]);
    let all = format!("mount --bind rootfs rootfs; mount -o remount,bind,ro rootfs; hook {LIBRARIES}");
    bundle.run(&all).badly(&["/usr/lib/multi/libcuda.so.1", "Read-only file system"]);
    let log = fs::read_to_string(bundle.path("log")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert!(
        lines.len() == 2
            && lines[1].contains(r#""id":"c1""#)
            && lines[1].contains("/usr/lib/multi/libcuda.so.1 in the container"),
        "{log}"
    );
}

#[test]
fn a_volume_is_neither_read_nor_written() {
    let Some(bundle) = Bundle::new(&["etc", "usr/lib64"]) else { return };
    bundle.write("volume/ld.so.cache", "the volume's");
    bundle.run(&format!("mount --bind volume rootfs/etc; hook {LIBRARIES}")).badly(&["/etc/ld.so.cache"]);
    let names: Vec<_> = fs::read_dir(bundle.path("volume")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ld.so.cache"]);
    assert_eq!(fs::read_to_string(bundle.path("volume/ld.so.cache")).unwrap(), "the volume's");
    // A file that is mounted over the cache is another's as well.
    bundle.write("rootfs/etc/ld.so.cache", "");
    let file = "mount --bind volume/ld.so.cache rootfs/etc/ld.so.cache";
    bundle.run(&format!("{file}; hook {LIBRARIES}")).badly(&["/etc/ld.so.cache"]);
    assert_eq!(fs::read_to_string(bundle.path("volume/ld.so.cache")).unwrap(), "the volume's");
}

#[test]
fn a_cuda_toolkit_on_a_volume_is_looked_at_and_serves() {
    let Some(bundle) = Bundle::new(&["etc", "usr/local/cuda"]) else { return };
    for name in ["libcuda.so.1", "libcuda.so.999.1"] {
        bundle.write(&format!("volume/compat/{name}"), "");
    }
    bundle.run(&format!("mount --bind volume rootfs/usr/local/cuda; hook --driver-version 580.1 {LIBRARIES}")).well();
    let cache = fs::read(bundle.path("rootfs/etc/ld.so.cache")).unwrap();
    assert!(String::from_utf8_lossy(&cache).contains("/usr/local/cuda/compat/libcuda.so.1"));
}

const LINK: &str =
    "hook --link ../card0::/dev/dri/by-path/pci-card; ls rootfs/dev/dri/by-path 2>/dev/null || echo none";
const OWN_DEV: (&str, &str) = ("/dev", "tmpfs");

#[test]
fn links_by_place_are_made_in_the_runtimes_dev_and_in_no_other() {
    let Some(bundle) = Bundle::new(&["dev"]) else { return };
    bundle.mounts_are(&[("/proc", "proc"), OWN_DEV, ("/dev/shm", "tmpfs")]);
    let made = bundle.run(&format!("mount -t tmpfs none rootfs/dev; {LINK}")).well();
    assert_eq!(made, "pci-card\n");
    fs::create_dir(bundle.path("volume")).unwrap();
    for of_pod in ["mount --bind volume rootfs/dev", "mount --rbind /dev rootfs/dev"] {
        let left = bundle.run(&format!("{of_pod}; {LINK}")).well();
        assert!(left.contains("another mount") && !left.contains("pci-card\n"), "{of_pod}: {left}");
    }
    assert!(fs::read_dir(bundle.path("volume")).unwrap().next().is_none());
}

#[test]
fn a_volume_in_memory_at_dev_stays_as_it_is() {
    let Some(bundle) = Bundle::new(&["dev"]) else { return };
    symlink("/dev", bundle.path("rootfs/by-link")).unwrap();
    fs::create_dir(bundle.path("volume")).unwrap();
    // As of an emptyDir in memory; by a link of the image, it is there without its name.
    let mount = "mount -t tmpfs none rootfs/dev; mount -t tmpfs none volume; mount --bind volume rootfs/dev";
    for mounts in [&[("/dev", "bind")][..], &[OWN_DEV, ("/dev/", "bind")], &[OWN_DEV, ("/by-link", "bind")], &[]] {
        bundle.mounts_are(mounts);
        let left = bundle.run(&format!("{mount}; {LINK}; ls -A volume | wc -l")).well();
        assert!(left.contains("another mount") && left.starts_with("none\n0\n"), "{mounts:?}: {left}");
    }
}

#[test]
fn nothing_of_the_environment_or_the_directory_is_taken() {
    let Some(bundle) = Bundle::new(&["usr/lib64"]) else { return };
    // Whatever would be loaded, or be found first by a loader's or a shell's rules.
    for name in ["evil.so", "libc.so.6", "config.json.d", "sh"] {
        bundle.write(name, "#!/bin/sh\ntouch harmed\n");
    }
    let mut hook = Command::new(Artifacts::find().unwrap().hook());
    hook.args(["prepare-container", "--link", "a::/usr/lib64/a"]).current_dir(&bundle.dir);
    for (name, value) in
        [("LD_PRELOAD", "./evil.so"), ("LD_LIBRARY_PATH", "."), ("PATH", "."), ("LD_AUDIT", "./evil.so")]
    {
        hook.env(name, value);
    }
    let state = json!({"bundle": bundle.dir.path()}).to_string();
    let mut hook = hook.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    hook.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
    let output = hook.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_link(bundle.path("rootfs/usr/lib64/a")).unwrap(), Path::new("a"));
    assert!(!bundle.path("harmed").exists());
}
