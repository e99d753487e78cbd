//! What happens at a point, and around it: each way ends with a claim that was prepared and unprepared, and nothing left.
use std::time::Duration;

use fake_apiserver::{Fault, Trouble};
use fake_nvml::Control;
use kubelet_api::dra::v1::Claim;

use super::{
    check::{self, Kept, Verdict, lost},
    scene::{self, Scene, set_scene},
    stage::{Answer, Call, SPENT, Stage, one},
};
use crate::testbed::{DRIVER, PATIENCE};

/// One way for things to go wrong at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Killed once.
    Kill,
    /// Killed in a call that is never repeated; the next is an unprepare.
    Abandon,
    /// Killed at this point and then at another.
    Pair,
    /// The step fails with ENOSPC, once and then always until the error goes away.
    Full,
    /// The same with EIO.
    Broken,
    /// The same with EROFS.
    ReadOnly,
    /// Killed, and the node is rebooted.
    Reboot,
    /// The same, where the records' directory outlives the boot.
    RebootKept,
    /// Killed while a newer instance serves already.
    Surge,
    /// Stopped while a newer instance serves, and let go on later.
    Stopped,
    /// Killed, and the API server is away when the driver is back.
    NoApi,
    /// Killed, and NVML hangs when the driver is back.
    NvmlHangs,
}

impl Way {
    /// All of them, in the table's order.
    pub const ALL: [Self; 12] = [
        Self::Kill,
        Self::Abandon,
        Self::Pair,
        Self::Full,
        Self::Broken,
        Self::ReadOnly,
        Self::Reboot,
        Self::RebootKept,
        Self::Surge,
        Self::Stopped,
        Self::NoApi,
        Self::NvmlHangs,
    ];

    /// The column's head.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Abandon => "abandon",
            Self::Pair => "pair",
            Self::Full => "ENOSPC",
            Self::Broken => "EIO",
            Self::ReadOnly => "EROFS",
            Self::Reboot => "reboot",
            Self::RebootKept => "kept",
            Self::Surge => "surge",
            Self::Stopped => "stopped",
            Self::NoApi => "no-API",
            Self::NvmlHangs => "NVML",
        }
    }
}

/// What is done with a node between two lives of its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    Rival,
    Reboot { kept: bool },
}

/// The lives of a driver that are still to end.
struct Lives<'a> {
    orders: &'a [String],
    between: Between,
    /// How many have ended.
    ended: usize,
}

impl<'a> Lives<'a> {
    fn new(orders: &'a [String], between: Between) -> Self {
        Self { orders, between, ended: 0 }
    }

    fn order(&self) -> &str {
        self.orders.get(self.ended).map_or("", String::as_str)
    }
}

/// Calls until it is done, starting the driver anew when it ends.
async fn drive(stage: &mut Stage, call: Call, claim: &Claim, lives: &mut Lives<'_>) -> Verdict<Vec<String>> {
    loop {
        match stage.call(call, claim).await? {
            Answer::Done(ids) => return Ok(ids),
            Answer::Refused(error) if is_slow(&error) => {}
            Answer::Refused(error) => return lost(format!("{call:?} was refused: {error}")),
            Answer::Died => again(stage, lives).await?,
        }
    }
}

/// On a machine that is busy the driver's short time is spent on nvidia-smi; the kubelet tries again.
fn is_slow(error: &str) -> bool {
    error.contains("are not set yet; the kubelet tries again")
}

async fn again(stage: &mut Stage, lives: &mut Lives<'_>) -> Verdict {
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
    if kept {
        for (place, aside) in &places {
            std::fs::remove_dir_all(place)?;
            std::fs::rename(aside, place)?;
        }
    }
    Ok(())
}

