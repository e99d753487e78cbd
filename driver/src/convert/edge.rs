//! Reads the files of a conversion and writes its result: all of it, or nothing.
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    Input, Inputs, Output, convert,
    notes::Faults,
    tree::{LARGEST_CONFIG, LARGEST_PODS},
};
use crate::{args::ConvertArgs, streams};

/// Why nothing was converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file can't be read.
    #[error("{} can't be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A configuration is more than one can be.
    #[error("{} is more than {} MiB, and a ConfigMap has no more", .0.display(), LARGEST_CONFIG >> 20)]
    LargeConfig(PathBuf),
    /// There are too many manifests in a file.
    #[error("{} is more than {} MiB; give it in several files", .0.display(), LARGEST_PODS >> 20)]
    LargePods(PathBuf),
    /// A file isn't text.
    #[error("{} isn't UTF-8: byte {} is no part of a text", .0.display(), .1)]
    Text(PathBuf, usize),
    /// Something can't be converted.
    #[error("nothing is converted\n{0}")]
    Faults(#[from] Faults),
    /// Something would be overwritten.
    #[error("{} exists; nothing is written (--force overwrites)", .0.display())]
    Exists(PathBuf),
    /// Something that is no file would be overwritten.
    #[error("{} exists and is no file; nothing is written", .0.display())]
    NoFile(PathBuf),
    /// The result can't be written.
    #[error("{} can't be written; nothing is left of the result", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// Files were replaced before one that can't be.
    #[error("{} can't be written; already written, and not undone: {done}", path.display())]
    Half {
        /// What can't be written.
        path: PathBuf,
        /// What is written.
        done: String,
        /// Why.
        source: io::Error,
    },
    /// Standard output takes nothing.
    #[error("standard output can't be written")]
    Stdout(#[source] io::Error),
}

/// Converts as the command line says.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Error> {
    let inputs = Inputs {
        config: args.config.as_deref().map(|path| read(path, LARGEST_CONFIG, Error::LargeConfig)).transpose()?,
        default_config: args.default_config.clone(),
        pods: args.files.iter().map(|path| read(path, LARGEST_PODS, Error::LargePods)).collect::<Result<_, _>>()?,
        keep_pods: args.keep_pods,
    };
    let output = convert(&inputs)?;
    match &args.out {
        Some(dir) => write(dir, &output, args.force)?,
        None => streams::print(&stream(&output)).map_err(Error::Stdout)?,
    }
    for note in &output.notes {
        streams::tell(note);
    }
    Ok(())
}

fn read(path: &Path, largest: usize, large: fn(PathBuf) -> Error) -> Result<Input, Error> {
    let unreadable = |error| Error::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    let most = u64::try_from(largest).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(unreadable)?.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > largest {
        return Err(large(path.to_owned()));
    }
    let text =
        String::from_utf8(bytes).map_err(|error| Error::Text(path.to_owned(), error.utf8_error().valid_up_to()))?;
    Ok(Input { name: path.to_string_lossy().into_owned(), text })
}

/// What `kubectl apply -f -` takes; the policy is in its `ConfigMap`.
fn stream(output: &Output) -> String {
    let manifests = output.files.iter().filter(|file| file.is_manifest).map(|file| file.text.as_str());
    manifests.collect::<Vec<_>>().join("---\n")
}

/// Writes all files beside their places, and then moves each to its own.
fn write(dir: &Path, output: &Output, force: bool) -> Result<(), Error> {
    let paths: Vec<PathBuf> = output.files.iter().map(|file| dir.join(&file.name)).collect();
    for path in &paths {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::Write(path.clone(), error)),
            Ok(_) if !force => return Err(Error::Exists(path.clone())),
            Ok(there) if !there.is_file() && !there.is_symlink() => return Err(Error::NoFile(path.clone())),
            Ok(_) => {}
        }
    }
    let is_new = !dir.exists();
    fs::create_dir_all(dir).map_err(|error| Error::Write(dir.to_owned(), error))?;
    let mut left = Vec::new();
    let result = write_beside(&paths, output, &mut left).and_then(|()| place(&paths, force, &mut left));
    if result.is_err() {
        for path in &left {
            let _ = fs::remove_file(path);
        }
        if is_new {
            let _ = fs::remove_dir(dir);
        }
    }
    result
}

