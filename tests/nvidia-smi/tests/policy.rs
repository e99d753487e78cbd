//! Time slices as the driver sets them: with no environment but the library that is loaded first.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fake_nvml::{Profile, built_library};

/// A driver's library below a link, as distributions have it, with the device nodes beside.
struct Node {
    dir: tempfile::TempDir,
    profile: Profile,
}

impl Node {
    fn new() -> Self {
        let mut profile = Profile::named("mixed").unwrap();
        profile.gpus[2].time_slice = false;
        let node = Self { dir: tempfile::tempdir().unwrap(), profile };
        let library = node.profile.append_to(&fs::read(built_library().unwrap()).unwrap());
        fs::create_dir_all(node.path("lib")).unwrap();
        fs::write(node.path("lib/libnvidia-ml.so.580.95.05"), library).unwrap();
        symlink("lib/libnvidia-ml.so.580.95.05", node.path("libnvidia-ml.so.1")).unwrap();
        fs::write(node.path("lib/fake-nvml.env"), format!("FAKE_NVML_DEV={}\n", node.dir.path().display())).unwrap();
        for name in ["nvidiactl", "nvidia0", "nvidia1", "nvidia2"] {
            fs::write(node.path(name), "").unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_nvidia-smi"));
        program.env_clear().env("PATH", "/usr/bin").env("LD_PRELOAD", self.path("libnvidia-ml.so.1"));
        program.arg("compute-policy").args(arguments);
        program
    }

    fn says(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    fn uuid(&self, index: usize) -> &str {
        &self.profile.gpus[index].uuid
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("lib/fake-timeslices.log")).unwrap_or_default()
    }
}

#[test]
fn a_length_that_was_set_is_listed_and_in_the_files_beside_the_real_library() {
    let node = Node::new();
    let (first, second) = (node.uuid(0), node.uuid(1));
    let (code, text) = node.says(&["-i", first, "--set-timeslice", "3"]);
    assert_eq!((code, text.as_str()), (0, "Successfully set timeslice policy with value Long for GPU 0\n"));
    assert_eq!(node.says(&["-i", "1", "--set-timeslice=1"]).0, 0);
    assert_eq!(node.says(&["--id", &format!("00000000:{}", &node.profile.gpus[1].pci[5..]), "--set-timeslice=2"]).0, 0);
    let (code, text) = node.says(&["-i", &format!("0,{second}"), "-l"]);
    assert_eq!(code, 0);
    assert_eq!(text, "GPU compute policies:\n  GPU 0: Timeslice: Long\n  GPU 1: Timeslice: Medium\n");
    assert!(node.says(&["--list"]).1.contains("GPU 2: Timeslice: Default"));
    assert_eq!(node.log(), format!("{first} 3\n{second} 1\n{second} 2\n"));
    let lengths: serde_json::Value =
        serde_json::from_slice(&fs::read(node.path("lib/fake-timeslices.json")).unwrap()).unwrap();
    assert_eq!(lengths, serde_json::json!({ first: 3, second: 2 }));
}

#[test]
fn a_gpu_without_time_slices_says_so_with_the_exit_code_of_the_real_program() {
    let node = Node::new();
    let (code, text) = node.says(&["-i", node.uuid(2), "--set-timeslice", "0"]);
    let words = "Failed to set timeslice policy with value Default for GPU 2 : Not Supported\n\
                 Failed to set timeslice for requested devices : Not Supported\n";
    assert_eq!((code, text.as_str(), node.log().as_str()), (3, words, ""));
}

#[test]
fn a_gpu_that_is_not_there_and_a_length_that_is_none_are_told_apart() {
    let node = Node::new();
    let nothing = (6, "No devices were found\n".to_owned());
    for gpu in ["GPU-00000000-0000-0000-0000-000000000000", "9", "00000000:FF:00.0"] {
        assert_eq!(node.says(&["-i", gpu, "--set-timeslice", "1"]), nothing, "{gpu}");
    }
    for length in ["4", "-1", "Short"] {
        assert_eq!(node.says(&["-i", "0", "--set-timeslice", length]).0, 2, "{length}");
    }
    assert_eq!(node.log(), "");
}

#[test]
fn it_fails_and_hangs_on_demand() {
    let node = Node::new();
    fs::write(node.path("lib/fake-timeslices.hang"), "400\n").unwrap();
    fs::write(node.path("lib/fake-timeslices.fail"), "17").unwrap();
    let start = Instant::now();
    let (code, text) = node.says(&["-i", "0", "--set-timeslice", "1"]);
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert!(code == 17 && text.contains("Short for GPU 0 : Unknown Error"), "{code} {text}");
    assert_eq!(node.log(), "");
}

#[test]
fn lengths_set_at_once_are_all_kept() {
    let node = Node::new();
    let set = |index: usize| {
        let (index, length) = (index.to_string(), (index + 1).to_string());
        node.command(&["-i", &index, "--set-timeslice", &length]).stdout(Stdio::null()).spawn().unwrap()
    };
    for _ in 0..5 {
        let mut both = [set(0), set(1)];
        assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
    }
    assert!(node.says(&["-l"]).1.contains("GPU 0: Timeslice: Short\n  GPU 1: Timeslice: Medium\n"));
    assert_eq!(node.log().lines().count(), 10);
}
