//! One driver after the other, each of which may end where it was ordered to, and calls that go on over their lives.
use kubelet_api::dra::v1::Claim;

use super::{
    check::{self, Verdict, lost},
    stage::{Answer, Call, Stage},
};

/// What is done with a node between two lives of its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    Nothing,
    Rival,
    Reboot { kept: bool },
}

/// The lives of a driver that are still to end.
pub(super) struct Lives<'a> {
    pub(super) orders: &'a [String],
    pub(super) between: Between,
    /// How many have ended.
    pub(super) ended: usize,
}

impl<'a> Lives<'a> {
    pub(super) fn new(orders: &'a [String], between: Between) -> Self {
        Self { orders, between, ended: 0 }
    }

    pub(super) fn order(&self) -> &str {
        self.orders.get(self.ended).map_or("", String::as_str)
    }
}

/// Calls until it is done, starting the driver anew when it ends.
pub(super) async fn drive(stage: &mut Stage, call: Call, claim: &Claim, lives: &mut Lives<'_>) -> Verdict<Vec<String>> {
    loop {
        match stage.call(call, claim).await? {
            Answer::Done(ids) => return Ok(ids),
            Answer::Refused(error) if is_slow(&error) => {}
            Answer::Refused(error) => return lost(format!("{call:?} was refused: {error}")),
            Answer::Died => again(stage, lives).await?,
        }
    }
}

/// On a machine that is busy the driver's short time is spent on nvidia-smi, NVML or the kernel; the kubelet tries again.
pub(super) fn is_slow(error: &str) -> bool {
    let slow = [
        "are not set yet; the kubelet tries again",
        "that goes on, and the kubelet tries again",
        "it goes on, and the next try",
    ];
    slow.iter().any(|slow| error.contains(slow))
}

pub(super) async fn again(stage: &mut Stage, lives: &mut Lives<'_>) -> Verdict {
    if lives.ended == lives.orders.len() {
        return lost(format!("the driver ended without an order:\n{}", stage.log()));
    }
    stage.kill()?;
    lives.ended += 1;
    if let Between::Reboot { kept } = lives.between {
        reboot(stage, kept)?;
    }
    let order = lives.order().to_owned();
    stage.start(&order)?;
    if lives.between == Between::Rival && order.is_empty() {
        check::rival_is_kept_out(stage).await?;
    }
    Ok(())
}

/// Another boot; where `kept`, what is below /run and in the CDI directory outlives it.
fn reboot(stage: &Stage, kept: bool) -> Verdict {
    let node = &stage.testbed.node;
    let places = ["run", "cdi"].map(|dir| (node.path(dir), node.path(&format!("{dir}-kept"))));
    if kept {
        for (place, aside) in &places {
            std::fs::rename(place, aside)?;
            std::fs::create_dir(place)?;
        }
    }
    node.reboot()?;
    stage.kernel.reboot()?;
    if kept {
        for (place, aside) in &places {
            std::fs::remove_dir_all(place)?;
            std::fs::rename(aside, place)?;
        }
    }
    Ok(())
}
