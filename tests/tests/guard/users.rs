//! Real processes that the simulated GPUs list.
use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command},
    time::Instant,
};

use fake_nvml::{Control, Process};

use super::*;

/// Children of the test; those that are left end with it.
pub(super) struct Users<'a> {
    testbed: &'a Testbed,
    children: BTreeMap<u32, Child>,
    processes: BTreeMap<String, Vec<Process>>,
}

impl<'a> Users<'a> {
    pub(super) fn of(testbed: &'a Testbed) -> Self {
        Self { testbed, children: BTreeMap::new(), processes: BTreeMap::new() }
    }

    /// Starts a process of a pod, or of the host, that uses nothing yet.
    pub(super) fn start(&mut self, pod: Option<&Pod>) -> Result<u32> {
        let child = Command::new("sleep").arg("600").spawn()?;
        let pid = child.id();
        self.children.insert(pid, child);
        self.testbed.node.place(pid, pod.map(uid))?;
        Ok(pid)
    }

    /// From now on a process uses so much of a GPU's memory; `None` is what NVML can't tell.
    pub(super) fn uses(&mut self, pid: u32, gpu: usize, used: Option<u64>) -> Result<()> {
        let list = self.processes.entry(self.testbed.node.profile().gpus[gpu].uuid.clone()).or_default();
        list.retain(|process| process.pid != pid);
        list.push(Process { pid, used, graphics: false });
        Ok(self.testbed.node.control(&Control { processes: self.processes.clone(), ..Control::default() })?)
    }

    /// A process that uses so much of the first GPU.
    pub(super) fn using(&mut self, pod: Option<&Pod>, used: u64) -> Result<u32> {
        let pid = self.start(pod)?;
        self.uses(pid, 0, Some(used))?;
        Ok(pid)
    }

    pub(super) fn is_alive(&mut self, pid: u32) -> bool {
        self.children.get_mut(&pid).unwrap().try_wait().unwrap().is_none()
    }

    /// Waits until a process ends as SIGKILL has it.
    pub(super) async fn is_killed(&mut self, pid: u32) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.children.get_mut(&pid).unwrap().try_wait()? {
                assert_eq!(status.signal(), Some(9), "{status}");
                return Ok(());
            }
            assert!(Instant::now() < deadline, "process {pid} lives\n{}", self.testbed.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends a process as it would by itself, so that nothing is left of it.
    pub(super) fn end(&mut self, pid: u32) -> Result<()> {
        let child = self.children.get_mut(&pid).unwrap();
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Users<'_> {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
