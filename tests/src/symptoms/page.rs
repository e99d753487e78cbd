//! The texts that docs/troubleshooting.md promises.
const PAGE: &str = include_str!("../../../docs/troubleshooting.md");
/// In the page this stands for anything.
const ANYTHING: char = '…';

/// The texts of an Event, one for each form that it has.
pub(super) fn of_event(reason: &str) -> Vec<&'static str> {
    let sections = PAGE.split("\n### ").skip(1).filter_map(|section| section.split_once('\n'));
    let texts = sections.filter(|(name, _)| *name == reason).flat_map(|(_, section)| section.lines());
    texts.filter_map(|line| line.strip_prefix("    ")).collect()
}

/// How the driver says that a claim can't be prepared.
pub(super) fn of_prepare() -> Vec<&'static str> {
    let section = PAGE.split("\n## A claim can't be prepared\n").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    section.lines().filter_map(|line| Some(line.strip_prefix("| *")?.split_once("* |")?.0)).collect()
}

/// Every Event of the page.
#[cfg(test)]
pub(super) fn events() -> Vec<&'static str> {
    PAGE.split("\n### ").skip(1).filter_map(|section| section.lines().next()).collect()
}

/// Whether a note has a text's parts, in their order.
pub(super) fn fits(text: &str, note: &str) -> bool {
    let mut rest = note;
    text.split(ANYTHING).map(str::trim).all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_text_for_each_event_and_for_each_way_a_prepare_fails() {
        assert!(events().len() > 30 && events().iter().all(|event| !of_event(event).is_empty()));
        assert!(of_prepare().contains(&"device … has no room"));
        assert!(of_event("GPUUnhealthy").len() == 3 && of_event("nothing").is_empty());
    }

    #[test]
    fn a_note_fits_when_it_has_all_parts_in_their_order() {
        let text = "device … is still held by claim …, whose pod";
        assert!(fits(text, "device gpu-1 is still held by claim a/b (UID u), whose pod has not ended"));
        assert!(!fits(text, "device gpu-1 is still held by a claim in another namespace, whose pod has not ended"));
        assert!(!fits("a … b", "b a") && fits("is gone", "GPU 1 is gone and"));
    }
}
