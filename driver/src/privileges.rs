//! Gives up what the process may do beyond its work, before it has a second thread.
use std::{fmt, str::FromStr};

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

/// The capabilities (`capabilities(7)`) that the driver keeps of those that it was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of them, and programs that it starts may gain more.
    All,
    /// These at most, now and in every program that it starts.
    Only(CapabilitySet),
}

/// No such capability.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no capability; use names of capabilities(7) such as sys_admin,kill, nothing for none, or all")]
pub struct UnknownCapability(String);

/// The kernel refuses to take a privilege away.
#[derive(Debug, thiserror::Error)]
#[error("capabilities can't be given up; --keep-capabilities=all doesn't try: {0}")]
pub(crate) struct Error(#[from] Errno);

impl FromStr for Keep {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let sets = names.map(|name| {
            let upper = name.to_ascii_uppercase();
            let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
            CapabilitySet::from_name(plain).ok_or_else(|| UnknownCapability(name.to_owned()))
        });
        sets.collect::<Result<CapabilitySet, _>>().map(Self::Only)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("all"),
            Self::Only(kept) => {
                let names: Vec<String> = kept.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect();
                formatter.write_str(&names.join(","))
            }
        }
    }
}

impl Keep {
    /// Gives up all others, in this thread and those that it starts from now on, and for good.
    pub(crate) fn alone(self) -> Result<(), Error> {
        let Self::Only(kept) = self else { return Ok(()) };
        let now = capabilities(None)?;
        // Only with this may a process take from the set that bounds what programs get. What stays in it without is of no
        // use: no program gets more than its starter has, from the last step on.
        if now.effective.contains(CapabilitySet::SETPCAP) {
            for given_up in CapabilitySet::all().difference(kept).iter() {
                ignore(Errno::INVAL, remove_capability_from_bounding_set(given_up))?;
            }
        }
        ignore(Errno::INVAL, clear_ambient_capability_set())?;
        set_capabilities(
            None,
            CapabilitySets {
                effective: now.effective.intersection(kept),
                permitted: now.permitted.intersection(kept),
                inheritable: CapabilitySet::empty(),
            },
        )?;
        set_no_new_privs(true)?;
        Ok(())
    }
}

/// What an older kernel doesn't know needs no taking away.
fn ignore(errno: Errno, done: Result<(), Errno>) -> Result<(), Errno> {
    done.or_else(|error| if error == errno { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named_as_in_the_manual_and_in_pods() {
        let both = CapabilitySet::SYS_ADMIN | CapabilitySet::KILL;
        for text in ["sys_admin,kill", "CAP_SYS_ADMIN, CAP_KILL", "KILL,SYS_ADMIN"] {
            assert_eq!(text.parse(), Ok(Keep::Only(both)), "{text}");
        }
        assert_eq!(Keep::Only(both).to_string().parse(), Ok(Keep::Only(both)));
    }

    #[test]
    fn nothing_is_none_and_all_is_all() {
        assert_eq!("".parse(), Ok(Keep::Only(CapabilitySet::empty())));
        assert_eq!("all".parse(), Ok(Keep::All));
        assert_eq!(Keep::All.to_string().parse(), Ok(Keep::All));
    }

    #[test]
    fn a_name_that_is_none_is_refused_as_it_was_written() {
        assert_eq!("kill,sys_amdin".parse::<Keep>(), Err(UnknownCapability("sys_amdin".to_owned())));
        assert!("all,kill".parse::<Keep>().is_err());
    }
}
