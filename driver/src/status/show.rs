//! What `status` prints: pure.
use std::{fmt::Write as _, time::SystemTime};

use serde::Serialize;

use crate::{
    claim::{Seen, SeenState},
    sweep::report::{Told, ToldVerdict},
};

/// All of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    api_version: &'static str,
    kind: &'static str,
    version: &'static str,
    driver: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sweep: Option<Sweep>,
    claims: Vec<Claim>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sweep {
    mode: String,
    grace_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_ago: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    uid: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Why the record can't be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    devices: Vec<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sweep: Option<ToldVerdict>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    #[serde(rename = "device")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip)]
    memory: Option<String>,
}

/// Of what the records show, and of what the driver said.
pub(super) fn report(driver: &str, seen: &[Seen], told: Option<&Told>, now: SystemTime) -> Report {
    let verdict = |uid: &str| told.and_then(|told| told.verdicts.get(uid)).cloned();
    let mut claims: Vec<Claim> = seen.iter().map(|seen| claim(seen, verdict(seen.uid.as_str()), now)).collect();
    let is_seen = |uid: &String| seen.iter().any(|seen| seen.uid.as_str() == uid);
    let only_told = told.iter().flat_map(|told| &told.verdicts).filter(|(uid, told)| told.is_spec && !is_seen(uid));
    claims.extend(only_told.map(|(uid, verdict)| Claim {
        namespace: None,
        name: None,
        uid: uid.clone(),
        state: "spec-only",
        age_seconds: None,
        file: None,
        trouble: None,
        devices: Vec::new(),
        sweep: Some(verdict.clone()),
    }));
    Report {
        api_version: "gpu.aliquot.dev/v1alpha1",
        kind: "ClaimReport",
        version: env!("CARGO_PKG_VERSION"),
        driver: driver.to_owned(),
        sweep: told.map(|told| Sweep {
            mode: told.mode.clone(),
            grace_seconds: told.grace_seconds,
            seconds_ago: told.seconds_ago,
        }),
        claims,
    }
}

fn claim(seen: &Seen, sweep: Option<ToldVerdict>, now: SystemTime) -> Claim {
    let (state, trouble) = match &seen.state {
        SeenState::Preparing => ("preparing", None),
        SeenState::Prepared => ("prepared", None),
        SeenState::Quarantined(reason) => ("quarantined", Some(reason.clone())),
    };
    let devices = seen.devices.iter().map(|device| Device {
        name: device.name.to_string(),
        request: device.request.clone(),
        gpu: device.gpu.as_ref().map(ToString::to_string),
        share_id: device.share_id.clone(),
        memory_bytes: device.memory.map(aliquot_model::Memory::bytes),
        memory: device.memory.map(|memory| memory.to_string()),
    });
    Claim {
        namespace: seen.claim.as_ref().map(|claim| claim.namespace().to_owned()),
        name: seen.claim.as_ref().map(|claim| claim.name().to_owned()),
        uid: seen.uid.to_string(),
        state,
        // A clock that was set back shows in files of the future.
        age_seconds: seen.written.map(|at| now.duration_since(at).unwrap_or_default().as_secs()),
        file: Some(seen.file.display().to_string()),
        trouble,
        devices: devices.collect(),
        sweep,
    }
}

/// One line for each device, in columns as kubectl prints them.
pub(super) fn table(report: &Report) -> String {
    let mut rows = vec![["CLAIM", "UID", "STATE", "DEVICE", "SHARE", "MEMORY", "AGE", "SWEEP"].map(ToOwned::to_owned)];
    for claim in &report.claims {
        let name = match (&claim.namespace, &claim.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => none(),
        };
        let age = claim.age_seconds.map_or_else(none, period);
        let sweep = claim.sweep.as_ref().map_or_else(none, thought);
        let row = |device: String, share: String, memory: String| {
            [name.clone(), claim.uid.clone(), claim.state.to_owned(), device, share, memory, age.clone(), sweep.clone()]
        };
        if claim.devices.is_empty() {
            rows.push(row(none(), none(), none()));
        }
        for device in &claim.devices {
            let share = device.share_id.clone().unwrap_or_else(none);
            rows.push(row(device.name.clone(), share, device.memory.clone().unwrap_or_else(none)));
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for claim in &report.claims {
        if let (Some(trouble), Some(file)) = (&claim.trouble, &claim.file) {
            let _ = writeln!(text, "\n{file} can't be used: {trouble}");
        }
    }
    text
}

fn none() -> String {
    "-".to_owned()
}

/// What the sweep thinks, in a few words.
fn thought(told: &ToldVerdict) -> String {
    let mut text = told.verdict.replace('_', " ");
    if let Some(seconds) = told.for_seconds {
        let _ = write!(text, " for {}", period(seconds));
    }
    if let Some(reason) = &told.reason {
        let _ = write!(text, ": {reason}");
    }
    text
}

/// As kubectl prints ages.
fn period(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use dra_plugin::{ClaimRef, ClaimUid};

    use super::*;

    fn seen(uid: &str, state: SeenState) -> Seen {
        Seen {
            uid: ClaimUid::new(uid).unwrap(),
            claim: ClaimRef::new("team", "training", uid).ok(),
            state,
            file: format!("/run/aliquot/x/claims/{uid}.json").into(),
            written: Some(SystemTime::UNIX_EPOCH),
            devices: vec![],
        }
    }

    fn told(verdict: &str, is_spec: bool) -> ToldVerdict {
        let reason = Some("the claim doesn't exist any more".to_owned());
        ToldVerdict { verdict: verdict.into(), reason, for_seconds: Some(61), is_spec }
    }

    #[test]
    fn each_claim_has_its_line_and_what_the_sweep_thinks_of_it() {
        let all = [seen("u1", SeenState::Prepared), seen("u2", SeenState::Quarantined("it is cut short".into()))];
        let verdicts =
            BTreeMap::from([("u1".to_owned(), told("suspect", false)), ("u3".to_owned(), told("stale", true))]);
        let told = Told { mode: "act".into(), grace_seconds: 300, seconds_ago: Some(2), verdicts };
        let report = report("x", &all, Some(&told), SystemTime::UNIX_EPOCH + Duration::from_mins(3));
        let text = table(&report);
        let line = |start: &str| text.lines().find(|line| line.contains(start)).unwrap_or_default().to_owned();
        assert!(line("u1").contains("prepared") && line("u1").contains("3m"), "{text}");
        assert!(line("u1").ends_with("suspect for 61s: the claim doesn't exist any more"), "{text}");
        assert!(
            line("u2").contains("quarantined") && text.contains("u2.json can't be used: it is cut short"),
            "{text}"
        );
        assert!(line("u3").contains("spec-only"), "{text}");
    }

    #[test]
    fn without_a_driver_nothing_is_claimed_about_the_sweep() {
        let report = report("x", &[seen("u1", SeenState::Preparing)], None, SystemTime::UNIX_EPOCH);
        let table = table(&report);
        let cells: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(cells[cells.len() - 2..], ["0s", "-"], "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert!(json.get("sweep").is_none() && json["claims"][0].get("sweep").is_none(), "{json}");
    }
}
