//! The command line, as the driver writes it into CDI specs.
use std::{ffi::OsString, path::PathBuf};

/// What `limit-memory` needs to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// The driver's.
    pub(crate) socket: PathBuf,
    /// The claim's UID.
    pub(crate) claim: String,
    /// The device's name in the claim's CDI spec.
    pub(crate) device: String,
}

/// Why a command line is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}; usage: aliquot-hook limit-memory --socket PATH --claim UID --device NAME, with an OCI state as input")]
pub(crate) struct Error(String);

impl Args {
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let mut words =
            words.map(|word| word.into_string().map_err(|word| Error(format!("{} is no text", word.display()))));
        let command = words.next().transpose()?.unwrap_or_default();
        if command != "limit-memory" {
            return Err(Error(format!("{command:?} is no command")));
        }
        let (mut socket, mut claim, mut device) = (None, None, None);
        while let Some(flag) = words.next().transpose()? {
            let slot = match flag.as_str() {
                "--socket" => &mut socket,
                "--claim" => &mut claim,
                "--device" => &mut device,
                _ => return Err(Error(format!("{flag:?} is no flag"))),
            };
            *slot = Some(words.next().transpose()?.ok_or_else(|| Error(format!("{flag} has no value")))?);
        }
        let needed = |value: Option<String>, flag: &str| value.ok_or_else(|| Error(format!("{flag} is missing")));
        let socket = PathBuf::from(needed(socket, "--socket")?);
        if !socket.is_absolute() {
            return Err(Error("--socket is no absolute path".to_owned()));
        }
        Ok(Self { socket, claim: needed(claim, "--claim")?, device: needed(device, "--device")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn all_three_values_are_needed_in_any_order() {
        let args = parse("limit-memory --device d --claim u1 --socket /s").unwrap();
        assert_eq!(args, Args { socket: "/s".into(), claim: "u1".into(), device: "d".into() });
        for (line, word) in [
            ("", "no command"),
            ("unlimit-memory", "no command"),
            ("limit-memory --socket /s --claim u1", "--device is missing"),
            ("limit-memory --socket", "--socket has no value"),
            ("limit-memory --socket s --claim u1 --device d", "no absolute path"),
            ("limit-memory --memory 1Ti", "no flag"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word) && error.contains("usage"), "{line}: {error}");
        }
    }
}
