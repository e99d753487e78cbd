//! Networks for pods that have one of their own: an address that nothing is behind, by a plugin of the container network
//! interface (CNI) that does nothing.
use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

const CONFIG: &str = r#"{"cniVersion": "1.0.0", "name": "nowhere", "plugins": [{"type": "none"}]}"#;
const PLUGIN: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}],
    "ips": [{"address": "192.0.2.2/24", "interface": 0}]}'
"#;

/// Writes the plugin and its configuration into `dir`.
pub(super) fn install(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("none.conflist"), CONFIG)?;
    fs::write(dir.join("none"), PLUGIN)?;
    fs::set_permissions(dir.join("none"), fs::Permissions::from_mode(0o755))
}
