//! Puts a runtime behind a script that takes away what needs control group controllers.
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const SCRIPT: &str = include_str!("unlimited.sh");

/// Writes the script for a runtime into `dir`. It finds the runtime itself by the search path.
pub(super) fn install(dir: &Path, runtime: &str) -> io::Result<PathBuf> {
    let path = dir.join(runtime).with_extension("sh");
    fs::write(&path, SCRIPT)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use serde_json::{Value, json};

    use super::*;

    /// What the script leaves of `resources` in a bundle's configuration, and what it starts the runtime with.
    fn create(resources: &Value) -> (Value, String) {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("a bundle");
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join("config.json"), resources.to_string()).unwrap();
        symlink("/bin/echo", dir.path().join("crun")).unwrap();
        // Started by sh, as a file just written cannot be executed while another test forks.
        let output = Command::new("sh")
            .arg(install(dir.path(), "crun").unwrap())
            .args(["create", "--bundle"])
            .arg(&bundle)
            .arg("id")
            .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let left = fs::read(bundle.join("config.json")).unwrap();
        let started = String::from_utf8(output.stdout).unwrap();
        let started = started.replace(bundle.to_str().unwrap(), "BUNDLE");
        (serde_json::from_slice(&left).unwrap(), started)
    }

    #[test]
    fn shares_of_the_processor_are_taken_away_wherever_they_stand() {
        let shares = json!({"shares": 2});
        for resources in [
            json!({"cpu": shares}),
            json!({"cpu": shares, "devices": []}),
            json!({"a": {}, "cpu": shares}),
            json!({"a": {}, "cpu": shares, "devices": []}),
        ] {
            let mut without = resources.clone();
            without.as_object_mut().unwrap().remove("cpu");
            assert_eq!(create(&resources).0, without);
        }
    }

    #[test]
    fn the_rest_of_the_configuration_and_the_command_stay() {
        let resources =
            json!({"devices": [{"allow": false, "access": "rwm"}], "process": {"args": ["a b", "\"cpu\""]}});
        assert_eq!(create(&resources), (resources, "create --bundle BUNDLE id\n".to_owned()));
    }
}
