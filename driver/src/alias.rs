//! CDI devices of another kind for what virtual machines can be given, without a claim: for runtimes that are told by
//! hand-written annotations (`cdi.k8s.io/gpu: nvidia.com/pgpu=0`), as Kata set-ups from before DRA are.
use aliquot_model::{Binding, Inventory, Vfio};
use cdi_spec::{ContainerEdits, Device, DeviceName, InvalidName, Kind, Spec, Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    discovery::View,
    edits::{self, Edits},
};

/// The id in the file's name: `nvidia.com-pgpu_aliquot.json`.
pub(crate) const FILE: &str = "aliquot";

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A device can't be described.
    #[error(transparent)]
    Edits(#[from] edits::Error),
    /// A name that CDI doesn't take.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The CDI directory.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps the file of a kind at what is there, until `stop`; it stays then, as the containers do.
pub(crate) async fn follow(
    alias: Option<(Kind, Store)>,
    edits: Edits,
    mut view: watch::Receiver<View>,
    stop: CancellationToken,
) {
    let Some((kind, store)) = alias else { return };
    loop {
        let now = view.borrow_and_update().clone();
        let written = match now {
            View::Searching => Ok(()),
            View::Unavailable(_) => keep(&kind, &store, &edits, &Inventory::default()),
            View::Ready(found) => keep(&kind, &store, &edits, &found.inventory),
        };
        if let Err(error) = written {
            tracing::error!(%kind, error = crate::report(&error), "the CDI spec of --vfio-alias can't be kept");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

fn keep(kind: &Kind, store: &Store, edits: &Edits, inventory: &Inventory) -> Result<(), Error> {
    let devices = numbered(inventory)
        .map(|(number, vfio)| {
            let container_edits = edits.group(vfio)?;
            Ok(Device { name: DeviceName::new(number.to_string())?, container_edits })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    // A spec without devices is none.
    if devices.is_empty() {
        return Ok(store.remove(kind, FILE)?);
    }
    Ok(store.write(FILE, &Spec::new(kind.clone(), devices, ContainerEdits::default()))?)
}

/// What can be had, by its place among all GPUs of the node: so that a number stays when another card changes its driver.
fn numbered(inventory: &Inventory) -> impl Iterator<Item = (usize, &Vfio)> {
    inventory.vfio().iter().enumerate().filter(|(_, vfio)| vfio.binding == Binding::Bound)
}

#[cfg(test)]
mod tests {
    use aliquot_model::testing::vfio;

    use super::*;
    use crate::roots::{Roots, tests::roots};

    #[test]
    fn numbers_go_by_place_and_stay_when_another_card_changes_its_driver() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { dev: dir.path().join("dev"), ..roots("/", "/") };
        std::fs::create_dir_all(roots.dev.join("vfio")).unwrap();
        for group in [0x41, 0x42] {
            std::fs::write(roots.dev.join("vfio").join(group.to_string()), "").unwrap();
        }
        let (store, edits) = (Store::open(&dir.path().join("cdi")).unwrap(), Edits::new(roots, None));
        let kind = Kind::new("nvidia.com", "pgpu").unwrap();
        let kept = |first: Binding, second: Binding| {
            let all = [(0x41, first), (0x42, second)].map(|(bus, binding)| Vfio { binding, ..vfio(bus) });
            keep(&kind, &store, &edits, &Inventory::default().with_vfio(all.to_vec())).unwrap();
            let spec = store.read(&kind, FILE).unwrap()?;
            let paths = |device: Device| (device.name.to_string(), device.container_edits.device_nodes[0].path.clone());
            Some(spec.devices.into_iter().map(paths).collect::<Vec<_>>())
        };
        let device = |number: &str, path: &str| (number.to_owned(), path.to_owned());
        let (first, second) = (device("0", "/dev/vfio/65"), device("1", "/dev/vfio/66"));
        assert_eq!(kept(Binding::Bound, Binding::Bound), Some(vec![first, second.clone()]));
        assert_eq!(kept(Binding::Switchable, Binding::Bound), Some(vec![second]));
        assert_eq!(kept(Binding::Switchable, Binding::Switchable), None);
    }
}
