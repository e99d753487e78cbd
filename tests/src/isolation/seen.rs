//! What a probe saw in a container, held against what the container was given.
use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use serde::Deserialize;

use super::Tally;

/// A major and a minor number.
pub(crate) type Number = (u32, u32);

/// The probe's output: nodes as (path, kind, major, minor, error of reading, error of writing), and forged ones as (major,
/// minor, error of making, error of reading, error of writing).
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    nodes: Vec<(String, char, u32, u32, i32, i32)>,
    forged: Vec<(u32, u32, i32, i32, i32)>,
}

/// What a container is to have.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    /// Its GPUs' nodes.
    pub(super) nodes: BTreeMap<String, Number>,
    /// Nodes that its image brings along, which it has but must not be able to open.
    pub(super) brought: BTreeSet<String>,
}

/// The nodes that every container has (OCI runtime specification, "Default Devices"): null, zero, full, random, urandom,
/// tty, console and ptmx, and terminals.
pub(crate) fn is_usual((major, minor): Number) -> bool {
    matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2) | (136, _))
}

fn is_denied(error: i32) -> bool {
    error == Errno::PERM.raw_os_error()
}

impl Seen {
    /// Counts every attempt, and tells what is too much and too little.
    pub(super) fn judge(&self, container: &str, own: &Own, tally: &mut Tally) {
        tally.containers += 1;
        let mut there = BTreeSet::new();
        for (path, kind, major, minor, read, write) in &self.nodes {
            let number = (*major, *minor);
            if *kind == 'c' && is_usual(number) {
                continue;
            }
            if *kind == 'c' && own.nodes.get(path) == Some(&number) {
                there.insert(path.clone());
                if is_denied(*read) || is_denied(*write) {
                    tally.fault(format_args!("{container} may not open its own {path}"));
                }
                continue;
            }
            if !own.brought.contains(path) {
                tally.fault(format_args!("{container} has {path} ({kind} {major}:{minor}), one too many"));
            }
            for error in [read, write] {
                tally.attempt(format_args!("{path} by {container}"), !is_denied(*error));
            }
        }
        for path in own.nodes.keys().filter(|path| !there.contains(*path)) {
            tally.fault(format_args!("{container} lacks its own {path}"));
        }
        if self.forged.is_empty() {
            tally.fault(format_args!("in {container} nothing was forged"));
        }
        let numbers: BTreeSet<&Number> = own.nodes.values().collect();
        for (major, minor, made, read, write) in &self.forged {
            let is_own = numbers.contains(&(*major, *minor));
            for error in [read, write] {
                if !is_own {
                    tally.attempt(format_args!("{major}:{minor} by {container}, forged"), !is_denied(*error));
                } else if *made == 0 && is_denied(*error) {
                    tally.fault(format_args!("{container} may not open its own {major}:{minor}"));
                }
            }
        }
    }

    /// How many forged nodes the kernel didn't refuse.
    pub(super) fn open(&self) -> usize {
        self.forged.iter().filter(|(_, _, made, read, _)| *made == 0 && !is_denied(*read)).count()
    }

    /// How many nodes were forged.
    pub(super) fn forged(&self) -> usize {
        self.forged.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums, and what is told, of a container that was given `/dev/nvidia1`.
    fn judged(nodes: &str, forged: &str) -> (u64, usize, String) {
        let seen: Seen = serde_json::from_str(&format!(r#"{{"nodes": [{nodes}], "forged": [{forged}]}}"#)).unwrap();
        let own = Own { nodes: [("/dev/nvidia1".to_owned(), (195, 1))].into(), brought: ["/x".to_owned()].into() };
        let mut tally = Tally::default();
        seen.judge("c", &own, &mut tally);
        (tally.attempts, tally.reachable.len(), tally.faults.join("; "))
    }

    const OWN: &str = r#"["/dev/null","c",1,3,0,0],["/dev/nvidia1","c",195,1,6,6]"#;
    const DENIED: &str = "[195,0,0,1,1]";

    #[test]
    fn a_container_with_its_own_and_nothing_else_is_isolated() {
        assert_eq!(judged(OWN, DENIED), (2, 0, String::new()));
        assert_eq!(judged(OWN, "[195,0,1,1,1],[195,1,0,6,6]"), (2, 0, String::new()), "mknod itself may be refused");
        assert_eq!(judged(&format!(r#"{OWN},["/x","c",195,7,1,1]"#), DENIED), (4, 0, String::new()));
    }

    #[test]
    fn one_too_many_and_one_too_few_are_told_and_so_is_what_opens() {
        assert_eq!(judged(OWN, "[195,0,0,6,1]").1, 1, "to read is enough");
        assert_eq!(judged(OWN, "[195,0,0,1,13]").1, 1, "another refusal is not the cgroup's");
        let (_, reachable, faults) = judged(&format!(r#"{OWN},["/tmp/a","b",8,0,0,1]"#), DENIED);
        assert!(reachable == 1 && faults.contains("/tmp/a (b 8:0), one too many"), "{faults}");
        assert!(judged("", DENIED).2.contains("lacks its own /dev/nvidia1"));
        assert!(judged(r#"["/dev/nvidia1","c",195,0,1,1]"#, DENIED).2.contains("lacks"), "under its name, another's");
        assert!(judged(r#"["/dev/nvidia1","c",195,1,1,1]"#, DENIED).2.contains("may not open"));
        assert!(judged(OWN, "").2.contains("nothing was forged"));
        assert_eq!(judged(&format!(r#"{OWN},["/x","c",195,7,6,1]"#), DENIED).1, 1, "what the image brings");
    }
}
