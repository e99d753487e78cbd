use proptest::prelude::*;

use super::*;
use crate::{claim::testing::record, sweep::uses::tests::pod};

const GRACE: Duration = Duration::from_mins(5);
const DRIVER: &str = "gpu.example.com";

fn item(uid: &str) -> Item {
    let record = record(uid, &["gpu-0"]);
    Item { uid: record.claim.uid().clone(), kind: Kind::Record(record.into()), asked: None, devices: [].into() }
}

fn spec(uid: &str) -> Item {
    Item { kind: Kind::Spec, ..item(uid) }
}

fn damaged(uid: &str, is_sure: bool) -> Item {
    let claim = item(uid).claim().cloned();
    Item { kind: Kind::Quarantined { claim, is_sure }, ..item(uid) }
}

fn used(uids: &[&str]) -> Uses {
    let pods: Vec<_> = uids
        .iter()
        .map(|uid| pod(DRIVER, "default", "claim", &[&format!("gpu.example.com/claim={uid}-gpu-0")]))
        .collect();
    Uses::of(&pods, DRIVER, "gpu.example.com/claim")
}

fn evidence(uses: Result<Uses, &str>, answers: &[(&str, Answer)]) -> Evidence {
    let answers = answers.iter().map(|(uid, answer)| (ClaimUid::new(*uid).unwrap(), answer.clone())).collect();
    Evidence { uses: uses.map_err(ToOwned::to_owned), answers }
}

/// One thing's way through rounds, each a minute after the one before.
struct Way {
    item: Item,
    history: History,
    begun: Instant,
    minutes: u64,
}

impl Way {
    fn of(item: Item) -> Self {
        Self { item, history: History::default(), begun: Instant::now(), minutes: 0 }
    }

    fn now(&self) -> Instant {
        self.begun + Duration::from_secs(60 * self.minutes)
    }

    fn round(&mut self, uses: Result<Uses, &str>, answer: Option<Answer>) -> Verdict {
        let uid = self.item.uid.to_string();
        let answers: Vec<_> = answer.into_iter().map(|answer| (uid.as_str(), answer)).collect();
        let evidence = evidence(uses, &answers);
        let (items, now) = ([self.item.clone()], self.now());
        let verdict = judge(&items, &evidence, &mut self.history, now, GRACE).remove(0);
        self.minutes += 1;
        verdict
    }

    fn gone(&mut self) -> Verdict {
        self.round(Ok(Uses::default()), Some(Answer::Stale(Reason::Gone)))
    }

    /// Whether it would be asked for now.
    fn asks(&self) -> bool {
        !questions(std::slice::from_ref(&self.item), &Uses::default(), &self.history, self.now(), GRACE, 10).is_empty()
    }
}

fn is_suspect(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Suspect { .. })
}

fn is_stale(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Stale { .. })
}

#[test]
fn stale_is_what_two_answers_a_grace_period_apart_say() {
    for reason in [Reason::Gone, Reason::OtherUid, Reason::NotAllocated, Reason::Elsewhere, Reason::OtherDevices] {
        let mut way = Way::of(item("u1"));
        let answer = || Some(Answer::Stale(reason));
        for minute in 0..5 {
            assert!(is_suspect(&way.round(Ok(Uses::default()), answer())), "{reason:?} after {minute} min");
        }
        assert!(is_stale(&way.round(Ok(Uses::default()), answer())), "{reason:?}");
    }
}

#[test]
fn one_answer_is_not_enough_however_long_ago() {
    let mut way = Way::of(item("u1"));
    assert!(is_suspect(&way.gone()));
    for _ in 0..20 {
        assert!(is_suspect(&way.round(Ok(Uses::default()), None)));
    }
    assert!(is_stale(&way.gone()));
}

#[test]
fn between_the_two_answers_nobody_is_asked() {
    let mut way = Way::of(item("u1"));
    assert!(way.asks());
    way.gone();
    for _ in 0..4 {
        assert!(!way.asks());
        way.round(Ok(Uses::default()), None);
    }
    assert!(way.asks());
}

#[test]
fn trouble_proves_nothing_and_takes_nothing_back() {
    let mut way = Way::of(item("u1"));
    way.gone();
    for _ in 0..10 {
        assert!(matches!(way.round(Err("hung"), Some(Answer::Stale(Reason::Gone))), Verdict::Unknown(_)));
        assert!(matches!(way.round(Ok(Uses::default()), Some(Answer::Unknown("403".into()))), Verdict::Unknown(_)));
    }
    assert!(is_stale(&way.gone()));
}

#[test]
fn a_container_that_uses_it_a_live_claim_or_a_prepare_begin_everything_anew() {
    let live: [fn(&mut Way); 3] = [
        |way| assert_eq!(way.round(Ok(used(&["u1"])), None), Verdict::InUse),
        |way| {
            let here = Answer::Here(["gpu-0".parse().unwrap()].into());
            assert_eq!(way.round(Ok(Uses::default()), Some(here)), Verdict::Allocated);
        },
        |way| {
            way.item.asked = Some(way.now());
            assert_eq!(way.gone(), Verdict::Asked);
        },
    ];
    for alive in live {
        let mut way = Way::of(item("u1"));
        way.gone();
        alive(&mut way);
        way.minutes += 10;
        assert!(is_suspect(&way.gone()));
        way.minutes += 5;
        assert!(is_stale(&way.gone()));
    }
}

