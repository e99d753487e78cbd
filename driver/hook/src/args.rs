//! The command line, as the driver writes it into CDI specs.
use std::{ffi::OsString, path::PathBuf};

use crate::container::{Job, Link, Named};

/// What to do, and where to write why it wasn't done.
#[derive(Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub command: Command,
    /// Where refusals are written, on the host.
    pub log: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// `prepare-container`
    Prepare(Job),
    /// `limit-memory`
    Limit(Limit),
}

/// What `limit-memory` needs to know.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    /// The driver's.
    pub socket: PathBuf,
    /// The claim's UID.
    pub claim: String,
    /// The device's name in the claim's CDI spec.
    pub device: String,
}

/// Why a command line is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}; usage: aliquot-hook {USAGE}, with an OCI state as input")]
pub struct Error(String);

const USAGE: &str = "prepare-container [--params FILE] [--driver-version VERSION] [--link TARGET::PATH]... \
                     [--library-dir PATH]... [--library NAME=FILE]... | limit-memory --socket PATH --claim UID --device NAME, \
                     either with [--log FILE]";
/// More links or libraries are none that a driver has.
const MOST: usize = 1024;

impl Order {
    /// Reads the words behind the program's name.
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let mut words =
            words.map(|word| word.into_string().map_err(|word| Error(format!("{} is no text", word.display()))));
        let command = words.next().transpose()?.unwrap_or_default();
        let mut flags = Vec::new();
        while let Some(flag) = words.next().transpose()? {
            let value = words.next().transpose()?.ok_or_else(|| Error(format!("{flag} has no value")))?;
            flags.push((flag, value));
        }
        let log = flags.extract_if(.., |(flag, _)| flag == "--log").last();
        let log = log.map(|(flag, path)| absolute(&flag, &path).map(PathBuf::from)).transpose()?;
        let command = match command.as_str() {
            "prepare-container" => job(flags).map(Command::Prepare),
            "limit-memory" => limit(flags).map(Command::Limit),
            _ => Err(Error(format!("{command:?} is no command"))),
        };
        Ok(Self { command: command?, log })
    }
}

/// Where refusals are written, also of a command line that says nothing else.
pub(crate) fn log(words: &[OsString]) -> Option<PathBuf> {
    let (flags, _) = words.get(1..)?.as_chunks::<2>();
    let [_, path] = flags.iter().rfind(|[flag, _]| flag == "--log")?;
    absolute("--log", path.to_str()?).ok().map(PathBuf::from)
}

fn job(flags: Vec<(String, String)>) -> Result<Job, Error> {
    let mut job = Job::default();
    for (flag, value) in flags {
        let pair = |at: &str| {
            let (a, b) = value.split_once(at).ok_or_else(|| Error(format!("{flag} {value} has no {at:?}")))?;
            Ok((a.to_owned(), b.to_owned()))
        };
        match flag.as_str() {
            "--params" => job.params = Some(absolute(&flag, &value)?.into()),
            "--library-dir" => job.library_dirs.push(absolute(&flag, &value)?),
            "--driver-version" => job.driver_version = Some(value),
            "--link" => {
                let (target, path) = pair("::")?;
                job.links.push(Link { target, path: absolute(&flag, &path)? });
            }
            "--library" => {
                let (name, file) = pair("=")?;
                job.libraries.push(Named { name: plain(&flag, name)?, file: plain(&flag, file)? });
            }
            _ => return Err(Error(format!("{flag:?} is no flag"))),
        }
    }
    if job.links.len().max(job.libraries.len()) > MOST {
        return Err(Error(format!("there are more than {MOST} links or libraries")));
    }
    Ok(job)
}

