//! The page on metrics and the real driver say the same: no metric that isn't on it, and none on it that isn't served.
use std::collections::{BTreeMap, BTreeSet};

use aliquot_tests::testbed::{Result, Testbed};
use fake_nvml::Readings;

use crate::scene::{Series, label_names, measure, series, until};

const PAGE: &str = include_str!("../../../docs/metrics.md");
/// The ends of a histogram's series.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The cells of a table's row, without the marks of code.
fn cells(line: &str) -> Option<Vec<String>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(|cell| cell.trim().to_owned()).collect())
}

fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_ours(name: &str) -> bool {
    name.starts_with("aliquot_") || name.starts_with("hw_")
}

/// Metrics with their type and the names of their labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = PAGE.lines().filter_map(cells).filter(|cells| cells.len() == 4);
    let row = |cells: Vec<String>| {
        let [name]: [String; 1] = code(&cells[0]).try_into().ok()?;
        Some((name, (cells[1].clone(), code(&cells[2]).into_iter().collect())))
    };
    rows.filter_map(row).filter(|(name, _): &(String, _)| is_ours(name)).collect()
}

/// A node on which every metric has a series.
async fn full() -> Result<Testbed> {
    let testbed = Testbed::start("h100x8").await?;
    let uncounted = Readings { fields: [].into(), ..Readings::default() };
    measure(&testbed, &[(1, uncounted)])?;
    testbed.share("claim", "gpu-0000-1b-00", &[("pod", "pod-uid")]).await?;
    Ok(testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_on_the_page_with_its_type_and_its_labels_and_no_other_is() -> Result<()> {
    let testbed = full().await?;
    let is_full = |all: &[Series]| {
        let has = |name: &str| all.iter().any(|series| series.name == name);
        has("aliquot_gpu_pcie_throughput_bytes_per_second") && has("aliquot_slices_published")
    };
    until(&testbed, "every metric has a series", is_full).await?;
    let text = testbed.metrics().await?;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let served: BTreeMap<String, String> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    let documented = documented();
    let on_page: BTreeMap<String, String> =
        documented.iter().map(|(name, (kind, _))| (name.clone(), kind.clone())).collect();
    assert_eq!(served, on_page);
    for (name, labels) in label_names(&series(&text)) {
        let base = PARTS.iter().find_map(|part| name.strip_suffix(part)).filter(|base| documented.contains_key(*base));
        let labels: BTreeSet<String> = labels.into_iter().filter(|label| base.is_none() || label != "le").collect();
        let family = base.unwrap_or(&name);
        assert_eq!(labels, documented[family].1, "labels of {name}");
    }
    Ok(())
}

#[test]
fn what_dcgm_exporters_metrics_are_here_is_on_the_page_too() {
    let documented = documented();
    let rows = PAGE.lines().filter_map(cells).filter(|cells| cells.len() == 2 && cells[0].starts_with("`DCGM_"));
    let mut count = 0;
    for row in rows {
        for here in code(&row[1]) {
            let name = here.split(['{', ' ']).next().unwrap_or_default();
            assert!(documented.contains_key(name), "{} is {name}, which is not on the page", row[0]);
        }
        count += 1;
    }
    assert!(count >= 20, "{count} metrics of dcgm-exporter have a counterpart");
}
