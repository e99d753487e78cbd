//! What commands in containers answered, held against what they may answer.
use std::collections::BTreeSet;

use super::command::{Ended, LOST, Output};
use crate::isolation::is_usual;

/// Whether `nvidia-smi -L` lists these GPUs, by UUID, and no others.
pub(super) fn lists_only(output: &Output, held: &BTreeSet<&str>) -> Result<(), String> {
    works(output, "nvidia-smi -L")?;
    let seen: BTreeSet<&str> = output.stdout.lines().filter_map(uuid).collect();
    if seen.is_empty() {
        return Err("nvidia-smi -L lists no GPU".to_owned());
    }
    let words = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(", ");
    if seen != *held {
        return Err(format!("it sees {}, and was allocated {}", words(&seen), words(held)));
    }
    Ok(())
}

/// Whether a command ended as it must.
fn works(output: &Output, command: &str) -> Result<(), String> {
    match &output.ended {
        Ended::Ok => Ok(()),
        Ended::Failed(why) => Err(format!("{command} fails where it must not: {why}")),
        Ended::Lost => Err(format!("{command}: {LOST}")),
    }
}

/// Of a line `GPU 0: name (UUID: GPU-…)`.
fn uuid(line: &str) -> Option<&str> {
    line.strip_prefix("GPU ")?.rsplit_once("(UUID: ")?.1.strip_suffix(')')
}

/// Whether `nvidia-smi` isn't there, or finds nothing.
pub(super) fn finds_nothing(output: &Output) -> Result<(), String> {
    match output.ended {
        Ended::Failed(_) => {}
        Ended::Ok => return Err(format!("nvidia-smi works where it must not: {}", output.stdout)),
        Ended::Lost => return Err(format!("whether nvidia-smi is there isn't known: {LOST}")),
    }
    if output.stdout.lines().any(|line| uuid(line).is_some()) {
        return Err(format!("nvidia-smi lists GPUs: {}", output.stdout));
    }
    Ok(())
}

/// Whether `ls -la /dev/` shows no device but those that every container has.
pub(super) fn shows_no_device(output: &Output) -> Result<(), String> {
    works(output, "ls -la /dev/")?;
    if !output.stdout.lines().any(|line| line.ends_with(" null")) {
        return Err("ls -la /dev/ doesn't show /dev/null, so that it shows nothing".to_owned());
    }
    let odd: Vec<&str> = output.stdout.lines().filter(|line| !is_expected(line)).collect();
    if odd.is_empty() { Ok(()) } else { Err(format!("/dev has what no container has: {}", odd.join("; "))) }
}

/// Whether a line of `ls -la` is of anything else than a GPU's node, its directory, or a device of another kind.
fn is_expected(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = line.split(" -> ").next().and_then(|line| line.split_whitespace().last()).unwrap_or_default();
    if name.starts_with("nvidia") || ["dri", "vfio", "dxg"].contains(&name) {
        return false;
    }
    match line.chars().next() {
        Some('b') => false,
        Some('c') => {
            let major = words.iter().position(|word| word.ends_with(','));
            let number = |at: usize| words.get(at)?.trim_end_matches(',').parse().ok();
            let numbers = major.and_then(|at| Some((number(at)?, number(at + 1)?)));
            numbers.is_some_and(is_usual)
        }
        _ => true,
    }
}

