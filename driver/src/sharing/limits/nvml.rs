//! NVML as it sets limits, through whichever library discovery has open.
use std::{path::Path, time::Duration};

use aliquot_model::{GpuUuid, Memory};
use aliquot_nvml::Questions;
use tokio::sync::watch;

use super::Limiter;

/// A container's start waits for less than this, and is to hear why it waited for nothing.
const LONGEST: Duration = Duration::from_secs(4);

/// NVML.
#[derive(Debug)]
pub(crate) struct Library {
    questions: watch::Receiver<Option<Questions>>,
    deadline: Duration,
}

impl Library {
    pub(crate) fn new(questions: watch::Receiver<Option<Questions>>, deadline: Duration) -> Self {
        Self { questions, deadline: deadline.min(LONGEST) }
    }

    /// The library is opened by discovery, which may just have started.
    async fn open(&self) -> Result<Questions, String> {
        let mut questions = self.questions.clone();
        let opened = questions.wait_for(Option::is_some);
        let opened = tokio::time::timeout(self.deadline, opened).await.ok().and_then(Result::ok);
        opened.and_then(|open| open.clone()).ok_or_else(|| "NVML is not open".to_owned())
    }
}

impl Limiter for Library {
    async fn limit(&self, gpu: &GpuUuid, cgroup: &Path) -> Result<Option<Memory>, String> {
        let limits = self.open().await?.limits(gpu.clone(), cgroup.to_owned(), self.deadline).await;
        Ok(limits.map_err(|error| crate::report(&error))?.and_then(|limits| limits.hard))
    }

    async fn set(&self, gpu: &GpuUuid, cgroup: &Path, limit: Memory) -> Result<(), String> {
        let questions = self.open().await?;
        // What it is sure of, NVIDIA's driver adds to all cgroups above, and takes it back only if told before this one
        // ends; nobody is asked then. It isn't needed: the scheduler gives out no more than there is.
        let sure = Memory::default();
        let set = questions.set_limits(gpu.clone(), cgroup.to_owned(), sure, Some(limit), self.deadline).await;
        set.map_err(|error| crate::report(&error))
    }
}
