//! What is to happen at which place, as a text says it. Pure.
use std::fmt;

use rustix::io::Errno;

use super::{Kind, Point};

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The process ends.
    Kill,
    /// The process stops until somebody lets it go on.
    Stop,
    /// The step fails.
    Fail(Errno),
}

/// Which times that a place is passed are meant; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Only(u32),
    From(u32),
}

/// One thing to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    point: Point,
    action: Action,
    passage: Passage,
}

impl Order {
    /// What happens.
    pub(super) fn action(self) -> Action {
        self.action
    }
}

/// As a text says it, always with the passage.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Kill => "kill",
            Action::Stop => "stop",
            Action::Fail(Errno::NOSPC) => "ENOSPC",
            Action::Fail(Errno::ROFS) => "EROFS",
            Action::Fail(_) => "EIO",
        };
        write!(f, "{}={action}@", self.point.name())?;
        match self.passage {
            Passage::Only(only) => write!(f, "{only}"),
            Passage::From(first) => write!(f, "{first}+"),
        }
    }
}

/// Why a text is no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("{0:?} is not POINT=ACTION")]
    Form(String),
    #[error("there is no point {0:?}")]
    Point(String),
    #[error("{0:?} is not kill, stop, ENOSPC, EIO or EROFS")]
    Action(String),
    #[error("{0:?} is no passage such as 2, or 2+ for this and all after it")]
    Passage(String),
    #[error("nothing fails at {0}: only kill and stop are possible there")]
    CannotFail(&'static str),
}

/// All orders of a text.
pub(super) fn parse(text: &str) -> Result<Vec<Order>, Invalid> {
    text.split(',').map(str::trim).filter(|order| !order.is_empty()).map(one).collect()
}

fn one(text: &str) -> Result<Order, Invalid> {
    let (name, rest) = text.split_once('=').ok_or_else(|| Invalid::Form(text.to_owned()))?;
    let named = |point: &&Point| point.name() == name;
    let point = *Point::ALL.iter().find(named).ok_or_else(|| Invalid::Point(name.to_owned()))?;
    let (action, passage) = rest.split_once('@').unwrap_or((rest, "1"));
    let action = match action {
        "kill" => Action::Kill,
        "stop" => Action::Stop,
        "ENOSPC" => Action::Fail(Errno::NOSPC),
        "EIO" => Action::Fail(Errno::IO),
        "EROFS" => Action::Fail(Errno::ROFS),
        other => return Err(Invalid::Action(other.to_owned())),
    };
    if matches!(action, Action::Fail(_)) && point.kind() == Kind::Between {
        return Err(Invalid::CannotFail(point.name()));
    }
    let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
    let parsed = match passage.strip_suffix('+') {
        Some(first) => number(first).map(Passage::From),
        None => number(passage).map(Passage::Only),
    };
    Ok(Order { point, action, passage: parsed.ok_or_else(|| Invalid::Passage(passage.to_owned()))? })
}

/// The order for the `passage`th time that a place is passed.
pub(super) fn at(orders: &[Order], point: Point, passage: u32) -> Option<Order> {
    let is_meant = |order: &&Order| match order.passage {
        Passage::Only(only) => passage == only,
        Passage::From(first) => passage >= first,
    };
    orders.iter().filter(|order| order.point == point).find(is_meant).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_for_one_passage_or_for_all_from_one_on() {
        let orders = parse("record-written=kill, spec-placed=ENOSPC@2,record-placed=EROFS@2+").unwrap();
        let what = |point, passage| at(&orders, point, passage).map(Order::action);
        assert_eq!(what(Point::RecordWritten, 1), Some(Action::Kill));
        assert_eq!(what(Point::RecordWritten, 2), None);
        assert_eq!((what(Point::SpecPlaced, 1), what(Point::SpecPlaced, 2)), (None, Some(Action::Fail(Errno::NOSPC))));
        assert_eq!(
            (what(Point::RecordPlaced, 1), what(Point::RecordPlaced, 9)),
            (None, Some(Action::Fail(Errno::ROFS)))
        );
        assert_eq!(what(Point::Released, 1), None);
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn an_order_that_would_do_nothing_is_refused() {
        assert_eq!(parse("reserved"), Err(Invalid::Form("reserved".into())));
        assert_eq!(parse("resevred=kill"), Err(Invalid::Point("resevred".into())));
        assert_eq!(parse("reserved=die"), Err(Invalid::Action("die".into())));
        assert_eq!(parse("reserved=EIO"), Err(Invalid::CannotFail("reserved")));
        for passage in ["0", "x", "+", ""] {
            assert_eq!(parse(&format!("reserved=kill@{passage}")), Err(Invalid::Passage(passage.into())));
        }
    }

    #[test]
    fn an_order_is_told_as_it_was_given() {
        for text in ["record-written=kill@1", "spec-placed=stop@2", "spec-placed=ENOSPC@2", "hook-begun=EIO@1+"] {
            assert_eq!(parse(text).unwrap().remove(0).to_string(), text);
        }
        assert_eq!(parse("hook-begun=EROFS").unwrap().remove(0).to_string(), "hook-begun=EROFS@1");
    }

    #[test]
    fn all_points_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
    }
}
