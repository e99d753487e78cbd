//! Names of GPUs for virtual machines, whichever driver has them now, from the host's copy of the PCI ID repository (pci-ids.ucw.cz).
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use aliquot_model::{DeviceId, VendorId};

/// Where distributions keep it.
const PLACES: [&str; 4] =
    ["usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids", "usr/share/pci.ids", "var/lib/pciutils/pci.ids"];

/// What NVIDIA calls these, as far as the file below `root` knows.
pub(super) fn of(root: &Path, wanted: &BTreeSet<DeviceId>) -> BTreeMap<DeviceId, String> {
    let open = |place| File::open(super::super::installation::real(root, Path::new(place))?).ok();
    match PLACES.into_iter().find_map(open) {
        Some(file) if !wanted.is_empty() => read(BufReader::new(file), wanted),
        _ => BTreeMap::new(),
    }
}

/// Vendors are lines that begin with their id; what follows them with one tab are their devices.
fn read(file: impl BufRead, wanted: &BTreeSet<DeviceId>) -> BTreeMap<DeviceId, String> {
    let vendor = format!("{:04x}  ", VendorId::NVIDIA.0);
    // Old copies are in Latin-1 here and there; a line that is no text is none of ours.
    let lines = file.split(b'\n').map_while(Result::ok).map(|line| String::from_utf8(line).unwrap_or_default());
    let devices = lines.skip_while(|line| !line.starts_with(&vendor)).skip(1);
    let devices = devices.take_while(|line| line.is_empty() || line.starts_with(['\t', '#']));
    let named = devices.filter_map(|line| {
        let (id, name) = line.strip_prefix('\t')?.split_once("  ")?;
        let id = DeviceId(u16::from_str_radix(id, 16).ok()?);
        wanted.contains(&id).then(|| (id, name.trim().to_owned()))
    });
    named.take(wanted.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# pci.ids\n10dd  Other\n\t2330  Not this\n10de  NVIDIA Corporation\n# A comment\n\
        \t2330  GH100 [H100 SXM5 80GB]\n\t\t10de 16c0  H100 \n\xff\xfe\n10df  Emulex\n\t2331  Not this\n";

    #[test]
    fn a_model_is_named_by_its_vendors_part_of_the_file() {
        let names = read(FILE, &BTreeSet::from([DeviceId(0x2330), DeviceId(0x2331)]));
        assert_eq!(names, BTreeMap::from([(DeviceId(0x2330), "GH100 [H100 SXM5 80GB]".to_owned())]));
    }

    #[test]
    fn the_file_is_found_where_distributions_keep_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/share/hwdata")).unwrap();
        std::fs::write(root.path().join("usr/share/hwdata/pci.ids"), FILE).unwrap();
        let one = BTreeSet::from([DeviceId(0x2330)]);
        assert_eq!(of(root.path(), &one).len(), 1);
        assert!(of(root.path(), &BTreeSet::new()).is_empty() && of(Path::new("/nowhere"), &one).is_empty());
    }
}
