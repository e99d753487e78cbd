//! The report as people read it: each GPU, and below it the claims that hold it. Pure.
use std::fmt::Write as _;

use aliquot_model::Memory;

use super::{
    paint::{Paint, Style},
    report::{Claim, Device, Gpu, Report, TimeSliceOwed},
};
use crate::sweep::report::ToldVerdict;

/// One cell.
type Cell = (String, Style);

/// A line of GPUs or of claims, or text of its own.
enum Line {
    Gpu(Vec<Cell>),
    Claim(Vec<Cell>),
    Text(Cell),
}

const GPU: [&str; 8] = ["GPU", "NAME", "UUID", "MEMORY", "BUSY", "TEMP", "POWER", "HEALTH"];
const CLAIM: [&str; 7] = ["CLAIM", "PODS", "HOLDS", "MEMORY", "SM", "AGE", "SWEEP"];
/// In seconds: a sweep looks once a minute where nothing else is said.
const LONG_AGO: u64 = 120;
/// Claims stand below their GPU, a little in.
const INDENT: &str = "     ";

/// All of it.
pub(super) fn table(report: &Report, paint: Paint) -> String {
    let mut lines = vec![Line::Text((heading(report), Style::Strong)), Line::Text(blank())];
    if let Some(trouble) = &report.gpus_trouble {
        lines.push(Line::Text((
            format!("the GPUs can't be read, so this is from records alone: {trouble}"),
            Style::Bad,
        )));
        lines.push(Line::Text(blank()));
    }
    if !report.gpus.is_empty() {
        lines.push(Line::Gpu(GPU.map(|name| (name.to_owned(), Style::Strong)).to_vec()));
    }
    if !report.claims.is_empty() {
        lines.push(Line::Claim(CLAIM.map(|name| (name.to_owned(), Style::Faint)).to_vec()));
    }
    for gpu in &report.gpus {
        lines.push(Line::Gpu(of_gpu(gpu)));
        for claim in &report.claims {
            lines.extend(claim.devices.iter().filter(|device| gpu.has(device)).map(|held| of_claim(claim, Some(held))));
        }
        if let Some(bytes) = gpu.others_memory_bytes {
            let mut cells = vec![blank(); CLAIM.len()];
            cells[0] = ("processes of no claim".to_owned(), Style::Bad);
            cells[3] = (amount(bytes), Style::Plain);
            lines.push(Line::Claim(cells));
        }
    }
    let mut placeless = Vec::new();
    for claim in &report.claims {
        let is_shown = |device: &&Device| report.gpus.iter().any(|gpu| gpu.has(device));
        let rest: Vec<&Device> = claim.devices.iter().filter(|device| !is_shown(device)).collect();
        if claim.devices.is_empty() {
            placeless.push(of_claim(claim, None));
        }
        placeless.extend(rest.into_iter().map(|device| of_claim(claim, Some(device))));
    }
    if !placeless.is_empty() && !report.gpus.is_empty() {
        lines.push(Line::Text(("on no GPU that is there:".to_owned(), Style::Bad)));
    }
    lines.extend(placeless);
    lines.extend(notes(report));
    laid_out(&lines, paint)
}

