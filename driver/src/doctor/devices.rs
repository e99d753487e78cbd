//! Checks `device-numbers` and `device-nodes`: the kernel gives out the numbers that containers' nodes are made of, and the
//! host's own nodes have the same.
use super::check::{Check, some};
use crate::edits::nodes::{CONTROL, MODESET, NVIDIA, major};

const NUMBERS: &str = "device-numbers";
const NODES: &str = "device-nodes";

/// A file in the directory of device nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// None for what is no character device.
    pub(super) numbers: Option<(u32, u32)>,
}

/// Of `/proc/devices`.
pub(super) fn numbers(table: &Result<String, String>) -> Check {
    let table = match table {
        Ok(table) => table,
        Err(reason) => {
            return Check::failed(
                NUMBERS,
                format!("the kernel's table of devices: {reason}"),
                "set --proc-root to procfs",
            );
        }
    };
    // Before driver 550.40 the module had another name.
    let gpus = ["nvidia", "nvidia-frontend"].into_iter().find_map(|name| major(table, name));
    match (gpus, major(table, "nvidia-uvm")) {
        (None, _) => Check::failed(NUMBERS, "the kernel has no nvidia devices", "modprobe nvidia"),
        (Some(_), None) => Check::failed(
            NUMBERS,
            "the kernel has no nvidia-uvm device, without which there is no CUDA",
            "modprobe nvidia-uvm, and name it in /etc/modules-load.d/ for the next boot",
        ),
        (Some(gpus), Some(_)) if gpus != NVIDIA => Check::failed(
            NUMBERS,
            format!("the major number of nvidia is {gpus}, not {NVIDIA}"),
            "use a kernel module of NVIDIA's, whose numbers are fixed",
        ),
        (Some(gpus), Some(uvm)) => Check::ok(NUMBERS, format!("nvidia {gpus}, nvidia-uvm {uvm}")),
    }
}

/// Of the nodes that are there: those that aren't are none that a container needs.
pub(super) fn nodes(table: &Result<String, String>, nodes: &[Node], dev: &str) -> Check {
    let Ok(table) = table else { return Check::skipped(NODES, "the kernel's numbers aren't known") };
    let uvm = major(table, "nvidia-uvm");
    let (mut wrong, mut good) = (Vec::new(), 0_usize);
    for node in nodes {
        let Some(expected) = expected(&node.name, uvm) else { continue };
        match node.numbers {
            None => wrong.push(format!("{} is no character device", node.name)),
            Some((major, minor)) if (i64::from(major), i64::from(minor)) != expected => {
                wrong.push(format!("{} is {major}:{minor}, not {}:{}", node.name, expected.0, expected.1));
            }
            Some(_) => good += 1,
        }
    }
    if !wrong.is_empty() {
        return Check::failed(
            NODES,
            format!("in {dev}: {}", some(&wrong)),
            "remove them and let nvidia-modprobe -c 0 -u make them again (or reboot): they are left over from another load \
             of the module",
        );
    }
    match good {
        0 => Check::skipped(NODES, format!("{dev} has none; containers get theirs by number")),
        1 => Check::ok(NODES, format!("1 in {dev}, with the kernel's numbers")),
        good => Check::ok(NODES, format!("{good} in {dev}, with the kernel's numbers")),
    }
}

/// The numbers of a node by its name; none for what isn't known, or has no number now.
fn expected(name: &str, uvm: Option<i64>) -> Option<(i64, i64)> {
    match name {
        "nvidiactl" => Some((NVIDIA, CONTROL)),
        "nvidia-modeset" => Some((NVIDIA, MODESET)),
        "nvidia-uvm" => Some((uvm?, 0)),
        "nvidia-uvm-tools" => Some((uvm?, 1)),
        gpu => Some((NVIDIA, gpu.strip_prefix("nvidia")?.parse::<u8>().ok()?.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;

    #[allow(clippy::unnecessary_wraps, reason = "it is judged as what may fail")]
    fn table(lines: &str) -> Result<String, String> {
        Ok(format!("Character devices:\n  1 mem\n{lines}\nBlock devices:\n  8 sd\n"))
    }

    fn node(name: &str, numbers: Option<(u32, u32)>) -> Node {
        Node { name: name.into(), numbers }
    }

    #[test]
    fn a_missing_module_is_named_with_how_to_load_it() {
        assert_eq!(numbers(&table("")).fix.unwrap(), "modprobe nvidia");
        let check = numbers(&table("195 nvidia\n"));
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.found.contains("CUDA") && check.fix.unwrap().starts_with("modprobe nvidia-uvm"));
        assert_eq!(numbers(&table("200 nvidia\n511 nvidia-uvm\n")).verdict, Verdict::Failed);
        assert_eq!(numbers(&Err("gone".into())).verdict, Verdict::Failed);
        for name in ["nvidia", "nvidia-frontend"] {
            assert_eq!(numbers(&table(&format!("195 {name}\n511 nvidia-uvm\n"))).verdict, Verdict::Ok);
        }
    }

    #[test]
    fn nodes_of_another_load_of_the_module_are_found() {
        let table = table("195 nvidia\n511 nvidia-uvm\n");
        let good = [
            node("nvidiactl", Some((195, 255))),
            node("nvidia3", Some((195, 3))),
            node("nvidia-uvm-tools", Some((511, 1))),
            node("nvidia-caps", None),
            node("nvidia-nvswitch0", Some((240, 0))),
        ];
        assert_eq!(nodes(&table, &good, "/dev"), Check::ok(NODES, "3 in /dev, with the kernel's numbers"));
        let stale = [node("nvidia-uvm", Some((510, 0))), node("nvidia0", None)];
        let check = nodes(&table, &stale, "/dev");
        assert_eq!(check.verdict, Verdict::Failed);
        assert_eq!(check.found, "in /dev: nvidia-uvm is 510:0, not 511:0, nvidia0 is no character device");
        assert_eq!(nodes(&table, &[], "/dev").verdict, Verdict::Skipped);
        assert_eq!(nodes(&Err("gone".into()), &stale, "/dev").verdict, Verdict::Skipped);
    }

    #[test]
    fn numbers_that_are_given_out_later_condemn_no_node() {
        let check = nodes(&table("195 nvidia\n"), &[node("nvidia-uvm", Some((510, 0)))], "/dev");
        assert_eq!(check.verdict, Verdict::Skipped, "that uvm is missing is said once");
    }
}
