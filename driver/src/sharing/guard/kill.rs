//! Ends one process, if it is still the one that was judged.
use rustix::{
    io::Errno,
    process::{PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal},
};

use super::{
    judge::Victim,
    process::{Procfs, Ticks},
    types::Pod,
};

/// Why a process was spared.
#[derive(Debug, thiserror::Error)]
pub(super) enum Spared {
    /// Init, the driver, or no process number.
    #[error("it is none that may be killed")]
    Forbidden,
    /// It has ended by itself.
    #[error("it has ended")]
    Gone,
    /// Its number has become another's.
    #[error("its number is another process's by now")]
    Another,
    /// It isn't in the pod's cgroup.
    #[error("it is not in the pod's cgroup")]
    NotInPod,
    /// The numbers in procfs aren't those of this process's namespace.
    #[error("process numbers can't be trusted: the driver's pod needs hostPID, and --proc-root the host's procfs")]
    ForeignNumbers,
    /// The kernel refuses.
    #[error("the kernel refuses")]
    Refused(#[source] std::io::Error),
}

/// Kills `victim` of `pod`, of which the GPU was asked at `begun`.
///
/// The process is held by a descriptor before it is looked at: if its number went to another process in between, that
/// one was started after `begun`, and is spared.
pub(super) fn kill(procfs: &Procfs, victim: &Victim, pod: &Pod, begun: Ticks) -> Result<(), Spared> {
    let number = i32::try_from(victim.pid.0).ok().and_then(rustix::process::Pid::from_raw);
    let number = number.filter(|number| !number.is_init() && *number != getpid()).ok_or(Spared::Forbidden)?;
    if !procfs.shares_our_pids() {
        return Err(Spared::ForeignNumbers);
    }
    let process = pidfd_open(number, PidfdFlags::empty()).map_err(refused)?;
    let start = procfs.start(victim.pid).map_err(|_| Spared::Gone)?;
    if start != victim.start || start >= begun {
        return Err(Spared::Another);
    }
    let found = procfs.pod(victim.pid).map_err(|_| Spared::Gone)?;
    if found.is_none_or(|found| found.as_str() != pod.uid) {
        return Err(Spared::NotInPod);
    }
    pidfd_send_signal(&process, Signal::KILL).map_err(refused)
}

fn refused(error: Errno) -> Spared {
    if error == Errno::SRCH { Spared::Gone } else { Spared::Refused(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharing::guard::{
        testing::{FakeProc, Sleeper, gib},
        types::Pid,
    };

    fn pod(uid: &str) -> Pod {
        Pod { namespace: "team".into(), name: "pod".into(), uid: uid.into() }
    }

    fn victim(pid: u32, proc: &FakeProc) -> Victim {
        let pid = Pid(pid);
        Victim { pid, start: proc.procfs().start(pid).unwrap_or(Ticks(1)), used: gib(1) }
    }

    fn later() -> Ticks {
        Ticks(Ticks::now().0 + 1)
    }

    #[test]
    fn a_process_of_the_pod_is_killed() {
        let (proc, mut child) = (FakeProc::new(), Sleeper::start());
        proc.place(child.pid(), "p");
        kill(&proc.procfs(), &victim(child.pid(), &proc), &pod("p"), later()).unwrap();
        assert!(child.was_killed());
    }

    #[test]
    fn any_doubt_spares_the_process() {
        let (proc, mut child) = (FakeProc::new(), Sleeper::start());
        proc.place(child.pid(), "p");
        let one = victim(child.pid(), &proc);
        let other_start = Victim { start: Ticks(one.start.0 - 1), ..one };
        let procfs = proc.procfs();
        assert!(matches!(kill(&procfs, &one, &pod("q"), later()), Err(Spared::NotInPod)));
        assert!(matches!(kill(&procfs, &other_start, &pod("p"), later()), Err(Spared::Another)));
        assert!(matches!(kill(&procfs, &one, &pod("p"), one.start), Err(Spared::Another)), "started at the reading");
        // The driver doesn't see the host's numbers.
        proc.link_self("1");
        assert!(matches!(kill(&procfs, &one, &pod("p"), later()), Err(Spared::ForeignNumbers)));
        assert!(child.is_alive());
    }

    #[test]
    fn init_and_the_driver_itself_are_never_killed() {
        let proc = FakeProc::new();
        for pid in [0, 1, std::process::id(), u32::MAX] {
            proc.place(pid, "p");
            assert!(matches!(kill(&proc.procfs(), &victim(pid, &proc), &pod("p"), later()), Err(Spared::Forbidden)));
        }
    }

    #[test]
    fn a_process_that_has_ended_is_gone() {
        let (proc, mut child) = (FakeProc::new(), Sleeper::start());
        proc.place(child.pid(), "p");
        let one = victim(child.pid(), &proc);
        child.end();
        assert!(matches!(kill(&proc.procfs(), &one, &pod("p"), later()), Err(Spared::Gone)));
    }
}