#[test]
fn what_the_kubelet_asked_for_lately_or_shows_in_use_is_not_asked_for() {
    let mut lately = item("u1");
    lately.asked = Some(Instant::now());
    let now = Instant::now() + Duration::from_mins(1);
    let items = [lately, item("u2"), item("u3"), spec("u4")];
    let asked = questions(&items, &used(&["u2"]), &History::default(), now, GRACE, 10);
    assert_eq!(asked.iter().map(|item| item.uid.as_str()).collect::<Vec<_>>(), ["u3"]);
}

#[test]
fn a_live_claim_that_no_container_uses_is_asked_for_less_and_less_often() {
    let mut way = Way::of(item("u1"));
    let mut questions = 0;
    for _ in 0..24 * 60 {
        let answer = way.asks().then(|| Answer::Here(["gpu-0".parse().unwrap()].into()));
        questions += u32::from(answer.is_some());
        way.round(Ok(Uses::default()), answer);
    }
    assert!((20..40).contains(&questions), "{questions} in a day");
}

#[test]
fn so_many_are_asked_for_in_a_round_and_the_others_in_the_next() {
    let items: Vec<Item> = (0..25).map(|n| item(&format!("u{n}"))).collect();
    let (mut history, now) = (History::default(), Instant::now());
    let mut asked = HashSet::new();
    for _ in 0..3 {
        let round = questions(&items, &Uses::default(), &history, now, GRACE, 10);
        assert!(round.len() <= 10);
        let answers: Vec<(&str, Answer)> =
            round.iter().map(|item| (item.uid.as_str(), Answer::Stale(Reason::Gone))).collect();
        asked.extend(round.iter().map(|item| item.uid.clone()));
        judge(&items, &evidence(Ok(Uses::default()), &answers), &mut history, now, GRACE);
    }
    assert_eq!(asked.len(), 25);
}

#[test]
fn a_spec_without_a_record_is_stale_after_the_grace_unless_a_container_uses_it() {
    let mut way = Way::of(spec("u1"));
    for _ in 0..5 {
        assert!(is_suspect(&way.round(Ok(Uses::default()), None)));
    }
    assert!(is_stale(&way.round(Ok(Uses::default()), None)));
    assert_eq!(way.round(Ok(used(&["u1"])), None), Verdict::InUse);
    assert!(matches!(way.round(Err("hung"), None), Verdict::Unknown(_)));
}

#[test]
fn the_name_in_a_damaged_record_proves_something_only_where_the_claim_is_found_by_it() {
    for (is_sure, reason, proves) in [
        (false, Reason::Gone, false),
        (false, Reason::OtherUid, false),
        (false, Reason::NotAllocated, true),
        (true, Reason::Gone, true),
    ] {
        let mut way = Way::of(damaged("u1", is_sure));
        way.round(Ok(Uses::default()), Some(Answer::Stale(reason)));
        way.minutes += 10;
        let verdict = way.round(Ok(Uses::default()), Some(Answer::Stale(reason)));
        assert_eq!(is_stale(&verdict), proves, "{is_sure} {reason:?}");
    }
}

/// What may be observed in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Gone,
    Here,
    Used,
    Asked,
    ApiTrouble,
    KubeletTrouble,
    Nothing,
}

proptest! {
    #[test]
    fn nothing_is_stale_unless_it_looked_so_for_the_grace_without_any_sign_of_life(
        rounds in proptest::collection::vec((0u64..400, proptest::sample::select(vec![
            Seen::Gone, Seen::Gone, Seen::Gone, Seen::Here, Seen::Used, Seen::Asked, Seen::ApiTrouble, Seen::KubeletTrouble, Seen::Nothing,
        ])), 1..40),
    ) {
        let (mut history, mut one, begun) = (History::default(), item("u1"), Instant::now());
        let (mut seconds, mut first_gone) = (0u64, None);
        for (pause, seen) in rounds {
            seconds += pause;
            let now = begun + Duration::from_secs(seconds);
            let uses = match seen {
                Seen::KubeletTrouble => Err("hung"),
                Seen::Used => Ok(used(&["u1"])),
                _ => Ok(Uses::default()),
            };
            if seen == Seen::Asked {
                one.asked = Some(now);
            }
            let answer = match seen {
                Seen::Gone => vec![("u1", Answer::Stale(Reason::Gone))],
                Seen::Here => vec![("u1", Answer::Here([].into()))],
                Seen::ApiTrouble => vec![("u1", Answer::Unknown("500".into()))],
                _ => vec![],
            };
            let verdict = judge(&[one.clone()], &evidence(uses, &answer), &mut history, now, GRACE).remove(0);
            match seen {
                Seen::Here | Seen::Used | Seen::Asked => first_gone = None,
                Seen::Gone if one.asked.is_none_or(|asked| now - asked >= GRACE) => {
                    first_gone.get_or_insert(now);
                }
                _ => {}
            }
            if is_stale(&verdict) {
                let first = first_gone.expect("it never looked stale");
                prop_assert!(now - first >= GRACE);
                prop_assert!(!matches!(seen, Seen::KubeletTrouble | Seen::ApiTrouble | Seen::Used | Seen::Here | Seen::Asked));
            }
        }
    }
}
