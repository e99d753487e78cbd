//! containerd: CDI is off by default in 1.7 and on in 2.x, and configuration files are merged otherwise in each.
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{NAME, Release, Sources, defaults, named, reads, unusable};
use crate::doctor::check::Check;

/// The first release whose CRI takes CDI devices.
const FIRST: Release = (1, 7);
/// From here on CDI is on by default, and files are merged by key and not by whole section (containerd PR 9982).
const SECOND: Release = (2, 0);
/// From here on the drop-in directory is read without an import (containerd PR 12323).
const DROP_INS: Release = (2, 2);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    version: Option<u32>,
    imports: Vec<String>,
    plugins: Plugins,
}

/// The CRI plugin as each version of the file names it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Plugins {
    #[serde(rename = "io.containerd.cri.v1.runtime")]
    third: Option<Cri>,
    #[serde(rename = "io.containerd.grpc.v1.cri")]
    second: Option<Cri>,
    #[serde(rename = "cri")]
    first: Option<Cri>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Cri {
    enable_cdi: Option<bool>,
    cdi_spec_dirs: Option<Vec<String>>,
}

impl File {
    fn cri(&self) -> Option<&Cri> {
        let Plugins { third, second, first } = &self.plugins;
        third.as_ref().or(second.as_ref()).or(first.as_ref())
    }
}

fn parse(text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|error| error.message().to_owned())
}

/// The paths and patterns that a file imports; those that aren't absolute are below its directory.
pub(in crate::doctor) fn imports(path: &Path, text: &str) -> Vec<PathBuf> {
    let dir = path.parent().unwrap_or(path);
    parse(text).map(|file| file.imports.iter().map(|import| dir.join(import)).collect()).unwrap_or_default()
}

/// The settings in force, each with the file that it is from.
#[derive(Debug, Default)]
struct InForce<'a> {
    enabled: Option<(&'a Path, bool)>,
    dirs: Option<(&'a Path, Vec<String>)>,
}

fn merge<'a>(files: &[(&'a Path, &File)], by_section: bool) -> InForce<'a> {
    let mut merged = InForce::default();
    for (path, file) in files {
        let Some(cri) = file.cri() else { continue };
        if by_section {
            merged = InForce::default();
        }
        if let Some(enabled) = cri.enable_cdi {
            merged.enabled = Some((path, enabled));
        }
        if let Some(dirs) = &cri.cdi_spec_dirs {
            merged.dirs = Some((path, dirs.clone()));
        }
    }
    merged
}

pub(super) fn judge(release: Option<Release>, version: &str, sources: &Sources, cdi_root: &Path) -> Check {
    let runtime = named("containerd", version);
    if release.is_some_and(|release| release < FIRST) {
        return Check::failed(NAME, format!("{runtime} has no CDI"), "update containerd to 1.7 or newer, best to 2.x");
    }
    let drop_ins = sources.containerd_drop_ins.iter().filter(|_| release.is_some_and(|release| release >= DROP_INS));
    let parsed: Vec<(&Path, Result<File, String>)> = sources
        .containerd
        .iter()
        .chain(drop_ins)
        .map(|source| (source.path.as_path(), source.text.as_deref().map_err(Clone::clone).and_then(parse)))
        .collect();
    if let Some(skipped) = unusable(&parsed) {
        return skipped;
    }
    let files: Vec<(&Path, &File)> =
        parsed.iter().filter_map(|(path, file)| Some((*path, file.as_ref().ok()?))).collect();
    // Only 2.x reads a third version of the file.
    let is_second = release.map_or(files.iter().any(|(_, file)| file.version >= Some(3)), |release| release >= SECOND);
    let merged = merge(&files, !is_second);
    off(&runtime, release, is_second, &files, &merged).unwrap_or_else(|| dirs(&runtime, &files, merged, cdi_root))
}

