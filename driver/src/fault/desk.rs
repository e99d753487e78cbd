//! Counts passages, and does what is ordered.
use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};

use super::{
    Point,
    orders::{self, Action, Order},
};

/// Orders, or the file that has them.
const ORDERS: &str = "ALIQUOT_FAULT";
/// The file that gets a line for each passage, and one for each order that is obeyed.
const TRACE: &str = "ALIQUOT_FAULT_TRACE";
/// Somebody's orders are wrong: what would be tested isn't.
const REFUSED: i32 = 64;

static DESK: Mutex<Desk> = Mutex::new(Desk { text: String::new(), orders: Vec::new(), passed: BTreeMap::new() });

struct Desk {
    text: String,
    orders: Vec<Order>,
    /// Since the orders last changed.
    passed: BTreeMap<Point, u32>,
}

pub(super) fn pass(point: Point) -> io::Result<()> {
    trace(&point.name());
    let Some(order) = ordered(point) else { return Ok(()) };
    trace(&order);
    match order.action() {
        Action::Kill => Ok(kill_process(getpid(), Signal::KILL)?),
        Action::Stop => Ok(kill_process(getpid(), Signal::STOP)?),
        Action::Fail(errno) => Err(errno.into()),
    }
}

fn ordered(point: Point) -> Option<Order> {
    let mut desk = DESK.lock().unwrap_or_else(PoisonError::into_inner);
    let text = std::env::var(ORDERS).ok()?;
    let text = if text.starts_with('/') { std::fs::read_to_string(text).unwrap_or_default() } else { text };
    if desk.text != text {
        desk.orders = orders::parse(&text).unwrap_or_else(|error| {
            tracing::error!("{ORDERS}: {error}");
            std::process::exit(REFUSED);
        });
        desk.passed.clear();
        desk.text = text;
    }
    let passage = desk.passed.entry(point).or_default();
    *passage += 1;
    let passage = *passage;
    orders::at(&desk.orders, point, passage)
}

fn trace(what: &dyn fmt::Display) {
    let Ok(path) = std::env::var(TRACE) else { return };
    let file = File::options().create(true).append(true).open(path);
    // One write, so that two drivers' lines don't mix.
    let _ = file.and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()));
}
