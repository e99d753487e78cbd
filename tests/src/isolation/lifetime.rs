//! A pod from its first container to its last: init containers, restartable and ephemeral ones, and restarts.
use super::{
    Tally,
    kinds::{Asks, Kind},
    seen::Own,
    stage::{How, Scene},
};
use crate::{
    runtime::{Pod, Runtime},
    testbed::Result,
};

/// A pod that grows, each container of which is looked at when it is there.
pub(super) struct Life<'a> {
    pub(super) scene: &'a Scene<'a>,
    /// Which one, for what is told.
    pub(super) title: String,
    pub(super) pod: Pod,
    pub(super) tally: &'a mut Tally,
}

impl Life<'_> {
    /// Starts a container and looks at it.
    pub(super) async fn start(&mut self, kind: Kind, name: &str, asks: &Asks<'_>) -> Result<()> {
        self.pod.start(&asks.sent(name)).await?;
        self.look(kind, name, asks).await
    }

    /// Looks at a container that runs.
    pub(super) async fn look(&mut self, kind: Kind, name: &str, asks: &Asks<'_>) -> Result<()> {
        let what = format!("{name} of {}", self.title);
        self.scene.judge_as(kind, &self.pod, name, &what, &asks.own(), self.tally).await
    }

    /// Starts an init container, looks at it, and ends it, so that the next one may start.
    pub(super) async fn init(&mut self, name: &str, asks: &Asks<'_>) -> Result<()> {
        self.start(Kind::Init, name, asks).await?;
        Ok(self.pod.end(name).await?)
    }

    /// Ends a container and starts it again by the same names, which nobody has prepared again.
    async fn restart(&mut self, name: &str, asks: &Asks<'_>) -> Result<()> {
        self.pod.end(name).await?;
        self.start(Kind::Restarted, name, asks).await
    }

    /// Tries to open the target's devices in its root file system, from a container that sees its processes; and from the
    /// target itself, where it must come to something.
    async fn reach_through(&mut self, from: &str, target: &str, own: &Own) -> Result<()> {
        for (line, answer) in self.answers(target, own).await? {
            if answer != Answer::Opened {
                self.tally.fault(format_args!("whether {from} is refused wouldn't show: {line} ({target} itself)"));
            }
        }
        for (line, answer) in self.answers(from, own).await? {
            match answer {
                Answer::Refused => self.tally.attempt(line, false),
                Answer::Opened => self.tally.attempt(format_args!("{line} ({from}, by /proc)"), true),
                Answer::Lost => self.tally.fault(format_args!("{from} can't try: {line}")),
            }
        }
        Ok(())
    }

    /// What is said in a container of each device in the root file system of the first process that it sees.
    async fn answers(&self, from: &str, own: &Own) -> Result<Vec<(String, Answer)>> {
        let paths: Vec<&str> = own.nodes.keys().map(String::as_str).collect();
        let script = format!("for n in {}; do cat /proc/1/root$n; done", paths.join(" "));
        let told = self.pod.exec(from, &["sh", "-c", &script]).await?;
        if told.stderr.lines().count() != paths.len() {
            return Err(format!("{from} was to try {} devices, and says: {told:?}", paths.len()).into());
        }
        Ok(told.stderr.lines().map(|line| (line.to_owned(), Answer::of(line))).collect())
    }
}

/// What `cat` says of a device.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The kernel let nobody in.
    Refused,
    /// It has asked for a driver.
    Opened,
    /// It has not come so far.
    Lost,
}

impl Answer {
    fn of(line: &str) -> Self {
        match line.rsplit(": ").next().unwrap_or_default() {
            "Operation not permitted" | "Permission denied" => Self::Refused,
            "No such file or directory" => Self::Lost,
            _ => Self::Opened,
        }
    }
}

pub(super) async fn run(scene: &Scene<'_>, runtime: Runtime, tally: &mut Tally) -> Result<()> {
    let before = (tally.attempts, tally.containers);
    let first = scene.hold(How::Whole, &[0]).await?;
    let second = scene.hold(How::Share, &[1]).await?;
    let (none, a, b, both) =
        (Asks::Claims(&[]), Asks::Claims(&[&first]), Asks::Claims(&[&second]), Asks::Claims(&[&first, &second]));
    let pod = scene.run("lifetime", runtime, vec![]).await?;
    let mut life = Life { scene, title: "the pod of all kinds".to_owned(), pod, tally };
    life.init("init-own", &a).await?;
    life.init("init-bare", &none).await?;
    life.start(Kind::Restartable, "sidecar", &b).await?;
    life.init("init-late", &both).await?;
    life.start(Kind::Restartable, "sidecar-bare", &none).await?;
    life.start(Kind::Regular, "main", &both).await?;
    life.start(Kind::Regular, "bare", &none).await?;
    life.start(Kind::Ephemeral, "debug", &Asks::Ephemeral { target: "main" }).await?;
    life.reach_through("debug", "main", &both.own()).await?;
    // Whatever came and went, each has what it had.
    life.restart("main", &both).await?;
    life.restart("bare", &none).await?;
    life.restart("sidecar", &b).await?;
    life.look(Kind::Restartable, "sidecar-bare", &none).await?;
    life.pod.remove().await?;
    for held in [first, second] {
        scene.release(&held).await?;
    }
    let (attempts, containers) = (tally.attempts - before.0, tally.containers - before.1);
    tally.note(format_args!(
        "init, restartable, ephemeral and restarted: {attempts} attempts in {containers} containers"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_refuses_is_refused() {
        let said = |why: &str| Answer::of(&format!("cat: can't open '/proc/1/root/dev/nvidia0': {why}"));
        assert_eq!(said("Operation not permitted"), Answer::Refused);
        assert_eq!(said("No such device or address"), Answer::Opened);
        assert_eq!(said("No such file or directory"), Answer::Lost);
    }
}