/// What there is to say unless CDI is on.
fn off(
    runtime: &str,
    release: Option<Release>,
    is_second: bool,
    files: &[(&Path, &File)],
    merged: &InForce<'_>,
) -> Option<Check> {
    let section = if is_second { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
    let set = format!("set enable_cdi = true in [plugins.\"{section}\"]");
    let restart = "and restart containerd (systemctl restart containerd)";
    match (merged.enabled, files.first()) {
        (Some((_, true)), _) => None,
        (None, _) if is_second => None,
        (Some((file, false)), _) => {
            let file = file.display();
            Some(Check::failed(NAME, format!("{runtime} has CDI off: {file}"), format!("{set} of {file}, {restart}")))
        }
        (None, None) => Some(Check::warning(
            NAME,
            format!("{runtime} has CDI off by default, and its configuration isn't seen here"),
            format!("{set} {restart}; show this check the file with --containerd-config"),
        )),
        (None, Some((file, _))) if release.is_some() => Some(Check::failed(
            NAME,
            format!("{runtime} has CDI off, which is its default"),
            format!("{set} of {}, {restart}", file.display()),
        )),
        (None, Some((file, _))) => Some(Check::warning(
            NAME,
            format!(
                "containerd before 2.0 has CDI off by default, and which one it is isn't known ({})",
                file.display()
            ),
            format!("{set} of {}, {restart}", file.display()),
        )),
    }
}

/// CDI is on: for these directories.
fn dirs(runtime: &str, files: &[(&Path, &File)], merged: InForce<'_>, cdi_root: &Path) -> Check {
    let root = cdi_root.display();
    let (file, dirs) = merged.dirs.map_or_else(|| (None, defaults()), |(file, dirs)| (Some(file), dirs));
    if reads(&dirs, cdi_root) {
        let unseen =
            if files.is_empty() { ", unless its configuration, which isn't seen here, says otherwise" } else { "" };
        return Check::ok(NAME, format!("{runtime} reads CDI specs in {root}{unseen}"));
    }
    let found = format!("{runtime} reads CDI specs in {}, not in {root}", dirs.join(", "));
    let fix =
        "add it to cdi_spec_dirs of containerd's CRI plugin and restart containerd, or set --cdi-root to one of these";
    match file.or_else(|| files.first().map(|(file, _)| *file)) {
        Some(file) => Check::failed(NAME, format!("{found} ({})", file.display()), fix),
        None => Check::warning(
            NAME,
            format!("{found}, unless its configuration says so, which isn't seen here"),
            format!("{fix}; show this check the file with --containerd-config"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{root, source},
        *,
    };
    use crate::doctor::check::Verdict;

    const MAIN: &str = "/etc/containerd/config.toml";

    fn judged(version: &str, texts: &[&str]) -> Check {
        let containerd = texts.iter().enumerate().map(|(at, text)| {
            source(&if at == 0 { MAIN.to_owned() } else { format!("/etc/containerd/conf.d/{at}.toml") }, text)
        });
        let sources = Sources { containerd: containerd.collect(), ..Sources::default() };
        judge(crate::doctor::server::release(version), version, &sources, root())
    }

    fn second(text: &str) -> String {
        format!("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n{text}\n")
    }

    fn third(text: &str) -> String {
        format!("version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n{text}\n")
    }

    #[test]
    fn cdi_is_off_by_default_in_1_7_and_on_in_2_0() {
        let check = judged("1.7.27", &[&second("sandbox_image = 'pause'")]);
        assert_eq!(check.verdict, Verdict::Failed);
        let fix = check.fix.unwrap();
        assert!(
            fix.contains("enable_cdi = true in [plugins.\"io.containerd.grpc.v1.cri\"] of /etc/containerd/config.toml")
        );
        assert_eq!(judged("1.7.27", &[&second("enable_cdi = true")]).verdict, Verdict::Ok);
        assert_eq!(judged("2.1.9", &["version = 3"]).verdict, Verdict::Ok);
        assert_eq!(judged("2.1.9-k3s1", &[&second("")]).verdict, Verdict::Ok);
        assert_eq!(judged("2.1.9", &[&third("enable_cdi = false")]).verdict, Verdict::Failed);
        assert_eq!(judged("1.6.33", &[]).verdict, Verdict::Failed);
    }

    #[test]
    fn without_a_configuration_in_sight_the_default_counts_with_doubt() {
        assert_eq!(judged("1.7.27", &[]).verdict, Verdict::Warning);
        let check = judged("2.1.9", &[]);
        assert!(check.verdict == Verdict::Ok && check.found.contains("isn't seen here"));
        assert_eq!(judge(None, "", &Sources::default(), Path::new("/srv/cdi")).verdict, Verdict::Warning);
    }

    #[test]
    fn without_a_release_the_files_version_tells_as_much_as_it_can() {
        assert_eq!(judged("", &["version = 3"]).verdict, Verdict::Ok);
        assert_eq!(judged("", &["version = 2"]).verdict, Verdict::Warning);
        assert_eq!(judged("", &[&second("enable_cdi = true")]).verdict, Verdict::Ok);
    }

    #[test]
    fn an_import_replaces_the_section_in_1_7_and_single_keys_in_2_0() {
        let import = second("[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = '/x'");
        assert_eq!(judged("1.7.27", &[&second("enable_cdi = true"), &import]).verdict, Verdict::Failed);
        assert_eq!(judged("2.0.0", &[&second("enable_cdi = false"), &import]).verdict, Verdict::Failed);
        assert_eq!(judged("2.0.0", &[&third("enable_cdi = false"), &third("enable_cdi = true")]).verdict, Verdict::Ok);
    }

    #[test]
    fn drop_ins_count_from_2_2_on() {
        let sources = Sources {
            containerd: vec![source(MAIN, "version = 3")],
            containerd_drop_ins: vec![source("/etc/containerd/conf.d/x.toml", &third("enable_cdi = false"))],
            ..Sources::default()
        };
        let verdict = |version: &str| judge(crate::doctor::server::release(version), version, &sources, root()).verdict;
        assert_eq!((verdict("2.1.9"), verdict("2.2.0")), (Verdict::Ok, Verdict::Failed));
    }

    #[test]
    fn the_directory_of_specs_must_be_one_that_is_read() {
        let check = judged("2.1.9", &[&third("cdi_spec_dirs = ['/etc/cdi']")]);
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(
            check.found.ends_with("in /etc/cdi, not in /var/run/cdi (/etc/containerd/config.toml)"),
            "{}",
            check.found
        );
        assert_eq!(judged("2.1.9", &[&third("cdi_spec_dirs = ['/etc/cdi', '/run/cdi']")]).verdict, Verdict::Ok);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_not_judged() {
        let check = judged("2.1.9", &["version = 3", "[plugins"]);
        assert!(check.verdict == Verdict::Skipped && check.found.contains("/etc/containerd/conf.d/1.toml"));
    }

    #[test]
    fn imports_are_relative_to_the_file() {
        let found = imports(Path::new(MAIN), "imports = ['conf.d/*.toml', '/srv/x.toml']");
        assert_eq!(found, [PathBuf::from("/etc/containerd/conf.d/*.toml"), "/srv/x.toml".into()]);
        assert!(imports(Path::new(MAIN), "imports = 3").is_empty());
    }
}
