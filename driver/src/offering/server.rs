//! What the API server stores of what is to be offered: asked by a dry run, and asked again while it isn't all. Pure.
use std::time::Duration;

use dra_plugin::{
    Backoff,
    slices::{DroppedField, Feature, Rehearsal, RehearsalError},
};
use tokio::time::Instant;

use crate::offer::Layout;

/// What is known of the API server.
#[derive(Debug)]
pub(super) struct Server {
    /// None until it has said.
    layout: Option<Layout>,
    /// When it is to be asked; none if there is nothing to be had by it.
    due: Option<Instant>,
    /// Between questions that got no answer.
    unanswered: Backoff,
    /// Between questions while GPUs are in a fixed form.
    fixed: Backoff,
    /// The last that was told, so that it is told once.
    told: Option<String>,
}

/// What is worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// GPUs can't be whole and shared at once, for this reason.
    Fixed(String),
    /// They can be again.
    Both,
    /// It refuses to be asked, which somebody has to mend.
    Refused(String),
    /// It gives no answer.
    Silent(String),
}

impl Server {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            layout: None,
            due: Some(now),
            // Devices aren't there for users meanwhile.
            unanswered: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            // One replica of several may have answered that is yet to be upgraded, or a gate be set tomorrow.
            fixed: Backoff::new(Duration::from_secs(5), Duration::from_mins(10)),
            told: None,
        }
    }

    /// Whoever changes the policy may have changed the cluster for it.
    pub(super) fn doubt(&mut self, now: Instant) {
        *self = Self { told: self.told.take(), ..Self::new(now) };
    }

    /// None while it can't be said.
    pub(super) fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// When to ask.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes an answer.
    pub(super) fn hear(&mut self, answer: Result<Rehearsal, RehearsalError>, now: Instant) -> Option<News> {
        match answer {
            Ok(Rehearsal::Complete) => self.both(),
            Ok(Rehearsal::Dropped(dropped)) => match lacking(&dropped) {
                Some(field) => self.fix(format!("the API server doesn't store {field}"), now),
                None => self.both(),
            },
            Ok(Rehearsal::Invalid(reason)) => self.fix(reason, now),
            Err(error) => {
                let pause = if self.layout.is_some() { self.fixed.pause() } else { self.unanswered.pause() };
                let text = error.to_string();
                let (wish, news) = match error {
                    RehearsalError::Busy { retry_after, .. } => (retry_after, News::Silent(text.clone())),
                    RehearsalError::Refused { .. } => (None, News::Refused(text.clone())),
                };
                self.due = Some(now + pause.max(wish.unwrap_or_default()));
                self.tell(text).then_some(news)
            }
        }
    }

    /// What was published is read back all the same: a gate can be switched off while this runs.
    pub(super) fn learn(&mut self, dropped: &[DroppedField], now: Instant) -> Option<News> {
        let field = lacking(dropped).filter(|_| self.layout == Some(Layout::Counters))?;
        self.fix(format!("the API server no longer stores {field}"), now)
    }

    fn both(&mut self) -> Option<News> {
        let was = self.layout.replace(Layout::Counters);
        (self.due, self.told) = (None, None);
        (was == Some(Layout::Fixed)).then_some(News::Both)
    }

    fn fix(&mut self, reason: String, now: Instant) -> Option<News> {
        self.layout = Some(Layout::Fixed);
        self.due = Some(now + self.fixed.pause());
        self.tell(reason.clone()).then_some(News::Fixed(reason))
    }

    fn tell(&mut self, text: String) -> bool {
        self.told.replace(text.clone()) != Some(text)
    }
}

/// The first field without which a GPU can't be whole and shared at once.
fn lacking(dropped: &[DroppedField]) -> Option<String> {
    let needed =
        |field: &&DroppedField| matches!(field.feature, Feature::ConsumableCapacity | Feature::PartitionableDevices);
    dropped.iter().find(needed).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn refused(status: u16) -> Result<Rehearsal, RehearsalError> {
        Err(RehearsalError::Refused { status, reason: "forbidden".into() })
    }

    fn busy(retry_after: Option<Duration>) -> Result<Rehearsal, RehearsalError> {
        Err(RehearsalError::Busy { reason: "no answer".into(), retry_after })
    }

    fn invalid() -> Rehearsal {
        Rehearsal::Invalid("another form".into())
    }

    #[test]
    fn a_server_that_refuses_to_be_asked_has_said_nothing_and_is_asked_again() {
        let start = Instant::now();
        let mut server = Server::new(start);
        assert_eq!(server.due(), Some(start));
        let news = server.hear(refused(403), start);
        assert!(matches!(news, Some(News::Refused(text)) if text.contains("403")));
        assert_eq!((server.layout(), server.due() > Some(start)), (None, true));
        assert_eq!(server.hear(refused(403), start), None, "it is told once");
        assert!(server.hear(refused(400), start).is_some());
        assert_eq!(server.hear(Ok(Rehearsal::Complete), start), None);
        assert_eq!((server.layout(), server.due()), (Some(Layout::Counters), None));
    }

    #[test]
    fn what_was_once_fixed_is_asked_again_at_a_growing_pause_and_comes_back_by_itself() {
        let mut now = Instant::now();
        let mut server = Server::new(now);
        assert!(matches!(server.hear(Ok(invalid()), now), Some(News::Fixed(_))));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let due = server.due().unwrap();
            pauses.push(due - now);
            now = due;
            assert_eq!((server.hear(Ok(invalid()), now), server.layout()), (None, Some(Layout::Fixed)));
        }
        assert!(pauses[0] <= Duration::from_secs(5), "{pauses:?}");
        assert!(pauses[11] >= 5 * MINUTE && pauses[11] <= 10 * MINUTE, "{pauses:?}");
        // Whether it can be asked changes nothing of what it said.
        assert!(matches!(server.hear(busy(None), now), Some(News::Silent(_))));
        assert_eq!(server.layout(), Some(Layout::Fixed));
        assert_eq!(server.hear(Ok(Rehearsal::Complete), now), Some(News::Both));
        assert_eq!((server.layout(), server.due()), (Some(Layout::Counters), None));
    }

    #[test]
    fn a_server_gets_the_time_that_it_asks_for_and_more_each_time() {
        let now = Instant::now();
        let mut server = Server::new(now);
        server.hear(busy(Some(MINUTE)), now);
        assert_eq!(server.due(), Some(now + MINUTE));
        let mut longest = Duration::ZERO;
        for _ in 0..12 {
            server.hear(busy(None), now);
            longest = longest.max(server.due().unwrap() - now);
        }
        assert!(longest > Duration::from_secs(14) && longest <= Duration::from_secs(30), "{longest:?}");
    }

    #[test]
    fn a_field_that_is_lost_when_published_makes_gpus_fixed_and_a_new_policy_asks_at_once() {
        let now = Instant::now();
        let mut server = Server::new(now);
        server.hear(Ok(Rehearsal::Complete), now);
        let lost = |feature| DroppedField { field: "x".into(), of: vec!["gpu-0".into()], feature };
        assert_eq!(server.learn(&[lost(Feature::DeviceTaints)], now), None);
        assert!(server.learn(&[lost(Feature::PartitionableDevices)], now).is_some());
        assert_eq!(server.layout(), Some(Layout::Fixed));
        server.doubt(now);
        assert_eq!((server.layout(), server.due()), (None, Some(now)));
    }
}
