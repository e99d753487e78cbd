//! What is read of the node's files, and nothing written.
use std::{
    collections::{BTreeSet, VecDeque},
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, StatVfsMountFlags, access, major, minor, statvfs};
use serde::Deserialize;

use super::{
    devices::Node,
    installation::{self, Files},
    places::{Mount, Place, is_fatal},
    policy::Judged,
    runtime::{Source, Sources, imports},
};
use crate::{
    args::DoctorArgs,
    discovery::{Found, Trouble, installation as files},
    hook::{self, Lacking},
    policy,
    roots::Roots,
};

/// A longer file is no configuration and no CDI spec.
const LARGEST: u64 = 1 << 20;
/// More imports are a circle.
const MOST_IMPORTS: usize = 100;

/// All of it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) files: Files,
    /// `/proc/devices`.
    pub(super) devices: Result<String, String>,
    pub(super) nodes: Vec<Node>,
    pub(super) hook: Result<PathBuf, Lacking>,
    /// Where it is for pods with user namespaces.
    pub(super) hook_root: Result<PathBuf, Lacking>,
    /// Under the driver's own directory.
    pub(super) mount: Option<Mount>,
    pub(super) kubelet: Vec<(PathBuf, Place)>,
    pub(super) cdi: Place,
    /// CDI specs that crash containerd.
    pub(super) fatal: Vec<PathBuf>,
    pub(super) sources: Sources,
    pub(super) policy: Option<Judged>,
}

/// Reads everything once.
pub(super) fn look(args: &DoctorArgs, roots: &Roots, reading: &Result<Found, Trouble>) -> Disk {
    let inventory = reading.as_ref().ok().map(|found| &found.inventory);
    // In a pod only the driver's own may be there to be written.
    let plugins = if roots.plugin.is_dir() { roots.plugin.clone() } else { roots.kubelet.join("plugins") };
    let kubelet = [roots.kubelet.clone(), plugins, roots.kubelet.join("plugins_registry")];
    Disk {
        files: installed(roots, reading),
        devices: read(&roots.proc.join("devices")),
        nodes: nodes(&roots.dev),
        hook: hook::shipped(args.hook.as_deref()),
        hook_root: hook::look_open_to_all(&args.hook_root.join(&args.node.driver_name)),
        mount: mount(&roots.plugin),
        kubelet: kubelet.into_iter().map(|path| (path.clone(), place(&path))).collect(),
        cdi: place(&roots.cdi),
        fatal: fatal(&roots.cdi),
        sources: Sources {
            containerd: containerd(&args.containerd_config),
            containerd_drop_ins: matching(&args.containerd_config.with_file_name("conf.d/*.toml"))
                .map(source)
                .collect(),
            crio: crio(&args.crio_config),
        },
        policy: args.policy.as_deref().map(|file| policy::read(file, inventory)),
    }
}

/// Without NVML the library's file tells the version, so that an unloaded module doesn't hide a half installation.
fn installed(roots: &Roots, reading: &Result<Found, Trouble>) -> Files {
    let (root, module) = (roots.driver.clone(), read(&roots.proc.join("driver/nvidia/version")).ok());
    if let Ok(found) = reading {
        let installation = found.installation.clone();
        return Files { root, version: Some(installation.version.clone()), installation, module };
    }
    let library = aliquot_nvml::candidates(&root).into_iter().find_map(|path| path.canonicalize().ok());
    let version = library.as_deref().and_then(installation::version_of_file);
    let installation = version.as_deref().map(|version| files::find(roots, version)).unwrap_or_default();
    Files { root, version, installation, module }
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = policy::file::read(path, LARGEST).map_err(|error| match error {
        policy::file::Error::Read { source, .. } => source.to_string(),
        other @ policy::file::Error::NoFile(_) => other.to_string(),
    })?;
    String::from_utf8(bytes).map_err(|_| "it is no text".to_owned())
}

fn nodes(dev: &Path) -> Vec<Node> {
    let entries = fs::read_dir(dev).into_iter().flatten().flatten();
    let ours = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.starts_with("nvidia"))?;
        let meta = entry.metadata().ok()?;
        let numbers = meta.file_type().is_char_device().then(|| (major(meta.rdev()), minor(meta.rdev())));
        Some(Node { name, numbers })
    });
    let mut nodes: Vec<Node> = ours.collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn mount(dir: &Path) -> Option<Mount> {
    let dir = dir.ancestors().find(|dir| dir.exists())?;
    let flags = statvfs(dir).ok()?.f_flag;
    Some(Mount { dir: dir.to_owned(), noexec: flags.contains(StatVfsMountFlags::NOEXEC) })
}

