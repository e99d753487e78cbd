//! The crash matrix: the driver is ended, stopped or failed at each point where it changes something, in each way.
//!
//! ```text
//! scene set ─> a run without orders, traced ─> passages ─┬─> × way ─> go ─> what must hold (check) ─> tally
//! (start, recovery, claim)                               └─> × passages
//! ```
//! Which points a scene passes, and how often, is what the driver says itself; a point that no scene passes is a failure.
mod beside;
mod check;
mod churn;
mod container;
pub mod disk;
mod go;
mod lives;
mod scene;
mod stage;
mod tally;
mod ways;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use aliquot_driver::fault::{Kind, Point};

pub use self::{
    churn::{Churn, Sum, run as churn},
    scene::Scene,
    tally::Tally,
    ways::Way,
};
use self::{
    go::{go, rehearse},
    stage::Stage,
};
use crate::testbed::Result;

/// Passed where a group changes its drivers.
const SWITCHING: [Point; 7] = [
    Point::BindLocked,
    Point::BindOverridden,
    Point::BindUnbound,
    Point::BindProbed,
    Point::ReturnUnbound,
    Point::ReturnCleared,
    Point::ReturnBound,
];

/// What is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// At which points; a run that names some need not reach the others.
    pub points: Vec<Point>,
    /// In which ways.
    pub ways: Vec<Way>,
    /// Each pair of points, or each point with itself.
    pub all_pairs: bool,
    /// Nodes at a time.
    pub lanes: usize,
}

impl Plan {
    /// Everything.
    pub fn everything() -> Self {
        Self { points: Point::ALL.to_vec(), ways: Way::ALL.to_vec(), all_pairs: true, lanes: 4 }
    }

    /// Each point once, killed.
    pub fn short() -> Self {
        Self { ways: vec![Way::Kill], all_pairs: false, ..Self::everything() }
    }
}

/// The `number`th time that a scene passes a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Passage {
    scene: Scene,
    point: Point,
    number: usize,
}

impl Passage {
    fn order(self, action: &str) -> String {
        format!("{}={action}@{}", self.point.name(), self.number)
    }
}

/// One run.
#[derive(Debug, Clone)]
struct Case {
    passage: Passage,
    way: Way,
    orders: Vec<String>,
}

impl Case {
    fn text(&self) -> String {
        format!("{} in scene {:?}, {}", self.way.name(), self.passage.scene, self.orders.join(" then "))
    }
}

/// Runs all of it.
pub async fn run(plan: &Plan) -> Result<Tally> {
    let passages = passages().await?;
    let cases = Mutex::new(cases(plan, &passages));
    let tally = Mutex::new(Tally::default());
    let lanes = (0..plan.lanes).map(|_| lane(&cases, &tally));
    for done in futures::future::join_all(lanes).await {
        done?;
    }
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    if plan.ways.contains(&Way::Kill) {
        tally.demand(&plan.points);
    }
    Ok(tally)
}

/// One node after the other case; after a failure a fresh one.
async fn lane(cases: &Mutex<VecDeque<Case>>, tally: &Mutex<Tally>) -> Result<()> {
    let mut stage = Stage::set().await?;
    loop {
        let case = cases.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(case) = case else { return Ok(()) };
        let outcome = go(&mut stage, case.passage.scene, case.way, &case.orders).await;
        if outcome.is_err() {
            stage = Stage::set().await?;
        }
        let outcome = match outcome {
            // Pairs are of points that may exclude each other.
            Ok(false) if case.way == Way::Pair => continue,
            Ok(false) => Err("the point was not reached".into()),
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.add((case.passage.point, case.way), &case.text(), outcome);
    }
}

/// What each scene passes when nothing goes wrong.
async fn passages() -> Result<Vec<Passage>> {
    let mut all = Vec::new();
    let mut stage = Stage::set().await?;
    for scene in Scene::ALL {
        // Without an order there is nobody to end in the hook's call.
        rehearse(&mut stage, scene).await?;
        let mut numbers: BTreeMap<Point, usize> = BTreeMap::new();
        for name in stage.passed()? {
            let named = |point: &&Point| point.name() == name;
            let point = *Point::ALL.iter().find(named).ok_or("the driver passed a point that is none")?;
            let number = numbers.entry(point).or_default();
            *number += 1;
            // What a claim passes besides is tried with the other scenes' claims.
            if scene != Scene::Machine || SWITCHING.contains(&point) {
                all.push(Passage { scene, point, number: *number });
            }
        }
    }
    Ok(all)
}

fn cases(plan: &Plan, passages: &[Passage]) -> VecDeque<Case> {
    let mut cases = VecDeque::new();
    for &passage in passages.iter().filter(|passage| plan.points.contains(&passage.point)) {
        for &way in plan.ways.iter().filter(|way| is_apt(**way, passage)) {
            let kill = passage.order("kill");
            let mut add = |orders| cases.push_back(Case { passage, way, orders });
            // In a scene of its own each: what one has made the other wouldn't pass.
            let mut errno = |name: &str| {
                let once = passage.order(name);
                add(vec![format!("{once}+")]);
                add(vec![once]);
            };
            match way {
                Way::Full => errno("ENOSPC"),
                Way::Broken => errno("EIO"),
                Way::ReadOnly => errno("EROFS"),
                Way::Stopped => add(vec![passage.order("stop")]),
                Way::Pair if !plan.all_pairs => add(vec![kill.clone(), kill]),
                Way::Pair => {
                    let seconds = passages.iter().filter(|second| are_a_pair(passages, passage, **second));
                    seconds.for_each(|second| add(vec![kill.clone(), second.order("kill")]));
                }
                _ => add(vec![kill]),
            }
        }
    }
    cases
}

/// Two points are tried in one scene, the last that passes both: there a claim meets each of its passages.
fn are_a_pair(passages: &[Passage], first: Passage, second: Passage) -> bool {
    let has =
        |scene: Scene, point: Point| passages.iter().any(|passage| passage.scene == scene && passage.point == point);
    let has_both = |scene: &&Scene| has(**scene, first.point) && has(**scene, second.point);
    let is_counted = |passage: Passage| passage.number == 1 || passage.scene == Scene::Claim;
    first.scene == second.scene
        && Scene::ALL.iter().rev().find(has_both) == Some(&first.scene)
        && is_counted(first)
        && is_counted(second)
        && ![Point::LimitSet, Point::DebtNoted, Point::DebtSettled].contains(&second.point)
}

/// Whether a way makes sense where the point is.
fn is_apt(way: Way, Passage { scene, point, .. }: Passage) -> bool {
    let in_prepare = point > Point::RecordsDirMade && point < Point::LimitSet;
    match way {
        Way::Kill => true,
        Way::Full | Way::Broken | Way::ReadOnly => point.kind() == Kind::File,
        Way::Abandon => scene.is_served() && in_prepare,
        _ if [Point::LimitSet, Point::DebtNoted, Point::DebtSettled].contains(&point) => false,
        Way::Pair | Way::Reboot | Way::RebootKept | Way::NoApi | Way::NvmlHangs => true,
        // Instances that start are the next scene's: here one serves already. And to one another instances are users of a GPU,
        // so that neither takes it for a virtual machine while the other is there.
        Way::Surge | Way::Stopped => scene == Scene::Claim,
    }
}
