//! Claims that come and go in any order while drivers are killed and replaced at any moment.
//!
//! What is done follows from the seed; when it meets a kill, from the machine.
use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use aliquot_driver::fault::Point;
use kubelet_api::dra::v1::Claim;
use tokio::time::Instant;

use super::{
    check::{self, Verdict, Wrong, double, lost},
    stage::{Answer, Call, Instance, Spawner, Stage, one},
};
use crate::{
    random::Random,
    testbed::{DRIVER, NODE_DEVICE, Result},
};

/// Claims at a time.
const AT_ONCE: u64 = 8;
/// The kubelet tries again for as long as there is a pod; here somebody looks at why.
const LONGEST: Duration = Duration::from_secs(40);
/// For how long nothing is written where nothing happens.
const QUIET: Duration = Duration::from_secs(2);
const SHARED: &str = "gpu-0000-1b-00-shared";
const WHOLE: &str = "gpu-0000-43-00";

/// How much happens.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// Where all choices come from.
    pub seed: u64,
    /// How many claims come and go.
    pub claims: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Sum {
    seed: u64,
    /// Claims that came and went.
    pub claims: usize,
    /// Drivers that were killed.
    pub kills: usize,
    /// Drivers that were replaced while they served.
    pub updates: usize,
    /// Calls whose caller went away.
    pub cancelled: usize,
    leaked: usize,
    double: usize,
    lost: usize,
    failures: Vec<String>,
}

impl Sum {
    /// Whether nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.claims > 0
    }

    fn count(&mut self, outcome: Verdict) {
        let Err(error) = outcome else { return };
        match error.downcast_ref::<Wrong>() {
            Some(Wrong::Leaked(_)) => self.leaked += 1,
            Some(Wrong::Double(_)) => self.double += 1,
            Some(Wrong::Lost(_)) | None => self.lost += 1,
        }
        self.failures.push(error.to_string());
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "WRONG: {failure}")?;
        }
        let Self { seed, claims, kills, updates, cancelled, leaked, double, lost, .. } = self;
        writeln!(
            f,
            "seed {seed} claims {claims} kills {kills} updates {updates} cancelled {cancelled} leaked {leaked} double {double} \
             lost {lost}"
        )
    }
}

/// What all claims share.
struct Node<'a> {
    stage: &'a Stage,
    begun: AtomicUsize,
    cancelled: AtomicUsize,
    /// While two instances serve, a call that nobody waits for could end after the next one's.
    is_updating: AtomicBool,
    /// Whether a claim has the whole GPU, as the scheduler sees it.
    whole: AtomicBool,
}

/// Runs all of it on one node.
pub async fn run(churn: Churn) -> Result<Sum> {
    let mut stage = Stage::set().await?;
    stage.start("")?;
    stage.registered().await?;
    let first = stage.driver.take().ok_or("no driver runs")?;
    let spawner = stage.spawner();
    let node = Node {
        stage: &stage,
        begun: AtomicUsize::new(0),
        cancelled: AtomicUsize::new(0),
        is_updating: AtomicBool::new(false),
        whole: AtomicBool::new(false),
    };
    let done = AtomicBool::new(false);
    let claims = async {
        let lanes = (0..AT_ONCE).map(|lane| claims(&node, churn, lane));
        let outcomes = futures::future::join_all(lanes).await;
        done.store(true, Ordering::Relaxed);
        outcomes
    };
    let mut fate = Fate { node: &node, spawner, random: Random(churn.seed), driver: first, kills: 0, updates: 0 };
    let (outcomes, trouble) = tokio::join!(claims, fate.run(&done));
    let mut sum = Sum {
        seed: churn.seed,
        claims: node.begun.load(Ordering::Relaxed).min(churn.claims),
        kills: fate.kills,
        updates: fate.updates,
        cancelled: node.cancelled.load(Ordering::Relaxed),
        ..Sum::default()
    };
    let last = fate.driver;
    outcomes.into_iter().chain([trouble]).for_each(|outcome| sum.count(outcome));
    drop(last);
    let at_rest = rest(&mut stage).await;
    sum.count(at_rest);
    Ok(sum)
}

/// After a last start there is nothing of any claim, and nothing is written.
async fn rest(stage: &mut Stage) -> Verdict {
    stage.start("")?;
    stage.registered().await?;
    check::nothing_left(stage, &[])?;
    // What a start writes may take a while on a busy machine; but it comes to an end.
    stage.testbed.until_ready().await?;
    let deadline = Instant::now() + LONGEST;
    loop {
        let before = stage.testbed.api.writes();
        tokio::time::sleep(QUIET).await;
        if stage.testbed.api.writes() == before {
            break;
        }
        if Instant::now() > deadline {
            return lost(format!("something is written to the API server at rest: {:?}", stage.testbed.api.requests()));
        }
    }
    stage.kill()
}

/// One claim after the other, until there were enough.
async fn claims(node: &Node<'_>, churn: Churn, lane: u64) -> Verdict {
    let mut random = Random(churn.seed ^ (lane + 1) << 32);
    loop {
        let number = node.begun.fetch_add(1, Ordering::Relaxed);
        if number >= churn.claims {
            return Ok(());
        }
        let is_whole = random.below(3) == 0 && !node.whole.swap(true, Ordering::Relaxed);
        let name = format!("churn-{number}");
        let claim = if is_whole {
            node.stage.testbed.allocated(&name, &[("gpu", WHOLE)]).await?
        } else {
            super::stage::share(&node.stage.testbed, &name, SHARED, random.below(4) == 0).await?
        };
        let outcome = life(node, &claim, is_whole, &mut random).await;
        if is_whole {
            node.whole.store(false, Ordering::Relaxed);
        }
        outcome?;
    }
}

