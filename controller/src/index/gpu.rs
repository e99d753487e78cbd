//! Which GPU a device is of, by its name.

/// The name of the GPU that a device of this driver is of: `gpu-0000-41-00` for `gpu-0000-41-00-shared`, and
/// `gpu-0000-41-00-1` for function 1 of a slot and its parts. None for names of another form, of which this can't be said.
pub(crate) fn of(device: &str) -> Option<&str> {
    let mut parts = device.split('-');
    let is_hex = |part: &str, least: usize| {
        part.len() >= least && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let (kind, domain, bus, slot) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if kind != "gpu" || !is_hex(domain, 4) || !is_hex(bus, 2) || !is_hex(slot, 2) {
        return None;
    }
    let mut length = kind.len() + domain.len() + bus.len() + slot.len() + 3;
    // No part of a GPU has a name of a single letter.
    if let Some(function) = parts.next().filter(|part| part.len() == 1 && is_hex(part, 1)) {
        length += 1 + function.len();
    }
    device.get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_of_its_gpu() {
        for part in ["", "-shared", "-admin", "-share-0", "-share-12", "-mig-1g-10gb-0", "-vfio"] {
            assert_eq!(of(&format!("gpu-0000-41-00{part}")), Some("gpu-0000-41-00"));
            assert_eq!(of(&format!("gpu-10000-0a-1f-1{part}")), Some("gpu-10000-0a-1f-1"));
        }
    }

    #[test]
    fn names_of_another_form_are_of_no_known_gpu() {
        for name in ["gpu-0", "gpu-0-mig-1g", "gpu", "", "nic-0000-41-00", "gpu-0000-41", "gpu-00zz-41-00"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