/// Who looks at what.
fn heading(report: &Report) -> String {
    let mut parts = vec![format!("aliquot {}", report.version), report.driver.clone()];
    let version = report.gpus.iter().find_map(|gpu| gpu.driver_version.as_ref());
    parts.extend(version.map(|version| format!("NVIDIA {version}")));
    parts.push(count(report.gpus.len(), "GPU"));
    parts.push(count(report.claims.len(), "claim"));
    parts.push(match &report.sweep {
        None => "no driver answers".to_owned(),
        Some(sweep) => match sweep.seconds_ago {
            Some(seconds) if seconds >= LONG_AGO => format!("sweep: {}, last {} ago", sweep.mode, period(seconds)),
            Some(_) => format!("sweep: {}", sweep.mode),
            None => format!("sweep: {}, not yet", sweep.mode),
        },
    });
    parts.join("  |  ")
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn of_gpu(gpu: &Gpu) -> Vec<Cell> {
    let health = match &gpu.trouble {
        // Its driver is in the virtual machine.
        None if gpu.iommu_group.is_some() => (none(), Style::Faint),
        None => ("ok".to_owned(), Style::Good),
        // What to do about it stands below.
        Some(_) => ("ill".to_owned(), Style::Bad),
    };
    let uuid = match gpu.iommu_group {
        // It has none without NVIDIA's driver.
        Some(_) => gpu.pci.map(|pci| pci.to_string()),
        None => gpu.uuid.as_ref().map(|uuid| uuid.as_str().chars().take(12).collect()),
    };
    let cells = [
        gpu.index.map(|index| index.to_string()),
        gpu.product_name.clone().or_else(|| gpu.pci.map(|pci| pci.to_string())),
        uuid,
        of_all(gpu.memory_used_bytes, gpu.memory_bytes),
        gpu.busy_percent.map(|busy| format!("{busy}%")),
        gpu.temperature_celsius.map(|degrees| format!("{degrees}°C")),
        of_power(gpu.power_milliwatts, gpu.power_limit_milliwatts),
    ];
    cells.into_iter().map(|cell| (cell.unwrap_or_else(none), Style::Strong)).chain([health]).collect()
}

fn of_power(used: Option<u32>, limit: Option<u32>) -> Option<String> {
    let watts = |milliwatts: u32| milliwatts.saturating_add(500) / 1000;
    Some(match limit {
        Some(limit) => format!("{}/{} W", watts(used?), watts(limit)),
        None => format!("{} W", watts(used?)),
    })
}

fn of_claim(claim: &Claim, device: Option<&Device>) -> Line {
    let name = match (&claim.namespace, &claim.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => claim.uid.clone(),
    };
    let pods: Vec<&str> = claim.pods.iter().map(|pod| pod.name.as_str()).collect();
    let memory = device.and_then(|device| {
        let together = if device.is_together { "+" } else { "" };
        Some(of_all(Some(device.memory_used_bytes?), device.memory_bytes)? + together)
    });
    let is_over = device.is_some_and(|device| {
        !device.is_together && device.memory_bytes.is_some_and(|limit| device.memory_used_bytes > Some(limit))
    });
    let (sweep, sweep_style) = match (claim.state, &claim.sweep) {
        ("prepared", None) => (none(), Style::Faint),
        ("prepared", Some(told)) => thought(told),
        (state, told) => {
            (told.as_ref().map_or_else(|| state.to_owned(), |told| format!("{state}, {}", thought(told).0)), Style::Bad)
        }
    };
    Line::Claim(vec![
        (name, Style::Plain),
        (if pods.is_empty() { none() } else { pods.join(",") }, Style::Plain),
        (device.map_or_else(none, holds), Style::Plain),
        (memory.unwrap_or_else(none), if is_over { Style::Bad } else { Style::Plain }),
        (device.and_then(|device| device.sm_percent).map_or_else(none, |sm| format!("{sm}%")), Style::Plain),
        (claim.age_seconds.map_or_else(none, period), Style::Plain),
        (sweep, sweep_style),
    ])
}

fn holds(device: &Device) -> String {
    let what = match device.memory_bytes {
        _ if device.name.is_admin() => "to look after".to_owned(),
        _ if device.name.is_vfio() => "virtual machine".to_owned(),
        Some(memory) => format!("share {}", Memory::from_bytes(memory)),
        None => "whole".to_owned(),
    };
    if device.hard_limit { format!("{what}, hard limit") } else { what }
}

/// What can't be said in a cell.
fn notes(report: &Report) -> Vec<Line> {
    let mut notes: Vec<Line> = Vec::new();
    let mut note = |text: String, style| {
        notes.push(Line::Text(blank()));
        notes.push(Line::Text((text, style)));
    };
    for gpu in &report.gpus {
        let name = gpu.index.map(|index| index.to_string()).or_else(|| gpu.pci.map(|pci| pci.to_string()));
        if let (Some(trouble), Some(name)) = (&gpu.trouble, name) {
            note(format!("GPU {name} is not for new claims: {trouble}"), Style::Bad);
        }
    }
    for claim in &report.claims {
        if let (Some(trouble), Some(file)) = (&claim.trouble, &claim.file) {
            note(format!("{file} can't be used: {trouble}"), Style::Bad);
        }
    }
    for TimeSliceOwed { gpu, reason } in &report.time_slices_owed {
        note(format!("GPU {gpu} keeps the time slice of a claim that is gone: {reason}"), Style::Bad);
    }
    if report.claims.iter().flat_map(|claim| &claim.devices).any(|device| device.is_together) {
        note("+ of all that the claim's pods hold of this GPU together".to_owned(), Style::Faint);
    }
    notes
}

/// Each kind of line in columns of its own.
fn laid_out(lines: &[Line], paint: Paint) -> String {
    let widths = |pick: fn(&Line) -> Option<&Vec<Cell>>| {
        let mut widths: Vec<usize> = Vec::new();
        for cells in lines.iter().filter_map(pick) {
            widths.resize(cells.len().max(widths.len()), 0);
            for (width, (text, _)) in widths.iter_mut().zip(cells) {
                *width = (*width).max(text.chars().count());
            }
        }
        widths
    };
    let gpus = widths(|line| if let Line::Gpu(cells) = line { Some(cells) } else { None });
    let claims = widths(|line| if let Line::Claim(cells) = line { Some(cells) } else { None });
    let mut all = String::new();
    for line in lines {
        match line {
            Line::Gpu(cells) => put(&mut all, "", cells, &gpus, paint),
            Line::Claim(cells) => put(&mut all, INDENT, cells, &claims, paint),
            Line::Text((text, style)) => {
                let _ = writeln!(all, "{}", paint.text(text, *style));
            }
        }
    }
    all
}

fn put(all: &mut String, indent: &str, cells: &[Cell], widths: &[usize], paint: Paint) {
    let used = cells.iter().rposition(|(text, _)| !text.is_empty()).map_or(0, |last| last + 1);
    let mut line = indent.to_owned();
    for (at, ((text, style), width)) in cells.iter().take(used).zip(widths).enumerate() {
        line.push_str(&paint.text(text, *style));
        if at + 1 < used {
            let _ = write!(line, "{:1$}", "", width - text.chars().count() + 3);
        }
    }
    all.push_str(&line);
    all.push('\n');
}

fn blank() -> Cell {
    (String::new(), Style::Plain)
}

fn none() -> String {
    "-".to_owned()
}

/// In GiB, as people compare it; how much of how much, where that is known.
fn of_all(used: Option<u64>, all: Option<u64>) -> Option<String> {
    match (used, all) {
        (Some(used), Some(all)) => Some(format!("{} of {}", gibibytes(used), amount(all))),
        (Some(used), None) => Some(amount(used)),
        (None, Some(all)) => Some(format!("- of {}", amount(all))),
        (None, None) => None,
    }
}

fn amount(bytes: u64) -> String {
    format!("{} GiB", gibibytes(bytes))
}

#[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn gibibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1_u64 << 30) as f64)
}

/// What the sweep thinks, in a few words.
fn thought(told: &ToldVerdict) -> Cell {
    let mut text = told.verdict.replace('_', " ");
    if let Some(seconds) = told.for_seconds {
        let _ = write!(text, " for {}", period(seconds));
    }
    if let Some(reason) = &told.reason {
        let _ = write!(text, ": {reason}");
    }
    let style = match told.verdict.as_str() {
        "suspect" | "stale" => Style::Bad,
        _ => Style::Faint,
    };
    (text, style)
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
#[path = "table_tests.rs"]
mod tests;
