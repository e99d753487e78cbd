//! Every Event that the code can write has its section in the troubleshooting page, with a text that the code has.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::root;

const PAGE: &str = include_str!("../../../docs/troubleshooting.md");
/// By one of these a file shows that it writes Events.
const WRITERS: [&str; 7] =
    ["warn_users(", "warn_node(", "tell_node(", "tell_swept(", "warn_container(", "Telling {", "Note {"];
/// Words in such files that look like the reason of an Event and are none.
const OTHERS: [&str; 13] = [
    "CUDA",
    "GPUs",
    "Node",
    "Pod",
    "Offer",
    "ResourceClaim",
    "ResourceClaims",
    "ResourceSlice",
    "Release",
    "Start",
    "Prepare",
    "Sweep",
    "Tell",
];
/// What of a text is too short to be looked for.
const SHORT: usize = 8;

/// The sources of a directory, without what is for tests only, each as the compiler reads its texts.
fn sources(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            all.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") && !name.contains("test") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            all.push(joined(&lines.join("\n")));
        }
    }
    all
}

/// Texts that go on in the next line in one.
fn joined(code: &str) -> String {
    let mut parts = code.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}

fn code() -> Vec<String> {
    let mut all = sources(&root().join("driver/src"));
    all.extend(sources(&root().join("controller/src")));
    all
}

/// The texts between quotes; none of these files has a quote in a text that looks like a reason.
fn is_reason(text: &str) -> bool {
    let is_word = text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let capitals = text.bytes().filter(u8::is_ascii_uppercase).count();
    is_word && text.starts_with(|c: char| c.is_ascii_uppercase()) && capitals > 1 && !OTHERS.contains(&text)
}

fn reasons() -> BTreeSet<String> {
    let all = code();
    let writers = all.iter().filter(|code| WRITERS.iter().any(|writer| code.contains(writer)));
    let remedies = all.iter().filter(|code| code.contains("fn reason(self)") || code.contains("EventType::Warning"));
    let texts = writers.chain(remedies).flat_map(|code| code.split('"'));
    texts.filter(|text| is_reason(text)).map(ToOwned::to_owned).collect()
}

/// Each section by its reason.
fn sections() -> Vec<(&'static str, &'static str)> {
    PAGE.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect()
}

#[test]
fn each_event_has_its_section_and_each_section_its_event() {
    let told: BTreeSet<String> = sections().into_iter().map(|(reason, _)| reason.to_owned()).collect();
    let (reasons, none) = (reasons(), Vec::<&String>::new());
    assert_eq!(reasons.difference(&told).collect::<Vec<_>>(), none, "without a section in docs/troubleshooting.md");
    assert_eq!(told.difference(&reasons).collect::<Vec<_>>(), none, "no Event of this name is written");
}

#[test]
fn the_texts_of_the_sections_are_those_of_the_code() {
    let code = code();
    for (reason, section) in sections() {
        let texts: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        assert!(!texts.is_empty(), "{reason} has no text");
        for text in texts {
            let pieces = text.split('…').map(str::trim).filter(|piece| piece.len() >= SHORT);
            for piece in pieces {
                assert!(code.iter().any(|code| code.contains(piece)), "{reason}: {piece:?} is nowhere in the code");
            }
        }
    }
}

#[test]
fn links_within_the_page_lead_somewhere() {
    let headings = PAGE.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>()
    };
    let anchors: BTreeSet<String> = headings.map(anchor).collect();
    for link in PAGE.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(anchors.contains(link), "#{link}");
    }
}
