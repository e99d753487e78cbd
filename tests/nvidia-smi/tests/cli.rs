//! The program as a container runs it: the library it finds is the fake one, with its profile inside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs};

use fake_nvml::{Profile, built_library};

/// A folder with the library and the device nodes that the program is to see.
struct Container {
    folder: tempfile::TempDir,
}

impl Container {
    fn with(profile: &str, nodes: &[&str]) -> Self {
        let container = Self::without_library(nodes);
        let library = fs::read(built_library().unwrap()).unwrap();
        let library = Profile::named(profile).unwrap().append_to(&library);
        fs::write(container.folder.path().join("libnvidia-ml.so.1"), library).unwrap();
        container
    }

    fn without_library(nodes: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for node in nodes {
            fs::write(folder.path().join(node), "").unwrap();
        }
        Self { folder }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_nvidia-smi"));
        program.env_remove("FAKE_NVML_PROFILE").env_remove("FAKE_NVML_CONTROL");
        program.env("LD_LIBRARY_PATH", self.folder.path()).env("FAKE_NVML_DEV", self.folder.path());
        program.args(arguments).output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn list_names_only_the_gpu_whose_node_the_container_was_given() {
    let container = Container::with("mixed", &["nvidiactl", "nvidia1"]);
    let gpu = Profile::named("mixed").unwrap().gpus.into_iter().find(|gpu| gpu.minor == 1).unwrap();
    assert_eq!(container.says(&["-L"]), (0, format!("GPU 0: {} (UUID: {})\n", gpu.name, gpu.uuid)));
}

#[test]
fn csv_has_a_heading_and_units_unless_told_otherwise() {
    let container = Container::with("h100x8", &["nvidiactl", "nvidia0"]);
    let fields = "--query-gpu=index,memory.total,driver_version";
    let (code, text) = container.says(&[fields, "--format=csv"]);
    assert_eq!((code, text.as_str()), (0, "index, memory.total [MiB], driver_version\n0, 81559 MiB, 580.95.05\n"));
    let (code, text) = container.says(&[fields, "--format=csv,noheader,nounits"]);
    assert_eq!((code, text.as_str()), (0, "0, 81559, 580.95.05\n"));
}

#[test]
fn query_gives_what_tells_a_gpu_from_the_others() {
    let container = Container::with("h100x8", &["nvidiactl", "nvidia3"]);
    let gpu = &Profile::named("h100x8").unwrap().gpus[3];
    let (code, text) = container.says(&["-q"]);
    let value = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    };
    assert_eq!(code, 0);
    assert_eq!(value("Product Name"), Some(gpu.name.as_str()));
    assert_eq!(value("GPU UUID"), Some(gpu.uuid.as_str()));
    assert_eq!(value("Minor Number"), Some("3"));
    assert_eq!(value("Total"), Some("81559 MiB"));
    assert!(value("Bus Id").is_some_and(|id| id.to_lowercase().ends_with(&gpu.pci)), "{text}");
}

#[test]
fn a_gpu_that_does_not_answer_keeps_its_line_and_the_others_theirs() {
    let container = Container::with("failing", &["nvidiactl", "nvidia0", "nvidia1", "nvidia2", "nvidia3"]);
    let (code, text) = container.says(&["-L"]);
    assert_eq!((code, text.lines().count()), (0, 4), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("GPU is lost")).count(), 1, "{text}");
}

#[test]
fn each_way_to_see_nothing_has_the_words_and_the_exit_code_of_the_real_program() {
    let (code, text) = Container::with("t4x1", &[]).says(&["-L"]);
    assert!(code == 9 && text.starts_with("NVIDIA-SMI has failed because it couldn't communicate"), "{code} {text}");
    let nothing = (6, "No devices were found\n".to_owned());
    assert_eq!(Container::with("t4x1", &["nvidiactl"]).says(&["-L"]), nothing);
    let (code, text) = Container::with("t4x1", &["nvidiactl", "nvidia0"]).says(&["--query-gpu=nme", "--format=csv"]);
    assert_eq!((code, text.as_str()), (2, "Field \"nme\" is not a valid field to query.\n"));
}

#[test]
fn a_container_without_the_library_is_told_so() {
    // The machine's own driver would be found, rightly.
    if ["/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib"]
        .iter()
        .any(|folder| PathBuf::from(folder).join("libnvidia-ml.so.1").exists())
    {
        return;
    }
    let (code, text) = Container::without_library(&["nvidiactl"]).says(&["-L"]);
    assert!(code == 12 && text.starts_with("NVIDIA-SMI couldn't find libnvidia-ml.so library"), "{code} {text}");
}
