//! What happens at a point, and around it: each way ends with a claim that was prepared and unprepared, and nothing left.
use fake_apiserver::{Fault, Trouble};
use fake_nvml::Control;
use kubelet_api::dra::v1::Claim;
use tokio::time::Instant;

use super::{
    beside::{back, stopped, surge},
    check::{self, Kept, Verdict, lost},
    container,
    lives::{Between, Lives, again, drive, is_slow},
    scene::{Scene, set_scene},
    stage::{Answer, Call, LOOK, Stage},
    ways::Way,
};
use crate::testbed::{DRIVER, PATIENCE, files};

/// Goes this way once, with a scene of its own; whether the point was reached.
pub(super) async fn go(stage: &mut Stage, scene: Scene, way: Way, orders: &[String]) -> Verdict<bool> {
    let between = match way {
        Way::Kill => Between::Rival,
        Way::Reboot => Between::Reboot { kept: false },
        Way::RebootKept => Between::Reboot { kept: true },
        _ => Between::Nothing,
    };
    let is_owing = orders.iter().any(|order| is_about_debts(order));
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
            refuse(stage, is_owing)?;
            drive(stage, Call::Unprepare, &claim, &mut lives).await?;
            settle(stage, is_owing, orders, &mut lives).await?;
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
    // One that the claim's calls never met isn't meant for others'.
    stage.order("")?;
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
    if scene != Scene::Machine && !container::start(stage, &set.claim)? {
        return lost("the memory of a container can't be limited");
    }
    litter(stage, scene, &set.claim)?;
    refuse(stage, scene == Scene::Recovery)?;
    drive(stage, Call::Unprepare, &set.claim, &mut none).await?;
    settle(stage, scene == Scene::Recovery, &[], &mut none).await?;
    set.bystander.check()?;
    let passed = std::fs::read(&stage.trace)?;
    drive(stage, Call::Unprepare, &set.bystander.claim, &mut none).await?;
    check::nothing_left(stage, &[])?;
    Ok(std::fs::write(&stage.trace, passed)?)
}

/// The driver begins with its orders, where it doesn't run yet.
fn begin(stage: &mut Stage, scene: Scene, lives: &Lives<'_>) -> Verdict {
    if scene.is_served() {
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
    if container::start(stage, claim)? {
        return lost("the hook was told of a limit by a driver that was to end");
    }
    again(stage, lives).await?;
    stage.registered().await?;
    if !container::start(stage, claim)? {
        return lost("the memory of a container can't be limited");
    }
    Ok(())
}

/// What another instance left half-written is there when the claim is unprepared.
fn litter(stage: &Stage, scene: Scene, claim: &Claim) -> Verdict {
    if scene == Scene::Recovery {
        std::fs::write(stage.records().join(format!(".{}.json.tmp", claim.uid)), "{")?;
        std::fs::write(stage.metadata().join(&claim.uid).join(".share.json.tmp"), "{")?;
        let spec = format!(".{DRIVER}-claim_{}.json.tmp", claim.uid);
        std::fs::write(stage.testbed.node.path("cdi").join(spec), "{")?;
    }
    Ok(())
}

/// Only where a GPU can't be given its time slice back is that written down.
fn is_about_debts(order: &str) -> bool {
    order.starts_with("debt-")
}

/// The GPU's time slice can't be given back.
fn refuse(stage: &Stage, is_owing: bool) -> Verdict {
    if is_owing {
        stage.testbed.node.refuse_time_slices(3)?;
    }
    Ok(())
}

/// It can again, and is, by the driver that couldn't or by the next one; these orders are obeyed by then.
async fn settle(stage: &mut Stage, is_owing: bool, orders: &[String], lives: &mut Lives<'_>) -> Verdict {
    if !is_owing {
        return Ok(());
    }
    stage.testbed.node.allow_time_slices()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if stage.driver.as_mut().is_some_and(|driver| driver.ended().is_ok_and(|status| status.is_some())) {
            again(stage, lives).await?;
        }
        let obeyed = stage.obeyed()?;
        let is_over = lives.ended == lives.orders.len() && orders.iter().all(|order| obeyed.contains(order));
        if is_over && files(&stage.debts())?.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return lost(format!("a time slice is not given back:\n{}", stage.log()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// An error, once or for as long as it lasts: the claim waits, and nothing else happens. Whether the step failed.
async fn fail(stage: &mut Stage, scene: Scene, claim: &Claim, orders: &[String]) -> Verdict<bool> {
    for order in orders {
        if scene.is_served() {
            stage.order(order)?;
        } else {
            stage.kill()?;
            stage.start(order)?;
        }
        for call in [Call::Prepare, Call::Unprepare] {
            if call == Call::Unprepare {
                litter(stage, scene, claim)?;
                refuse(stage, is_about_debts(order))?;
            }
            let mut answer = stage.call(call, claim).await?;
            // That is no answer to the order, which stands until it is obeyed.
            while let Answer::Refused(error) = &answer
                && is_slow(error)
                && !stage.obeyed()?.contains(order)
            {
                answer = stage.call(call, claim).await?;
            }
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
                Answer::Died if !scene.is_served() => {
                    stage.kill()?;
                    stage.start("")?;
                    drive(stage, call, claim, &mut Lives::new(&[], Between::Nothing)).await?;
                }
                other => return lost(format!("{call:?} after the error: {other:?}")),
            }
        }
    }
    let mut none = Lives::new(&[], Between::Nothing);
    settle(stage, orders.iter().any(|order| is_about_debts(order)), orders, &mut none).await?;
    stage.order("")?;
    let obeyed = stage.obeyed()?;
    Ok(orders.iter().all(|order| obeyed.contains(order)))
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
    let trouble = Trouble::Error(503, None);
    stage.testbed.api.inject(Fault {
        verb: "get".into(),
        resource: "resourceclaims".into(),
        times: usize::MAX,
        trouble,
    });
    let told = drive(stage, Call::Prepare, &kept.claim, &mut Lives::new(&[], Between::Nothing)).await;
    stage.testbed.api.heal();
    let ids = told?;
    if ids == kept.ids { Ok(()) } else { lost(format!("the claim that stood by has {ids:?} and had {:?}", kept.ids)) }
}