/// Goes this way once, with a scene of its own; whether the point was reached.
pub(super) async fn go(stage: &mut Stage, scene: Scene, way: Way, orders: &[String]) -> Verdict<bool> {
    let between = match way {
        Way::Kill => Between::Rival,
        Way::Reboot => Between::Reboot { kept: false },
        Way::RebootKept => Between::Reboot { kept: true },
        _ => Between::Nothing,
    };
    let set = set_scene(stage, scene).await?;
    let kept = (!matches!(between, Between::Reboot { .. })).then_some(&set.bystander);
    let mut lives = Lives::new(orders, between);
    let claim = set.claim.clone();
    let reached = match way {
        Way::Kill | Way::Pair | Way::Reboot | Way::RebootKept => {
            begin(stage, scene, &lives)?;
            let ids = drive(stage, Call::Prepare, &claim, &mut lives).await?;
            twice(stage, &claim, &ids, &mut lives).await?;
            contain(stage, &claim, &mut lives).await?;
            litter(stage, scene, &claim)?;
            drive(stage, Call::Unprepare, &claim, &mut lives).await?;
            lives.ended == orders.len()
        }
        Way::Abandon => {
            begin(stage, scene, &lives)?;
            if stage.call(Call::Prepare, &claim).await? == Answer::Died {
                again(stage, &mut lives).await?;
            }
            drive(stage, Call::Unprepare, &claim, &mut lives).await?;
            lives.ended == orders.len()
        }
        Way::Full | Way::Broken | Way::ReadOnly => fail(stage, scene, &claim, orders).await?,
        Way::Surge => surge(stage, &claim, orders).await?,
        Way::Stopped => stopped(stage, &claim, orders).await?,
        Way::NoApi | Way::NvmlHangs => without(stage, scene, way, &claim, &mut lives).await?,
    };
    if let Some(kept) = kept {
        kept.check()?;
        check::nothing_left(stage, &[&kept.claim])?;
        still_recalled(stage, kept).await?;
        drive(stage, Call::Unprepare, &kept.claim, &mut Lives::new(&[], Between::Nothing)).await?;
    }
    check::nothing_left(stage, &[])?;
    Ok(reached)
}

/// The whole way of a claim without anything that goes wrong.
pub(super) async fn rehearse(stage: &mut Stage, scene: Scene) -> Verdict {
    let set = set_scene(stage, scene).await?;
    let mut none = Lives::new(&[], Between::Nothing);
    begin(stage, scene, &none)?;
    drive(stage, Call::Prepare, &set.claim, &mut none).await?;
    if !super::container::start(stage, &set.claim)? {
        return lost("the memory of a container can't be limited");
    }
    litter(stage, scene, &set.claim)?;
    drive(stage, Call::Unprepare, &set.claim, &mut none).await?;
    set.bystander.check()?;
    let passed = std::fs::read(&stage.trace)?;
    drive(stage, Call::Unprepare, &set.bystander.claim, &mut none).await?;
    check::nothing_left(stage, &[])?;
    Ok(std::fs::write(&stage.trace, passed)?)
}

/// The driver begins with its orders, where it doesn't run yet.
fn begin(stage: &mut Stage, scene: Scene, lives: &Lives<'_>) -> Verdict {
    if scene == Scene::Claim {
        stage.order(lives.order())?;
    } else {
        stage.start(lives.order())?;
    }
    Ok(())
}

/// Prepared again the claim gets the same, and all of it is there.
async fn twice(stage: &mut Stage, claim: &Claim, ids: &[String], lives: &mut Lives<'_>) -> Verdict {
    let again = drive(stage, Call::Prepare, claim, lives).await?;
    if again != ids {
        return lost(format!("{ids:?} when it was prepared, and {again:?} when it was prepared again"));
    }
    if !matches!(lives.between, Between::Reboot { .. }) {
        check::is_given(stage, ids)?;
    }
    check::held_once(stage)
}

/// A container starts, whose memory is limited; one whose start fails is made anew.
async fn contain(stage: &mut Stage, claim: &Claim, lives: &mut Lives<'_>) -> Verdict {
    if !lives.order().starts_with("limit-set") {
        return Ok(());
    }
    if super::container::start(stage, claim)? {
        return lost("the hook was told of a limit by a driver that was to end");
    }
    again(stage, lives).await?;
    stage.registered().await?;
    if !super::container::start(stage, claim)? {
        return lost("the memory of a container can't be limited");
    }
    Ok(())
}

/// What another instance left half-written is there when the claim is unprepared.
fn litter(stage: &Stage, scene: Scene, claim: &Claim) -> Verdict {
    if scene == Scene::Recovery {
        std::fs::write(stage.records().join(format!(".{}.json.tmp", claim.uid)), "{")?;
        let spec = format!(".{DRIVER}-claim_{}.json.tmp", claim.uid);
        std::fs::write(stage.testbed.node.path("cdi").join(spec), "{")?;
    }
    Ok(())
}

