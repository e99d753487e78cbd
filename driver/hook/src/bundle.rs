//! A bundle's configuration, by which the runtime makes a container: of it, the root and what is mounted as `/dev`.
use std::{
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

/// A configuration lists every mount, and seccomp's rules.
const LARGEST: u64 = 16 << 20;

/// What the hook needs to know of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// The container's root as the host names it.
    pub root: PathBuf,
    /// The `/dev` that the runtime makes; none where the pod brings another, such as the host's.
    pub dev: Option<Dev>,
}

/// A file system in memory that the runtime mounts for this container alone.
#[derive(Debug, PartialEq, Eq)]
pub struct Dev {
    /// Where something is mounted after it: paths in the container, whose links may lead to `/dev`.
    pub later: Vec<String>,
}

impl Config {
    /// Of the bundle in this directory. A root that isn't absolute is below it.
    ///
    /// # Errors
    /// In words: where there is no root in it.
    pub fn read(bundle: &Path, config: impl Read) -> Result<Self, String> {
        let config: Value =
            serde_json::from_reader(io::BufReader::new(config.take(LARGEST))).map_err(|error| error.to_string())?;
        let root = config.pointer("/root/path").and_then(Value::as_str).filter(|root| !root.is_empty());
        let root = root.map(|root| bundle.join(root)).ok_or_else(|| "it has no root.path".to_owned())?;
        Ok(Self { root, dev: config.get("mounts").and_then(Value::as_array).and_then(|mounts| Dev::of(mounts)) })
    }
}

impl Dev {
    /// Volumes are bind mounts, in memory or not (config.md of the OCI runtime specification, "Mounts"). The last mount is
    /// the one that is seen.
    fn of(mounts: &[Value]) -> Option<Self> {
        fn destination(mount: &Value) -> Option<&str> {
            mount.get("destination")?.as_str()
        }
        let at = mounts.iter().rposition(|mount| destination(mount).is_some_and(is_dev))?;
        let (own, later) = mounts[at..].split_first()?;
        let is_runtimes = own.get("type").and_then(Value::as_str) == Some("tmpfs");
        is_runtimes.then(|| Self { later: later.iter().filter_map(destination).map(str::to_owned).collect() })
    }
}

/// Runtimes take a path without a slash at its beginning as well.
fn is_dev(destination: &str) -> bool {
    let names =
        Path::new(destination).components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
    names.eq([Component::Normal("dev".as_ref())])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: &str) -> Result<Config, String> {
        Config::read(Path::new("/b"), config.as_bytes())
    }

    #[test]
    fn the_root_is_absolute_or_below_the_bundle() {
        let root = |config| read(config).map(|config| config.root);
        assert_eq!(root(r#"{"root": {"path": "rootfs"}}"#), Ok("/b/rootfs".into()));
        assert_eq!(root(r#"{"root": {"path": "/run/x"}}"#), Ok("/run/x".into()));
        for config in ["", "{}", r#"{"root": {"path": ""}}"#, r#"{"root": {"path": 1}}"#] {
            assert!(root(config).is_err(), "{config}");
        }
    }

    fn later(mounts: &Value) -> Option<Vec<String>> {
        let config = json!({"root": {"path": "/r"}, "mounts": mounts});
        read(&config.to_string()).unwrap().dev.map(|dev| dev.later)
    }

    #[test]
    fn only_a_file_system_of_the_containers_own_is_the_runtimes_dev() {
        let (tmpfs, proc) = (json!({"destination": "/dev", "type": "tmpfs"}), json!({"destination": "/proc"}));
        let bind = json!({"destination": "/dev", "type": "bind", "source": "/v"});
        assert_eq!(later(&json!([tmpfs, proc])), Some(vec!["/proc".to_owned()]));
        assert_eq!(later(&json!([bind, {"destination": "dev/", "type": "tmpfs"}])), Some(vec![]));
        for none in [json!([]), json!([proc]), json!([bind]), json!([tmpfs, bind]), json!([{"destination": "/dev"}])] {
            assert_eq!(later(&none), None, "{none}");
        }
        let inside = json!({"destination": "/dev/shm", "type": "tmpfs"});
        assert_eq!(later(&json!([inside])), None, "what is in it isn't it");
    }
}