/// Whether each of the forged nodes was refused: one line, by the command that failed, for each.
pub(super) fn refused_all(output: &Output, forged: usize) -> Result<(), String> {
    if output.ended == Ended::Lost {
        return Err(format!("whether forged nodes are refused isn't known: {LOST}"));
    }
    let lines: Vec<&str> = output.stdout.lines().chain(output.stderr.lines()).collect();
    let odd: Vec<&str> = lines.iter().copied().filter(|line| !line.ends_with("Operation not permitted")).collect();
    if !odd.is_empty() {
        return Err(format!("forged nodes are not all refused: {}", odd.join("; ")));
    }
    if lines.len() == forged { Ok(()) } else { Err(format!("of {forged} forged nodes {} were refused", lines.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stdout: &str) -> Output {
        Output { stdout: stdout.to_owned(), stderr: String::new(), ended: Ended::Ok }
    }

    fn failed(stdout: &str) -> Output {
        Output { ended: Ended::Failed("exit code 9".to_owned()), ..said(stdout) }
    }

    fn lost(stdout: &str) -> Output {
        Output { ended: Ended::Lost, ..said(stdout) }
    }

    const LIST: &str = "GPU 0: NVIDIA A10G (UUID: GPU-1)\nGPU 1: NVIDIA (odd) (UUID: GPU-2)\n";

    #[test]
    fn a_pod_sees_what_it_was_allocated_no_more_and_no_less() {
        assert_eq!(lists_only(&said(LIST), &["GPU-1", "GPU-2"].into()), Ok(()));
        assert!(lists_only(&said(LIST), &["GPU-1"].into()).unwrap_err().contains("GPU-2"));
        assert!(lists_only(&said(LIST), &["GPU-1", "GPU-2", "GPU-3"].into()).is_err());
        assert!(lists_only(&said(""), &BTreeSet::new()).is_err(), "nothing allocated proves nothing");
        for output in [failed(LIST), lost(LIST)] {
            assert!(lists_only(&output, &["GPU-1", "GPU-2"].into()).is_err());
        }
    }

    #[test]
    fn a_command_that_fails_finds_nothing_unless_it_lists_gpus() {
        assert_eq!(finds_nothing(&failed("NVIDIA-SMI has failed")), Ok(()));
        assert!(finds_nothing(&failed(LIST)).is_err());
        assert!(finds_nothing(&said("")).is_err());
    }

    #[test]
    fn a_connection_that_ends_proves_nothing() {
        assert!(finds_nothing(&lost("")).unwrap_err().contains(LOST));
        assert!(shows_no_device(&lost(DEV)).is_err());
        let refused = Output { stderr: "cat: can't open '/tmp/a': Operation not permitted".to_owned(), ..lost("") };
        assert!(refused_all(&refused, 1).is_err());
    }

    /// As `GNU` and `busybox` write it.
    const DEV: &str = "total 4\ndrwxr-xr-x    5 root     root           360 Nov 23 18:36 .\n\
        crw-rw-rw-    1 root     root        1,   7 Nov 23 18:36 full\ncrw-rw-rw- 1 root root 1, 3 Nov 23 18:36 null\n\
        lrwxrwxrwx    1 root     root             8 Nov 23 18:36 ptmx -> pts/ptmx\n\
        -rw-rw-rw-    1 root     root             0 Nov 23 18:36 termination-log\n";

    #[test]
    fn only_the_devices_of_every_container_are_expected() {
        assert_eq!(shows_no_device(&said(DEV)), Ok(()));
        for odd in [
            "crw-rw-rw- 1 root root 195, 0 Nov 23 18:36 nvidia0",
            "crw-rw-rw-    1 root     root      195, 255 Nov 23 18:36 harmless",
            "crw-rw-rw- 1 root root 1, 1 Nov 23 18:36 mem",
            "brw-rw---- 1 root root 8, 0 Nov 23 18:36 sda",
            "drwxr-xr-x 2 root root 80 Nov 23 18:36 dri",
            "lrwxrwxrwx 1 root root 8 Nov 23 18:36 nvidia1 -> null",
            "crw-rw-rw- 1 root root ? Nov 23 18:36 strange",
        ] {
            let why = shows_no_device(&said(&format!("{DEV}{odd}\n"))).unwrap_err();
            assert!(why.contains(odd), "{why}");
        }
        assert!(shows_no_device(&said("")).is_err());
        assert!(shows_no_device(&failed(DEV)).is_err());
    }

    #[test]
    fn a_forged_node_is_refused_by_the_cgroup_and_by_nothing_else() {
        let (mknod, cat) =
            ("mknod: /tmp/a: Operation not permitted", "cat: can't open '/tmp/a': Operation not permitted");
        let said = |lines: &[&str]| Output { stderr: lines.join("\n"), ..failed("") };
        assert_eq!(refused_all(&said(&[mknod, cat]), 2), Ok(()));
        assert!(refused_all(&said(&[cat]), 2).is_err(), "one was opened");
        let absent = "cat: can't open '/tmp/a': No such device or address";
        assert!(refused_all(&said(&[cat, absent]), 2).unwrap_err().contains(absent), "the cgroup let it in");
    }
}
