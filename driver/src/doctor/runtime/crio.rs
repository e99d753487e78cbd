//! CRI-O: CDI is always on; only where specs are looked for can be set.
use std::path::Path;

use serde::Deserialize;

use super::{NAME, Source, defaults, named, reads, unusable};
use crate::doctor::check::Check;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    crio: Crio,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Crio {
    runtime: Runtime,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    cdi_spec_dirs: Option<Vec<String>>,
}

pub(super) fn judge(version: &str, sources: &[Source], cdi_root: &Path) -> Check {
    let parsed: Vec<_> = sources
        .iter()
        .map(|source| {
            let file =
                source.text.clone().and_then(|text| toml::from_str::<File>(&text).map_err(|e| e.message().into()));
            (source.path.as_path(), file)
        })
        .collect();
    if let Some(skipped) = unusable(&parsed) {
        return skipped;
    }
    let files = parsed.iter().filter_map(|(path, file)| Some((*path, file.as_ref().ok()?)));
    let set = files.filter_map(|(path, file)| Some((path, file.crio.runtime.cdi_spec_dirs.clone()?))).next_back();
    let (file, dirs) = set.map_or_else(|| (None, defaults()), |(path, dirs)| (Some(path), dirs));
    let (runtime, root) = (named("CRI-O", version), cdi_root.display());
    if reads(&dirs, cdi_root) {
        return Check::ok(NAME, format!("{runtime} reads CDI specs in {root}"));
    }
    let found = format!("{runtime} reads CDI specs in {}, not in {root}", dirs.join(", "));
    let fix = "add it to cdi_spec_dirs in [crio.runtime] and restart crio, or set --cdi-root to one of these";
    match file {
        Some(file) => Check::failed(NAME, format!("{found} ({})", file.display()), fix),
        None if sources.is_empty() => Check::warning(
            NAME,
            format!("{found}, unless its configuration says so, which isn't seen here"),
            format!("{fix}; show this check the file with --crio-config"),
        ),
        None => Check::failed(NAME, found, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{root, source},
        *,
    };
    use crate::doctor::check::Verdict;

    #[test]
    fn the_last_file_that_sets_the_directories_counts() {
        let first = source("/etc/crio/crio.conf", "[crio.runtime]\ncdi_spec_dirs = [\"/srv/cdi\"]\n");
        let other = source("/etc/crio/crio.conf.d/10.conf", "[crio.runtime]\nlog_level = \"info\"\n");
        let last = source("/etc/crio/crio.conf.d/20.conf", "[crio.runtime]\ncdi_spec_dirs = [\"/run/cdi\"]\n");
        let check = judge("1.33.0", &[first.clone(), other.clone()], root());
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.found.contains("/srv/cdi, not in /var/run/cdi (/etc/crio/crio.conf)"), "{}", check.found);
        assert_eq!(judge("1.33.0", &[first, other, last], root()).verdict, Verdict::Ok);
    }

    #[test]
    fn by_default_the_usual_directories_are_read() {
        assert_eq!(judge("1.33.0", &[], root()).verdict, Verdict::Ok);
        let check = judge("1.33.0", &[], Path::new("/srv/cdi"));
        assert!(check.verdict == Verdict::Warning && check.fix.unwrap().contains("--crio-config"));
    }

    #[test]
    fn what_is_no_toml_is_not_judged() {
        let check = judge("", &[source("/etc/crio/crio.conf", "[crio")], root());
        assert!(check.verdict == Verdict::Skipped && check.found.contains("/etc/crio/crio.conf"));
    }
}