fn place(dir: &Path) -> Place {
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Place::Missing,
        Err(error) => Place::Bad(error.to_string()),
        Ok(meta) if !meta.is_dir() => Place::Bad("it is no directory".to_owned()),
        Ok(_) => match access(dir, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Place::Good,
            Err(error) => Place::Bad(io::Error::from(error).to_string()),
        },
    }
}

/// JSON is YAML, too.
fn fatal(cdi: &Path) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct Spec {
        kind: String,
    }
    let specs = ["*.json", "*.yaml"].into_iter().flat_map(|pattern| matching(&cdi.join(pattern)));
    specs
        .filter(|path| {
            let spec = read(path).ok().and_then(|text| serde_saphyr::from_str::<Spec>(&text).ok());
            spec.is_some_and(|spec| is_fatal(&spec.kind))
        })
        .collect()
}

fn source(path: PathBuf) -> Source {
    Source { text: read(&path), path }
}

/// The main file, if there is one, and all that is imported, in containerd's order.
fn containerd(main: &Path) -> Vec<Source> {
    let (mut seen, mut sources) = (BTreeSet::new(), Vec::new());
    let mut waiting = VecDeque::from([main.to_owned()]);
    while let Some(path) = waiting.pop_front() {
        if sources.len() == MOST_IMPORTS || !path.exists() || !seen.insert(path.clone()) {
            continue;
        }
        let source = source(path);
        if let Ok(text) = &source.text {
            waiting.extend(imports(&source.path, text).iter().flat_map(|pattern| matching(pattern)));
        }
        sources.push(source);
    }
    sources
}

fn crio(main: &Path) -> Vec<Source> {
    let mut dir = main.as_os_str().to_owned();
    dir.push(".d");
    let main = [main.to_owned()].into_iter().filter(|path| path.exists());
    main.chain(matching(&Path::new(&dir).join("*"))).map(source).collect()
}

/// The files that a path means whose last part may have `*` in it, sorted.
fn matching(pattern: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    if name.contains('*') {
        let dir = pattern.parent().unwrap_or(pattern);
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(entries.filter(|path| {
            path.is_file() && path.file_name().and_then(|own| own.to_str()).is_some_and(|own| is_match(&name, own))
        }));
        found.sort();
    } else {
        found.push(pattern.to_owned());
    }
    found.into_iter()
}

/// As in a shell: `*` stands for any text, and none of it for a leading dot.
fn is_match(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    if first.is_empty() && name.starts_with('.') {
        return false;
    }
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_do_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("*.toml", ".a.toml", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxc", false),
            ("a*a", "a", false),
            ("*", "x", true),
            ("x", "x", true),
            ("x", "xy", false),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn imports_are_followed_once_each_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let (main, sub) = (dir.path().join("config.toml"), dir.path().join("more"));
        fs::create_dir(&sub).unwrap();
        fs::write(&main, "imports = ['more/*.toml', 'none.toml']\n").unwrap();
        fs::write(sub.join("b.toml"), format!("imports = ['{}']\n", main.display())).unwrap();
        fs::write(sub.join("a.toml"), "").unwrap();
        fs::write(sub.join("c.conf"), "").unwrap();
        let paths: Vec<PathBuf> = containerd(&main).into_iter().map(|source| source.path).collect();
        assert_eq!(paths, [main, sub.join("a.toml"), sub.join("b.toml")]);
        assert!(containerd(&dir.path().join("none.toml")).is_empty());
    }

    #[test]
    fn crio_reads_its_file_and_then_the_directory_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("crio.conf");
        assert!(crio(&main).is_empty());
        fs::create_dir(dir.path().join("crio.conf.d")).unwrap();
        for name in ["crio.conf", "crio.conf.d/20", "crio.conf.d/10"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> = crio(&main).into_iter().map(|source| source.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["crio.conf", "10", "20"]);
    }

    #[test]
    fn directories_and_specs_are_what_they_are_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.json");
        fs::write(&file, r#"{"cdiVersion": "0.5.0", "kind": "example.com/t", "devices": []}"#).unwrap();
        fs::write(dir.path().join("y.yaml"), "kind: example.com/test\n").unwrap();
        fs::write(dir.path().join("z.json"), "{").unwrap();
        assert_eq!(fatal(dir.path()), std::slice::from_ref(&file));
        assert_eq!(place(dir.path()), Place::Good);
        assert_eq!(place(&dir.path().join("none")), Place::Missing);
        assert_eq!(place(&file), Place::Bad("it is no directory".into()));
        assert_eq!(mount(&dir.path().join("none/below")).unwrap().dir, dir.path());
    }
}