/// A claim's life as the kubelet has it.
async fn life(node: &Node<'_>, claim: &Claim, is_whole: bool, random: &mut Random) -> Verdict {
    // A claim may go before it is ever prepared.
    if random.below(20) > 0 {
        let ids = node.call(Call::Prepare, claim, random).await?;
        node.has(claim, &ids)?;
        check::held_once(node.stage)?;
        if is_whole && random.below(25) == 0 {
            let rival = node.stage.testbed.allocated(&format!("rival-of-{}", claim.name), &[("gpu", WHOLE)]).await?;
            if let Ok(Answer::Done(_)) = one(&node.stage.client()?, Call::Prepare, &rival).await {
                return double(format!("{} was given a GPU that {} holds", rival.name, claim.name));
            }
            node.call(Call::Unprepare, &rival, random).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        if random.below(3) == 0 {
            let again = node.call(Call::Prepare, claim, random).await?;
            if again != ids {
                return lost(format!("{} had {ids:?} and has {again:?}", claim.name));
            }
        }
        node.has(claim, &ids)?;
    }
    node.call(Call::Unprepare, claim, random).await?;
    if random.below(4) == 0 {
        node.call(Call::Unprepare, claim, random).await?;
    }
    Ok(())
}

impl Node<'_> {
    /// Calls until it is done, as the kubelet does; now and then twice at once, or first for nobody.
    async fn call(&self, call: Call, claim: &Claim, random: &mut Random) -> Verdict<Vec<String>> {
        if random.below(8) == 0 && !self.is_updating.load(Ordering::Relaxed) {
            self.cancelled.fetch_add(1, Ordering::Relaxed);
            let patience = Duration::from_micros(random.below(8000));
            if let Ok(client) = self.stage.client() {
                let _ = tokio::time::timeout(patience, one(&client, call, claim)).await;
            }
        }
        let is_double = random.below(8) == 0;
        let deadline = Instant::now() + LONGEST;
        loop {
            let answer = match self.stage.client() {
                Ok(client) if is_double => {
                    let (one, other) = tokio::join!(one(&client, call, claim), one(&client, call, claim));
                    one.and(other)
                }
                Ok(client) => one(&client, call, claim).await,
                Err(error) => Err(error),
            };
            if let Ok(Answer::Done(ids)) = answer {
                return Ok(ids);
            }
            if Instant::now() > deadline {
                return lost(format!("{call:?} of {} is never done: {answer:?}", claim.name));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything that its containers were promised is there.
    fn has(&self, claim: &Claim, ids: &[String]) -> Verdict {
        let own: Vec<String> = ids.iter().filter(|id| *id != NODE_DEVICE).cloned().collect();
        let file = format!("{DRIVER}-claim_{}.json", claim.uid);
        let spec = std::fs::read_to_string(self.stage.testbed.node.path("cdi").join(file)).unwrap_or_default();
        let is_there = |id: &String| id.split_once('=').is_some_and(|(_, name)| spec.contains(name));
        if own.is_empty() || !own.iter().all(is_there) {
            return lost(format!("{} has no spec for {own:?}: {spec:?}", claim.name));
        }
        let record = self.stage.records().join(format!("{}.json", claim.uid));
        if !std::fs::read_to_string(record).unwrap_or_default().contains("\"prepared\"") {
            return lost(format!("{} has no record", claim.name));
        }
        Ok(())
    }
}

/// What befalls drivers.
struct Fate<'a> {
    node: &'a Node<'a>,
    spawner: Spawner,
    random: Random,
    driver: Instance,
    kills: usize,
    updates: usize,
}

impl Fate<'_> {
    async fn run(&mut self, done: &AtomicBool) -> Verdict {
        while !done.load(Ordering::Relaxed) {
            self.pause(100, 500).await;
            match self.random.below(4) {
                0 => self.kill_at_a_point().await?,
                1 => self.update().await?,
                2 => {
                    self.kill()?;
                    self.pause(0, 150).await;
                    self.kill()?;
                }
                _ => self.kill()?,
            }
        }
        Ok(())
    }

    async fn pause(&mut self, least: u64, more: u64) {
        tokio::time::sleep(Duration::from_millis(least + self.random.below(more))).await;
    }

    fn kill(&mut self) -> Verdict {
        self.driver.kill()?;
        self.kills += 1;
        self.driver = self.spawner.instance("", None)?;
        Ok(())
    }

    async fn kill_at_a_point(&mut self) -> Verdict {
        let at = usize::try_from(self.random.below(u64::try_from(Point::ALL.len())?))?;
        let name = Point::ALL.get(at).map_or("", |point| point.name());
        self.driver.order(&format!("{name}=kill@{}", 1 + self.random.below(3)))?;
        let deadline = Instant::now() + Duration::from_millis(300);
        while self.driver.ended()?.is_none() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.kill()
    }

    /// A new instance serves before the old one is ended, one way or the other.
    async fn update(&mut self) -> Verdict {
        self.node.is_updating.store(true, Ordering::Relaxed);
        let uid = uuid::Uuid::new_v4().to_string();
        let new = self.spawner.instance("", Some(&uid))?;
        self.pause(200, 600).await;
        let mut old = std::mem::replace(&mut self.driver, new);
        if self.random.below(2) == 0 {
            old.terminate().await?;
        } else {
            old.kill()?;
            self.kills += 1;
        }
        self.updates += 1;
        self.node.is_updating.store(false, Ordering::Relaxed);
        Ok(())
    }
}
