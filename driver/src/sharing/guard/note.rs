//! What the owner of a pod reads: by how much a claim is over its share, what was done, and what helps.
use std::time::Duration;

use aliquot_model::Memory;

use super::judge::{Verdict, Victim};
use crate::notices::{LONGEST_NOTE, cut};

/// The names of two claims leave room for the rest, however long they are.
const NAMED: usize = 2;

/// What came of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing was to be done.
    Observed,
    /// The pod is being evicted.
    Evicted,
    /// The eviction was refused, or failed.
    NotEvicted(String),
    /// A process was killed.
    Killed(Victim),
}

/// An event's note.
pub(super) fn note(verdict: &Verdict, outcome: &Outcome) -> String {
    let names: Vec<String> = verdict.key.claims.iter().map(ToString::to_string).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (claims, have, share) = if names.len() == 1 {
        ("ResourceClaim", "has used", "its share is")
    } else {
        ("ResourceClaims", "have together used", "their shares are")
    };
    let listed = names[..names.len().min(NAMED)].join(", ");
    let (used, limit) = amounts(verdict.used, verdict.limit);
    let done = match outcome {
        Outcome::Observed => String::new(),
        Outcome::Evicted => " The pod is evicted.".to_owned(),
        Outcome::NotEvicted(reason) => {
            format!(" The pod can't be evicted yet, which is tried again: {}", cut(reason.clone(), 200))
        }
        Outcome::Killed(victim) => {
            format!(
                " Process {} of this pod, which used {}, was killed.",
                victim.pid,
                amounts(victim.used, victim.used).0
            )
        }
    };
    let text = format!(
        "{claims} {listed}{more} {have} {used} of the memory of {} for {}, and {share} {limit}.{done} Ask for more in the \
         claim (capacity.requests.memory), or use less.",
        verdict.key.gpu,
        period(verdict.over_for)
    );
    cut(text, LONGEST_NOTE)
}

/// Both in one unit, in which they differ if any shows it.
fn amounts(used: Memory, limit: Memory) -> (String, String) {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let text =
        |memory: Memory, bits: u32, unit| format!("{:.1} {unit}", memory.bytes() as f64 / (1_u64 << bits) as f64);
    let gib = (text(used, 30, "GiB"), text(limit, 30, "GiB"));
    if limit.bytes() >= 1 << 30 && (gib.0 != gib.1 || used == limit) {
        return gib;
    }
    (text(used, 20, "MiB"), text(limit, 20, "MiB"))
}

fn period(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use dra_plugin::ClaimRef;

    use super::*;
    use crate::sharing::guard::{
        judge::Action,
        process::Ticks,
        testing::{gib, key},
        types::{Pid, Pod},
    };

    fn verdict(claims: &[&str]) -> Verdict {
        Verdict {
            key: key(0, claims),
            used: Memory::from_bytes((12 << 30) + (300 << 20)),
            limit: gib(8),
            over_for: Duration::from_secs(31),
            pod: Pod { namespace: "team".into(), name: "pod-p".into(), uid: "p".into() },
            action: Action::Observe,
        }
    }

    #[test]
    fn the_note_names_the_claim_the_gpu_both_figures_and_what_helps() {
        assert_eq!(
            note(&verdict(&["a"]), &Outcome::Observed),
            "ResourceClaim team/a has used 12.3 GiB of the memory of GPU-0 for 31 s, and its share is 8.0 GiB. Ask for \
             more in the claim (capacity.requests.memory), or use less."
        );
        let victim = Victim { pid: Pid(4711), start: Ticks(1), used: gib(5) };
        let killed = note(&verdict(&["a", "b", "c"]), &Outcome::Killed(victim));
        assert!(killed.starts_with("ResourceClaims team/a, team/b and 1 more have together used 12.3 GiB"), "{killed}");
        assert!(killed.contains("Process 4711 of this pod, which used 5.0 GiB, was killed. Ask"), "{killed}");
    }

    #[test]
    fn figures_that_hardly_differ_are_shown_in_a_unit_that_shows_it() {
        let near = amounts(Memory::from_bytes((8 << 30) + (3 << 20)), gib(8));
        assert_eq!(near, ("8195.0 MiB".to_owned(), "8192.0 MiB".to_owned()));
        assert_eq!(amounts(gib(2), Memory::from_bytes(512 << 20)).1, "512.0 MiB");
    }

    #[test]
    fn the_longest_names_and_refusals_fit_into_an_event() {
        let long = |letter: &str| ClaimRef::new("n".repeat(63), letter.repeat(253), "u".repeat(36)).unwrap();
        let mut verdict = verdict(&[]);
        verdict.key.claims = ["a", "b", "c"].map(long).into();
        verdict.key.gpu = format!("GPU-{}", "f".repeat(36)).parse().unwrap();
        let text = note(&verdict, &Outcome::Evicted);
        assert!(text.len() <= LONGEST_NOTE && text.ends_with("use less."), "{}: {text}", text.len());
        assert!(note(&verdict, &Outcome::NotEvicted("ü".repeat(2000))).len() <= LONGEST_NOTE);
    }
}