/// An error once, and then for as long as it lasts: the claim waits, and nothing else happens.
async fn fail(stage: &mut Stage, scene: Scene, claim: &Claim, orders: &[String]) -> Verdict<bool> {
    for order in orders {
        if scene == Scene::Claim {
            stage.order(order)?;
        } else {
            stage.kill()?;
            stage.start(order)?;
        }
        for call in [Call::Prepare, Call::Unprepare] {
            if call == Call::Unprepare {
                litter(stage, scene, claim)?;
            }
            let mut answer = stage.call(call, claim).await?;
            if let Answer::Refused(error) = &answer {
                if !error.contains("os error") && !is_slow(error) {
                    return lost(format!("the error doesn't say what the system said: {error}"));
                }
                check::held_once(stage)?;
                stage.order("")?;
                answer = stage.call(call, claim).await?;
            }
            match answer {
                Answer::Done(ids) if call == Call::Prepare => check::is_given(stage, &ids)?,
                Answer::Done(_) => {}
                // It may end at its start, and is started anew.
                Answer::Died if scene != Scene::Claim => {
                    stage.kill()?;
                    stage.start("")?;
                    drive(stage, call, claim, &mut Lives::new(&[], Between::Nothing)).await?;
                }
                other => return lost(format!("{call:?} after the error: {other:?}")),
            }
        }
    }
    stage.order("")?;
    let points = stage.passed()?;
    Ok(orders.iter().all(|order| points.iter().any(|point| order.starts_with(point))))
}

/// The old instance is called, and dies, while a new one serves.
async fn surge(stage: &mut Stage, claim: &Claim, orders: &[String]) -> Verdict<bool> {
    let mut lives = Lives::new(&[], Between::Nothing);
    let mut old = replace(stage, orders.first().map_or("", String::as_str)).await?;
    let (mut client, mut reached) = (old.1, false);
    for call in [Call::Prepare, Call::Unprepare] {
        let answer = one(&client, call, claim).await;
        if answer.is_err() && old.0.stopped().await? {
            return lost("a driver that was to die is stopped");
        }
        reached |= answer.is_err();
        // Whatever came of it, the kubelet asks the new one.
        let ids = drive(stage, call, claim, &mut lives).await?;
        if call == Call::Prepare {
            check::is_given(stage, &ids)?;
            check::held_once(stage)?;
        }
        if reached {
            client = stage.client()?;
        }
    }
    old.0.kill()?;
    back(stage).await?;
    Ok(reached)
}

/// The old instance stands still in a call while a new one serves, and goes on when the kubelet has its answer.
async fn stopped(stage: &mut Stage, claim: &Claim, orders: &[String]) -> Verdict<bool> {
    let mut lives = Lives::new(&[], Between::Nothing);
    let (mut old, client) = replace(stage, orders.first().map_or("", String::as_str)).await?;
    let mut reached = false;
    for call in [Call::Prepare, Call::Unprepare] {
        let (theirs, asked) = (client.clone(), claim.clone());
        let mut late = tokio::spawn(async move { one(&theirs, call, &asked).await });
        let is_stopped = tokio::select! {
            answer = &mut late => { answer??; false }
            stopped = old.stopped() => stopped?,
        };
        if is_stopped {
            reached = true;
            let spent = tokio::time::Instant::now() + SPENT;
            // One that holds the lock keeps the others waiting.
            let answer = stage.call(call, claim).await?;
            // What it does from then on is its last word.
            tokio::time::sleep_until(spent).await;
            old.go_on()?;
            let late = tokio::time::timeout(PATIENCE, late).await???;
            if call == Call::Prepare
                && let (Answer::Done(ours), Answer::Done(theirs)) = (&answer, &late)
                && ours != theirs
            {
                return lost(format!("two instances gave {ours:?} and {theirs:?}"));
            }
            if let Answer::Refused(error) = &answer
                && !error.contains("is it stopped?")
            {
                return lost(format!("{call:?} beside a stopped instance: {error}"));
            }
            if call == Call::Prepare
                && let Answer::Done(ids) = &answer
            {
                // What the kubelet was told must still be so.
                check::is_given(stage, ids)?;
            }
        }
        let ids = drive(stage, call, claim, &mut lives).await?;
        if call == Call::Prepare {
            check::is_given(stage, &ids)?;
        }
        check::held_once(stage)?;
    }
    old.kill()?;
    back(stage).await?;
    Ok(reached)
}

