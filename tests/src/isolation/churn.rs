//! Pods that come and go with claims of all kinds, each container of which is looked at.
use std::time::{Duration, Instant};

use super::{
    Tally,
    kinds::{Asks, Kind},
    lifetime::Life,
    stage::{How, Scene},
};
use crate::{random::Random, runtime::Runtime, testbed::Result};

/// Pods at one time, each with GPUs of its own.
const AT_ONCE: usize = 4;

pub(super) async fn run(
    scene: &Scene<'_>,
    runtime: Runtime,
    pods: usize,
    time: Duration,
    tally: &mut Tally,
) -> Result<()> {
    let begun = Instant::now();
    let before = (tally.attempts, tally.containers, tally.faults.len());
    let lane = |lane: usize| async move {
        let mut tally = Tally::default();
        let mut random = Random(u64::try_from(lane)?);
        let mut number = lane;
        while number < pods || begun.elapsed() < time {
            one(scene, runtime, lane, number, &mut random, &mut tally).await?;
            number += AT_ONCE;
        }
        Result::Ok((tally, number.saturating_sub(lane) / AT_ONCE))
    };
    let mut count = 0;
    for result in futures::future::join_all((0..AT_ONCE).map(lane)).await {
        let (lane, pods) = result?;
        tally.add(lane);
        count += pods;
    }
    let (attempts, containers) = (tally.attempts - before.0, tally.containers - before.1);
    let (odd, seconds) = (tally.faults.len() - before.2, begun.elapsed().as_secs());
    tally.note(format_args!(
        "{count} pods that came and went within {seconds} s: {attempts} attempts in {containers} containers, {odd} of them \
         with a device too many or too few"
    ));
    Ok(())
}

/// One pod's life, with a container that has no claim beside the one that has, and in some pods others before and after.
async fn one(
    scene: &Scene<'_>,
    runtime: Runtime,
    lane: usize,
    number: usize,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<()> {
    let each = scene.gpus() / AT_ONCE;
    let all: Vec<usize> = (lane * each..(lane + 1) * each).collect();
    let one = usize::try_from(random.below(u64::try_from(all.len())?))?;
    let places = if random.below(2) == 0 { all.clone() } else { all.get(one).copied().into_iter().collect() };
    let how = if random.below(2) == 0 { How::Whole } else { How::Share };
    let held = scene.hold(how, &places).await?;
    let pod = scene.run(&format!("pod-{number}"), runtime, vec![]).await?;
    let (own, none) = (Asks::Claims(&[&held]), Asks::Claims(&[]));
    let mut life = Life { scene, title: format!("pod-{number} ({how:?} of {places:?})"), pod, tally };
    if random.below(4) == 0 {
        life.init("init", if random.below(2) == 0 { &own } else { &none }).await?;
    }
    life.start(Kind::Regular, "own", &own).await?;
    life.start(Kind::Regular, "bare", &none).await?;
    if random.below(4) == 0 {
        life.start(Kind::Ephemeral, "debug", &Asks::Ephemeral { target: "own" }).await?;
    }
    life.pod.remove().await?;
    scene.release(&held).await
}
