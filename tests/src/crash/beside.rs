//! Two instances side by side: the older one dies or stands still in a call, and the newer one serves.
use std::time::Duration;

use kubelet_api::dra::v1::Claim;

use super::{
    check::{self, Verdict, lost},
    lives::{Between, Lives, drive},
    scene,
    stage::{Answer, Call, Instance, SPENT, Stage, one},
};
use crate::testbed::PATIENCE;

/// The old instance is called, and dies, while a new one serves.
pub(super) async fn surge(stage: &mut Stage, claim: &Claim, orders: &[String]) -> Verdict<bool> {
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
pub(super) async fn stopped(stage: &mut Stage, claim: &Claim, orders: &[String]) -> Verdict<bool> {
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
async fn replace(stage: &mut Stage, orders: &str) -> Verdict<(Instance, fake_kubelet::Driver)> {
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
pub(super) async fn back(stage: &mut Stage) -> Verdict {
    stage.kill()?;
    stage.start("")?;
    stage.registered().await?;
    Ok(())
}