fn limit(flags: Vec<(String, String)>) -> Result<Limit, Error> {
    let (mut socket, mut claim, mut device) = (None, None, None);
    for (flag, value) in flags {
        match flag.as_str() {
            "--socket" => socket = Some(absolute(&flag, &value)?),
            "--claim" => claim = Some(value),
            "--device" => device = Some(value),
            _ => return Err(Error(format!("{flag:?} is no flag"))),
        }
    }
    let needed = |value: Option<String>, flag: &str| value.ok_or_else(|| Error(format!("{flag} is missing")));
    Ok(Limit {
        socket: needed(socket, "--socket")?.into(),
        claim: needed(claim, "--claim")?,
        device: needed(device, "--device")?,
    })
}

/// A name in a directory.
fn plain(flag: &str, name: String) -> Result<String, Error> {
    if is_plain(&name) { Ok(name) } else { Err(Error(format!("{flag} {name} is no plain name"))) }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

/// Absolute, of plain names.
fn absolute(flag: &str, path: &str) -> Result<String, Error> {
    let is_absolute = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_plain));
    if is_absolute { Ok(path.to_owned()) } else { Err(Error(format!("{flag} {path} is no plain absolute path"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(line: &str) -> Result<Order, String> {
        Order::parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    fn parse(line: &str) -> Result<Command, String> {
        order(line).map(|order| order.command)
    }

    #[test]
    fn every_command_may_have_a_log() {
        for line in ["prepare-container --log /p/log", "limit-memory --socket /s --log /p/log --claim u1 --device d"] {
            assert_eq!(order(line).unwrap().log.as_deref(), Some(std::path::Path::new("/p/log")));
        }
        assert_eq!(order("prepare-container").unwrap().log, None);
        assert!(order("prepare-container --log log").unwrap_err().contains("no plain absolute path"));
    }

    #[test]
    fn the_log_is_known_where_the_rest_is_wrong() {
        let of = |line: &str| log(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        for line in ["prepare-container --log /p/log", "x --y z --log /p/log --w", "limit-memory --log /o --log /p/log"]
        {
            assert_eq!(of(line).as_deref(), Some(std::path::Path::new("/p/log")), "{line}");
        }
        for line in ["", "--log /p/log", "x --log", "x --log p/log", "x --y --log /p/log"] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn a_limit_needs_all_three_values_in_any_order() {
        let limit = Limit { socket: "/s".into(), claim: "u1".into(), device: "d".into() };
        assert_eq!(parse("limit-memory --device d --claim u1 --socket /s").unwrap(), Command::Limit(limit));
    }

    #[test]
    fn a_container_has_links_and_libraries_in_the_order_in_which_they_are_given() {
        let line = "prepare-container --library b=b1 --link x.so.1::/l/x.so --library a=a1 --params /run/params \
                    --library-dir /l --driver-version 570.1";
        let library = |name: &str| Named { name: name.into(), file: format!("{name}1") };
        let job = Job {
            links: vec![Link { path: "/l/x.so".into(), target: "x.so.1".into() }],
            library_dirs: vec!["/l".into()],
            libraries: vec![library("b"), library("a")],
            driver_version: Some("570.1".into()),
            params: Some("/run/params".into()),
        };
        assert_eq!(parse(line).unwrap(), Command::Prepare(job));
    }

    #[test]
    fn whatever_is_wrong_is_named_with_how_it_is_used() {
        for (line, word) in [
            ("", "no command"),
            ("unlimit-memory", "no command"),
            ("limit-memory --socket /s --claim u1", "--device is missing"),
            ("limit-memory --socket", "--socket has no value"),
            ("limit-memory --socket s --claim u1 --device d", "no plain absolute path"),
            ("limit-memory --memory 1Ti", "no flag"),
            ("prepare-container --link x", "no \"::\""),
            ("prepare-container --link x::y", "no plain absolute path"),
            ("prepare-container --link x::/a/../b", "no plain absolute path"),
            ("prepare-container --library x", "no \"=\""),
            ("prepare-container --library x=../y", "no plain name"),
            ("prepare-container --params //x", "no plain absolute path"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word) && error.contains("usage"), "{line}: {error}");
        }
    }
}
