//! What each Xid means for a GPU's next user: NVIDIA's catalogue of errors as data.
use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of an error that NVIDIA's driver reports about a GPU, as in `NVRM: Xid (PCI:0000:65:00): 79`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Xid(pub u64);

/// What an error asks for before the GPU can be given to anybody else: the catalogue's "immediate action".
///
/// Source: NVIDIA, *Xid Errors*, "Analyzing Xid Errors with the Xid Catalog" (docs.nvidia.com/deploy/xid-errors), for
/// Ampere and newer; older ones in "Xid Error Listing".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Remedy {
    /// Nothing: it is information, or another Xid tells more.
    None,
    /// The program that caused it ends, and the GPU is well.
    RestartApplication,
    /// The GPU has to be reset once nobody uses it.
    ResetGpu,
    /// The GPU can't even be reset: the machine has to be started anew.
    RestartNode,
    /// NVIDIA's support says what.
    ContactSupport,
}

impl Remedy {
    /// Whether the GPU serves whoever gets it next.
    pub fn leaves_usable(self) -> bool {
        matches!(self, Self::None | Self::RestartApplication)
    }

    /// In a word: a label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::RestartApplication => "restart-application",
            Self::ResetGpu => "reset-gpu",
            Self::RestartNode => "restart-node",
            Self::ContactSupport => "contact-support",
        }
    }

    /// What an operator is to do, as the end of a sentence.
    pub fn advice(self) -> &'static str {
        match self {
            Self::None => "nothing has to be done",
            Self::RestartApplication => "the program that caused it has to be started anew",
            Self::ResetGpu => "reset the GPU once nothing uses it (nvidia-smi --gpu-reset), or restart the node",
            Self::RestartNode => "drain the node and restart it; if it comes again, have the board looked at",
            Self::ContactSupport => "run nvidia-bug-report.sh and ask NVIDIA's support",
        }
    }
}

impl Xid {
    /// The catalogue's line. What it doesn't know may be anything, and is for the support.
    pub fn remedy(self) -> Remedy {
        self.line().map_or(Remedy::ContactSupport, |(_, _, remedy)| remedy)
    }

    /// In a few words.
    pub fn meaning(self) -> &'static str {
        self.line().map_or("an error that isn't in NVIDIA's catalogue", |(_, meaning, _)| meaning)
    }

    fn line(self) -> Option<Line> {
        let at = CATALOGUE.partition_point(|(last, ..)| u64::from(*last.end()) < self.0);
        CATALOGUE.get(at).filter(|(numbers, ..)| u64::from(*numbers.start()) <= self.0).cloned()
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xid {} ({})", self.0, self.meaning())
    }
}