/// An instance with these orders, and its client; a newer one serves.
async fn replace(stage: &mut Stage, orders: &str) -> Verdict<(super::stage::Instance, fake_kubelet::Driver)> {
    stage.kill()?;
    let old = stage.instance("", Some("11111111-aaaa"))?;
    stage.driver = Some(old);
    stage.registered().await?;
    let client = stage.client()?;
    let new = stage.instance("", Some("22222222-bbbb"))?;
    let Some(old) = stage.driver.replace(new) else { return Err("no driver runs".into()) };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while stage.client()?.endpoint == client.endpoint {
        if tokio::time::Instant::now() > deadline {
            return Err("the new instance does not register".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A claim of the new one's own: by then it has read the GPUs, and restored what was missing.
    let (first, mut none) = (stage.rival().await?, Lives::new(&[], Between::Nothing));
    drive(stage, Call::Prepare, &first, &mut none).await?;
    drive(stage, Call::Unprepare, &first, &mut none).await?;
    scene::without_node_spec(stage)?;
    old.order(orders)?;
    Ok((old, client))
}

/// One instance serves again, by the name that it has in other scenes.
async fn back(stage: &mut Stage) -> Verdict {
    stage.kill()?;
    stage.start("")?;
    stage.registered().await?;
    Ok(())
}

/// Killed; what the next life needs isn't there.
async fn without(stage: &mut Stage, scene: Scene, way: Way, claim: &Claim, lives: &mut Lives<'_>) -> Verdict<bool> {
    begin(stage, scene, lives)?;
    let mut died = stage.call(Call::Prepare, claim).await? == Answer::Died;
    if !died {
        litter(stage, scene, claim)?;
        died = stage.call(Call::Unprepare, claim).await? == Answer::Died;
    }
    stage.kill()?;
    let prepared = stage
        .testbed
        .told_by_records()?
        .iter()
        .any(|record| record["claim"]["uid"] == claim.uid.as_str() && record["state"] == "prepared");
    let has_specs = check::has_specs(stage, claim)?;
    if way == Way::NoApi {
        let trouble = Trouble::Error(503, None);
        stage.testbed.api.inject(Fault { verb: String::new(), resource: String::new(), times: usize::MAX, trouble });
    } else {
        let hang = [("nvmlInit_v2".to_owned(), 60_000)].into();
        stage.testbed.node.control(&Control { hang, ..Control::default() })?;
    }
    stage.start("")?;
    // With a reading of the GPUs a missing spec is written anew; without one it must be there.
    let must = prepared && (has_specs || way == Way::NoApi);
    match stage.call(Call::Prepare, claim).await? {
        Answer::Done(ids) => check::is_given(stage, &ids)?,
        Answer::Refused(error) if must => return lost(format!("a prepared claim needs more: {error}")),
        Answer::Refused(_) => {}
        Answer::Died => return lost("the driver ended"),
    }
    drive(stage, Call::Unprepare, claim, &mut Lives::new(&[], Between::Nothing)).await?;
    stage.testbed.api.heal();
    stage.testbed.node.control(&Control::default())?;
    if way == Way::NvmlHangs {
        // The call that hangs keeps its thread.
        back(stage).await?;
    }
    let mut none = Lives::new(&[], Between::Nothing);
    drive(stage, Call::Prepare, claim, &mut none).await?;
    drive(stage, Call::Unprepare, claim, &mut none).await?;
    Ok(died)
}

/// A claim that stood by is told as it was, without the API server.
async fn still_recalled(stage: &mut Stage, kept: &Kept) -> Verdict {
    let before = stage.testbed.api.requests();
    let ids = drive(stage, Call::Prepare, &kept.claim, &mut Lives::new(&[], Between::Nothing)).await?;
    let gets = |all: &std::collections::BTreeMap<(String, String), usize>| {
        all.get(&("get".to_owned(), "resourceclaims".to_owned())).copied()
    };
    if ids != kept.ids {
        return lost(format!("the claim that stood by has {ids:?} and had {:?}", kept.ids));
    }
    if gets(&before) != gets(&stage.testbed.api.requests()) {
        return lost("the API server was asked for a claim that is prepared");
    }
    Ok(())
}