/// Notes in `left` what is to be removed if it fails: the files that are written, in the order of `paths`.
fn write_beside(paths: &[PathBuf], output: &Output, left: &mut Vec<PathBuf>) -> Result<(), Error> {
    for (path, file) in paths.iter().zip(&output.files) {
        let failed = |error| Error::Write(path.clone(), error);
        let beside = path.with_file_name(format!(".{}.{}", file.name, std::process::id()));
        let mut written = File::create_new(&beside).map_err(failed)?;
        left.push(beside);
        written.write_all(file.text.as_bytes()).and_then(|()| written.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// Moves what `left` names to `paths`.
///
/// If it fails, all that is made by this conversion is to be removed. With `force` that isn't so of what has its place
/// already: the file that it took the place of is gone, and to remove it would leave nothing of either.
fn place(paths: &[PathBuf], force: bool, left: &mut Vec<PathBuf>) -> Result<(), Error> {
    let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    for (at, path) in paths.iter().enumerate() {
        let Some(entry) = left.get_mut(if force { 0 } else { at }) else { break };
        let result = match renameat_with(CWD, &*entry, CWD, path, flags) {
            // Some network filesystems know no flags; that nothing is there was seen before.
            Err(rustix::io::Errno::INVAL) if !force => rustix::fs::rename(&*entry, path),
            result => result,
        };
        match result {
            Ok(()) if force => drop(left.remove(0)),
            Ok(()) => path.clone_into(entry),
            Err(rustix::io::Errno::EXIST) if !force => return Err(Error::Exists(path.clone())),
            Err(error) if force && at > 0 => {
                let done = paths.iter().take(at).map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
                return Err(Error::Half { path: path.clone(), done, source: error.into() });
            }
            Err(error) => return Err(Error::Write(path.clone(), error.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> Output {
        let file = |name: &str| super::super::File { name: name.into(), text: "new".into(), is_manifest: true };
        Output { files: vec![file("a"), file("b"), file("c")], notes: Vec::new() }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A directory that another program makes after the look at the places, of which the second is then none.
    fn interrupted(force: bool, before: &[&str]) -> (tempfile::TempDir, Error, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        for name in before {
            fs::write(dir.path().join(name), "old").unwrap();
        }
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        let mut left = Vec::new();
        write_beside(&paths, &output(), &mut left).unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        let error = place(&paths, force, &mut left).unwrap_err();
        (dir, error, left)
    }

    #[test]
    fn what_replaced_a_file_is_never_removed() {
        let (dir, error, left) = interrupted(true, &["a"]);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "new");
        assert!(left.len() == 2 && left.iter().all(|path| path.to_string_lossy().contains("/.")), "{left:?}");
        let error = error.to_string();
        assert!(error.contains("/b can't be written") && error.ends_with("/a"), "{error}");
    }

    #[test]
    fn what_replaced_nothing_is_removed() {
        let (dir, error, left) = interrupted(false, &[]);
        assert!(matches!(error, Error::Exists(_)), "{error}");
        assert_eq!(left.len(), 3);
        assert_eq!(left[0], dir.path().join("a"));
    }

    #[test]
    fn whatever_is_in_the_way_is_found_before_anything_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "mine").unwrap();
        fs::create_dir(dir.path().join("c")).unwrap();
        assert!(matches!(write(dir.path(), &output(), true), Err(Error::NoFile(path)) if path.ends_with("c")));
        assert!(matches!(write(dir.path(), &output(), false), Err(Error::Exists(path)) if path.ends_with("a")));
        assert!(names(dir.path()) == ["a", "c"] && fs::read_to_string(dir.path().join("a")).unwrap() == "mine");
        let file = dir.path().join("a");
        assert!(matches!(write(&file, &output(), true), Err(Error::Write(..))), "a file is no directory");
        fs::remove_dir(dir.path().join("c")).unwrap();
        write(dir.path(), &output(), true).unwrap();
        assert!(names(dir.path()) == ["a", "b", "c"] && fs::read_to_string(file).unwrap() == "new");
    }
}