type Line = (std::ops::RangeInclusive<u8>, &'static str, Remedy);

/// By number. What the catalogue calls unused, or never seen on a data centre's GPU, isn't here.
#[rustfmt::skip]
const CATALOGUE: [Line; 57] = {
    use Remedy::{ContactSupport, None, ResetGpu, RestartApplication, RestartNode};
    [
        (8..=8, "the GPU stopped processing a channel", RestartApplication),
        (11..=11, "an invalid or corrupted stream of commands", RestartApplication),
        (13..=13, "an exception in the graphics engine", RestartApplication),
        (14..=14, "a test", None),
        (25..=25, "an illegal notification", RestartApplication),
        (31..=31, "a fault of the GPU's memory management: an access to an address that is not mapped", RestartApplication),
        (32..=32, "an invalid or corrupted stream of commands", RestartApplication),
        (37..=38, "the firmware of the graphics engine", None),
        (39..=41, "an exception in a copy engine", RestartApplication),
        (43..=43, "the GPU stopped processing: a program's channel was reset", None),
        (44..=44, "a fault during a change of context", None),
        (45..=45, "a program's channels were removed, as after a kill", None),
        (46..=46, "the GPU stopped processing", ResetGpu),
        (48..=48, "a double-bit error of memory", ResetGpu),
        (54..=54, "the auxiliary power isn't connected", ContactSupport),
        (60..=60, "an exception in the SEC2 engine", RestartApplication),
        (62..=62, "the power management unit halted", ResetGpu),
        (63..=63, "a row of memory is to be remapped, or a page was retired", None),
        (64..=64, "a row of memory couldn't be remapped, or a page not retired", ResetGpu),
        (66..=67, "the firmware of the graphics engine", None),
        (68..=68, "an exception in a video decoder", RestartApplication),
        (69..=69, "a class error of the graphics engine", RestartApplication),
        (70..=72, "an exception in a copy engine", RestartApplication),
        (74..=74, "an error of NVLink", ResetGpu),
        (75..=77, "an exception in a copy engine", RestartApplication),
        (78..=78, "a vGPU couldn't be started", ContactSupport),
        (79..=79, "the GPU has fallen off the bus", RestartNode),
        (80..=80, "a corrupted stream of commands", RestartApplication),
        (82..=84, "an exception in a media engine", RestartApplication),
        (85..=85, "an exception in a copy engine", RestartApplication),
        (86..=86, "an exception in the optical flow engine", RestartApplication),
        (88..=89, "an exception in a video decoder", RestartApplication),
        (92..=93, "a high rate of corrected errors, or of writes to the InfoROM", None),
        (94..=94, "an uncorrectable error of memory that only its program sees", RestartApplication),
        (95..=95, "an uncorrectable error of memory that any program may see", ResetGpu),
        (96..=105, "an exception in a media engine", RestartApplication),
        (106..=107, "a test of the system management bus", None),
        (109..=109, "a change of context didn't end", ResetGpu),
        (110..=110, "a security fault", ResetGpu),
        (119..=120, "the GPU's system processor doesn't answer, or failed", ResetGpu),
        (121..=121, "a corrected error of the link between chips", None),
        (126..=135, "an exception in a copy engine", RestartApplication),
        (136..=136, "the training of a link failed", ResetGpu),
        (137..=137, "an access over NVLink that another GPU refused", None),
        (139..=139, "an exception in the optical flow engine", RestartApplication),
        (140..=140, "an unrecovered error of memory", ResetGpu),
        (141..=141, "an exception in a fast path", None),
        (143..=143, "the GPU couldn't be initialised", ResetGpu),
        (144..=150, "an error of NVLink", ResetGpu),
        (151..=151, "a rotation of keys failed", RestartNode),
        (152..=154, "information that goes with another Xid", None),
        (155..=156, "an error of NVLink, or a part of the GPU is to be retired", ResetGpu),
        (157..=157, "a part of the GPU couldn't be retired", None),
        (158..=158, "the GPU didn't answer in time", ResetGpu),
        (160..=160, "a channel of memory is to be retired", RestartNode),
        (161..=161, "a channel of memory couldn't be retired", None),
        (162..=162, "the power smoothing of the GPU", ResetGpu),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_in_order_and_no_number_is_in_it_twice() {
        assert!(CATALOGUE.iter().all(|(numbers, ..)| numbers.start() <= numbers.end()));
        assert!(CATALOGUE.windows(2).all(|pair| pair[0].0.end() < pair[1].0.start()));
    }

    #[test]
    fn errors_of_programs_leave_a_gpu_usable_and_those_of_hardware_dont() {
        let usable = |xid: u64| Xid(xid).remedy().leaves_usable();
        // What NVIDIA's own drivers leave alone, 109 excepted, which has needed a reset since that list was made.
        assert!([13, 31, 43, 45, 68, 94].into_iter().all(usable));
        assert!(![46, 48, 62, 64, 74, 79, 95, 109, 119, 120, 140, 143, 158].into_iter().any(usable));
    }

    #[test]
    fn what_is_not_in_the_catalogue_is_for_the_support() {
        assert!([0, 1, 9, 159, 163, 999, u64::MAX].into_iter().all(|xid| Xid(xid).remedy() == Remedy::ContactSupport));
        assert_eq!(Xid(999).to_string(), "Xid 999 (an error that isn't in NVIDIA's catalogue)");
    }

    #[test]
    fn a_range_covers_its_ends_and_no_more() {
        let remedies: Vec<Remedy> = [118, 119, 120, 121].map(|xid| Xid(xid).remedy()).to_vec();
        assert_eq!(remedies, [Remedy::ContactSupport, Remedy::ResetGpu, Remedy::ResetGpu, Remedy::None]);
    }

    /// `46, 48, 109 to 110`.
    fn numbers(remedy: Remedy) -> String {
        let lines = CATALOGUE.into_iter().filter(|line| line.2 == remedy);
        let all: Vec<u8> = lines.flat_map(|(numbers, ..)| numbers).collect();
        let runs = all.chunk_by(|number, next| number + 1 == *next);
        let texts = runs.map(|run| match run {
            [one] => one.to_string(),
            _ => format!("{} to {}", run[0], run[run.len() - 1]),
        });
        texts.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_table_for_operators_is_this_one() {
        let page = include_str!("../../../docs/operators.md");
        let remedies =
            [Remedy::None, Remedy::RestartApplication, Remedy::ResetGpu, Remedy::RestartNode, Remedy::ContactSupport];
        for remedy in remedies {
            let begin =
                format!("| `{}` | {} ", remedy.name(), if remedy.leaves_usable() { "is offered" } else { "is ill" });
            let row = page.lines().find(|line| line.starts_with(begin.trim_end())).unwrap_or_default();
            let numbers = numbers(remedy);
            let cell = row.rsplit('|').nth(1).unwrap_or_default().trim();
            let is_all =
                cell.strip_prefix(&numbers).is_some_and(|rest| rest.is_empty() || rest.starts_with([',', ';']));
            assert!(is_all, "docs/operators.md has {row:?}, and {} is {numbers}", remedy.name());
        }
    }
}
