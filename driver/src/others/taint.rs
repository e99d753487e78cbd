//! Which GPUs are not for new claims since others hand them out too. Pure.
use aliquot_model::GpuUuid;

use super::judge::Elsewhere;
use crate::{
    args::OtherPlugins,
    offer::taints::{Effect, Mark},
};

/// How they are marked.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    key: String,
    mode: OtherPlugins,
}

impl Marker {
    /// For the driver of this name.
    pub(crate) fn new(driver: &str, mode: OtherPlugins) -> Self {
        Self { key: format!("{driver}/handed-out-elsewhere"), mode }
    }

    /// The taint's key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// A mark for each GPU, with the first of those who hand it out.
    pub(crate) fn marks(&self, elsewhere: &Elsewhere) -> impl Iterator<Item = (GpuUuid, Mark)> {
        let wanted = self.mode == OtherPlugins::Taint;
        elsewhere.gpus.iter().filter(move |_| wanted).filter_map(|(gpu, others)| {
            let other = others.by.first()?;
            Some((gpu.clone(), Mark::new(&self.key, other.name(), Effect::NoSchedule)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use aliquot_model::testing::gpu;

    use super::*;
    use crate::others::judge::{Others, tests::plugin};

    fn marks(mode: OtherPlugins) -> Vec<(GpuUuid, Mark)> {
        let others = Others { by: BTreeSet::from([plugin("nvidia.com/gpu")]), ..Others::default() };
        let elsewhere = Elsewhere { gpus: BTreeMap::from([(gpu(1).uuid, others)]), ..Elsewhere::default() };
        Marker::new("d.example.com", mode).marks(&elsewhere).collect()
    }

    #[test]
    fn a_gpu_that_others_hand_out_is_marked_with_who_does() {
        let mark = Mark::new("d.example.com/handed-out-elsewhere", "nvidia.com_gpu", Effect::NoSchedule);
        assert_eq!(marks(OtherPlugins::Taint), [(gpu(1).uuid, mark)]);
    }

    #[test]
    fn nothing_is_kept_back_unless_that_is_wanted() {
        for mode in [OtherPlugins::Warn, OtherPlugins::Ignore] {
            assert!(marks(mode).is_empty());
        }
    }
}
