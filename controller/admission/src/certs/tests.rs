//! A certificate's life, by a clock of the tests.
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::{
    decide::{Action, Terms},
    issue::issue,
    pair::{self, Host},
    stored::{Issued, Stored},
};

const DAY: Duration = Duration::from_hours(24);
const LIFE: Duration = Duration::from_hours(90 * 24);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

fn terms(hosts: &[&str]) -> Terms {
    Terms::new(hosts.iter().map(|host| Host::new(host).unwrap()).collect(), LIFE)
}

fn service() -> Terms {
    terms(&["aliquot-webhook.aliquot.svc"])
}

fn stored_after(action: Action, stored: &Stored, at: SystemTime) -> Stored {
    service().act(action, stored, at).unwrap()
}

/// Whether a client that trusts `bundle` takes what is served.
fn is_taken(stored: &Stored, bundle: &str, at: SystemTime) -> bool {
    let issued = stored.current.as_ref().unwrap();
    let certified = pair::certified(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap();
    pair::is_good(&certified, bundle, &[Host::new("aliquot-webhook.aliquot.svc").unwrap()], at)
}

#[test]
fn a_certificate_says_when_it_ends_whether_that_was_or_will_be() {
    for at in [start(), SystemTime::UNIX_EPOCH + 400 * DAY] {
        let issued = issue(&[Host::new("a.b.svc").unwrap()], at, LIFE).unwrap();
        let certified = pair::certified(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap();
        assert_eq!(pair::end(&certified), Some(at + LIFE));
    }
}

#[test]
fn a_certificate_is_issued_staged_settled_and_promoted() {
    let (terms, settled) = (service(), Some(service().settle()));
    let none = Stored::default();
    assert_eq!(terms.decide(&none, None, start()), Action::Issue);
    let first = stored_after(Action::Issue, &none, start());
    assert_eq!(terms.decide(&first, None, start()), Action::Keep);
    assert_eq!(terms.decide(&first, settled, start() + 59 * DAY), Action::Keep);
    let late = start() + 61 * DAY;
    assert_eq!(terms.decide(&first, settled, late), Action::Stage);
    let staged = stored_after(Action::Stage, &first, late);
    assert!(staged.current == first.current, "what is staged isn't served");
    for untrusted in [None, Some(Duration::ZERO), Some(terms.settle() / 2)] {
        assert_eq!(terms.decide(&staged, untrusted, late), Action::Keep, "{untrusted:?}");
    }
    assert_eq!(terms.decide(&staged, settled, late), Action::Promote);
    let second = stored_after(Action::Promote, &staged, late);
    assert_eq!(terms.decide(&second, settled, late), Action::Keep);
    assert!(second.current == staged.next && second.next.is_none());
}

#[test]
fn through_a_rotation_every_bundle_that_may_be_in_force_takes_what_may_be_served() {
    let late = start() + 61 * DAY;
    let first = stored_after(Action::Issue, &Stored::default(), start());
    let staged = stored_after(Action::Stage, &first, late);
    let second = stored_after(Action::Promote, &staged, late);
    let again = stored_after(Action::Stage, &second, late + 61 * DAY);
    for (served, bundle, at) in [
        (&first, first.bundle(), late),
        (&first, staged.bundle(), late),
        (&first, second.bundle(), late),
        (&second, staged.bundle(), late),
        (&second, second.bundle(), late),
        (&second, again.bundle(), late + 61 * DAY),
    ] {
        assert!(is_taken(served, &bundle, at));
    }
    assert!(!is_taken(&second, &first.bundle(), late), "that is why it is staged");
    assert_eq!(staged.bundle(), second.bundle(), "a replica that is behind changes nothing back");
    assert!(!again.bundle().contains(&first.current.unwrap().ca), "an authority isn't trusted for ever");
}

#[test]
fn what_can_not_be_served_is_replaced_at_once() {
    let good = stored_after(Action::Issue, &Stored::default(), start());
    let broken = |change: fn(&mut Issued)| {
        let mut stored = good.clone();
        change(stored.current.as_mut().unwrap());
        stored
    };
    let stranger = issue(&[Host::new("aliquot-webhook.aliquot.svc").unwrap()], start(), LIFE).unwrap();
    let mut foreign_key = good.clone();
    foreign_key.current.as_mut().unwrap().key = stranger.key.clone();
    let mut foreign_authority = good.clone();
    foreign_authority.current.as_mut().unwrap().ca = stranger.ca;
    for stored in [
        broken(|issued| issued.key = "garbage".to_owned()),
        broken(|issued| issued.certificate = String::new()),
        broken(|issued| issued.ca = "-----BEGIN CERTIFICATE-----\ngarbage".to_owned()),
        foreign_key,
        foreign_authority,
    ] {
        assert_eq!(service().decide(&stored, None, start()), Action::Issue);
    }
    assert_eq!(service().decide(&good, None, start() + 91 * DAY), Action::Issue, "it has ended");
    assert_eq!(service().decide(&good, None, start() - 2 * Duration::from_hours(1)), Action::Issue, "it hasn't begun");
    assert_eq!(terms(&["other.aliquot.svc"]).decide(&good, None, start()), Action::Issue, "it is for another name");
    assert_eq!(service().decide(&good, None, start() - Duration::from_mins(50)), Action::Keep, "clocks differ");
}

#[test]
fn a_staged_one_is_served_early_where_nothing_else_can_be() {
    let first = stored_after(Action::Issue, &Stored::default(), start());
    let staged = stored_after(Action::Stage, &first, start() + 80 * DAY);
    assert_eq!(service().decide(&staged, None, start() + 91 * DAY), Action::Promote);
}

#[test]
fn an_address_can_be_a_host() {
    let terms = terms(&["aliquot-webhook.aliquot.svc", "10.99.0.1", "fd00::1"]);
    let stored = terms.act(Action::Issue, &Stored::default(), start()).unwrap();
    assert_eq!(terms.decide(&stored, None, start()), Action::Keep);
    assert!(Host::new("no host").is_none());
}

#[test]
fn the_secret_says_all_again() {
    let first = stored_after(Action::Issue, &Stored::default(), start());
    let staged = stored_after(Action::Stage, &first, start());
    let promoted = stored_after(Action::Promote, &staged, start());
    for stored in [Stored::default(), first, staged, promoted] {
        assert!(Stored::read(&stored.write()) == stored);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Whatever happens when, once everything is trusted there is something to serve for a third of a life.
    #[test]
    fn certificates_never_run_out_where_someone_looks_every_other_week(jumps in proptest::collection::vec(1_u32..15, 1..25)) {
        let (mut stored, mut now) = (Stored::default(), start());
        for days in jumps {
            now += days * DAY;
            for _ in 0..3 {
                let action = service().decide(&stored, Some(service().settle()), now);
                stored = stored_after(action, &stored, now);
            }
            prop_assert!(is_taken(&stored, &stored.bundle(), now + LIFE / 3));
        }
    }
}
