//! The kernel module's parameters with the leave to make device nodes taken out.
use std::{fs, path::Path};

/// What containers are shown of `/proc/driver/nvidia/params`; none where there is no such file.
pub(super) fn masked(proc: &Path) -> Option<String> {
    fs::read_to_string(proc.join("driver/nvidia/params")).ok().map(|params| mask(&params))
}

fn mask(params: &str) -> String {
    const LEAVE: &str = "ModifyDeviceFiles:";
    params
        .lines()
        .map(|line| if line.starts_with(LEAVE) { format!("{LEAVE} 0\n") } else { format!("{line}\n") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_shown_all_parameters_and_no_leave_to_make_nodes() {
        let params = "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileMode: 438\n";
        assert_eq!(mask(params), "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileMode: 438\n");
    }
}
