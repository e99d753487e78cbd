//! Reads the files of a conversion and writes its result: all of it, or nothing.
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Input, Inputs, Output, convert, notes::Faults, tree::LARGEST};
use crate::{args::ConvertArgs, streams};

/// Why nothing was converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file can't be read.
    #[error("{} can't be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A file is more than a manifest can be.
    #[error("{} is more than 1 MiB, which no manifest can be", .0.display())]
    Large(PathBuf),
    /// A file isn't text.
    #[error("{} isn't UTF-8: byte {} is no part of a text", .0.display(), .1)]
    Text(PathBuf, usize),
    /// Something can't be converted.
    #[error("nothing is converted\n{0}")]
    Faults(#[from] Faults),
    /// Something would be overwritten.
    #[error("{} exists; nothing is written (--force overwrites)", .0.display())]
    Exists(PathBuf),
    /// The result can't be written.
    #[error("{} can't be written; nothing is left of the result", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// Standard output takes nothing.
    #[error("standard output can't be written")]
    Stdout(#[source] io::Error),
}

/// Converts as the command line says.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Error> {
    let inputs = Inputs {
        config: args.config.as_deref().map(read).transpose()?,
        default_config: args.default_config.clone(),
        pods: args.files.iter().map(|path| read(path)).collect::<Result<_, _>>()?,
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

fn read(path: &Path) -> Result<Input, Error> {
    let unreadable = |error| Error::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    let largest = u64::try_from(LARGEST).unwrap_or(u64::MAX);
    File::open(path).map_err(unreadable)?.take(largest + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > LARGEST {
        return Err(Error::Large(path.to_owned()));
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
    if let Some(path) = paths.iter().find(|path| !force && path.symlink_metadata().is_ok()) {
        return Err(Error::Exists(path.clone()));
    }
    let is_new = !dir.exists();
    fs::create_dir_all(dir).map_err(|error| Error::Write(dir.to_owned(), error))?;
    let mut left = Vec::new();
    let result = place(&paths, output, force, &mut left);
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

/// Notes in `left` what is to be removed if it fails.
fn place(paths: &[PathBuf], output: &Output, force: bool, left: &mut Vec<PathBuf>) -> Result<(), Error> {
    let mut written_files = Vec::new();
    for (path, file) in paths.iter().zip(&output.files) {
        let failed = |error| Error::Write(path.clone(), error);
        let beside = path.with_file_name(format!(".{}.{}", file.name, std::process::id()));
        let mut written = File::create_new(&beside).map_err(failed)?;
        left.push(beside.clone());
        written.write_all(file.text.as_bytes()).and_then(|()| written.sync_all()).map_err(failed)?;
        written_files.push((beside, path));
    }
    for (beside, path) in &written_files {
        let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let result = match renameat_with(CWD, beside, CWD, *path, flags) {
            // Some network filesystems know no flags; that nothing is there was seen before.
            Err(rustix::io::Errno::INVAL) if !force => rustix::fs::rename(beside, *path),
            result => result,
        };
        result.map_err(|error| match error {
            rustix::io::Errno::EXIST => Error::Exists((*path).clone()),
            error => Error::Write((*path).clone(), error.into()),
        })?;
        left.push((*path).clone());
    }
    Ok(())
}
