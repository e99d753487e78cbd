//! What a claim's spec costs, as it is and with the node's part in it: its size, and the time to write it.
use std::{fs, path::Path, time::Instant};

use cdi_spec::{ContainerEdits, Spec, Store};

use super::{Report, measure};
use crate::testbed::Result;

const WRITES: usize = 1000;

/// All figures of this part, from the two specs of a node, with files in `dir`.
///
/// The floor is as many bytes, ready, written to a file that is renamed; each of the four is measured once in every round,
/// so that whatever else the machine does hits all of them.
pub(super) fn run(node: &[u8], claim: &[u8], dir: &Path, report: &mut Report) -> Result<()> {
    let (node_spec, split): (Spec, Spec) = (serde_json::from_slice(node)?, serde_json::from_slice(claim)?);
    let unsplit = joined(&node_spec, &split)?;
    let kinds = [("split", split), ("unsplit", unsplit)];
    report.add("spec_node_bytes", "B", f64::from(u32::try_from(node.len())?), None, None);
    let store = Store::open(&dir.join("specs"))?;
    let floor = dir.join("floor");
    fs::create_dir_all(&floor)?;
    let mut times = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for round in 0..WRITES {
        for ((name, spec), (times, floors)) in kinds.iter().zip(&mut times) {
            let bytes = bytes(spec)?;
            let id = format!("{name}{round}");
            let begun = Instant::now();
            store.write(&id, spec)?;
            times.push(microseconds(begun));
            let (temporary, path) = (floor.join(format!(".{id}")), floor.join(&id));
            let begun = Instant::now();
            fs::write(&temporary, &bytes)?;
            fs::rename(&temporary, &path)?;
            floors.push(microseconds(begun));
        }
    }
    for ((name, spec), (times, floors)) in kinds.iter().zip(times) {
        let size = f64::from(u32::try_from(bytes(spec)?.len())?);
        report.add(&format!("spec_{name}_bytes"), "B", size, None, None);
        let (times, floors) = (measure::sorted(times), measure::sorted(floors));
        for share in [50, 99] {
            let at = |times: &[f64]| measure::percentile(times, share);
            report.add(&format!("spec_{name}_write_p{share}"), "µs", at(&times), Some(at(&floors)), None);
        }
    }
    Ok(())
}

/// A claim's spec that has the node's in it.
fn joined(node: &Spec, claim: &Spec) -> Result<Spec> {
    let common: ContainerEdits = node.devices.first().ok_or("the node's spec has no device")?.container_edits.clone();
    Ok(Spec::new(claim.kind.clone(), claim.devices.clone(), common))
}

/// As a file has it.
fn bytes(spec: &Spec) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(spec)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn microseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"{"cdiVersion":"0.5.0","kind":"v.example/driver","devices":[{"name":"node","containerEdits":
        {"env":["A=b"]}}]}"#;
    const CLAIM: &str = r#"{"cdiVersion":"0.5.0","kind":"v.example/claim","devices":[{"name":"u1-gpu","containerEdits":
        {"env":["C=d"]}}]}"#;

    #[test]
    fn both_ways_are_measured_and_the_one_is_larger_by_the_nodes_edits() {
        let (dir, mut report) = (tempfile::tempdir().unwrap(), Report::default());
        run(NODE.as_bytes(), CLAIM.as_bytes(), dir.path(), &mut report).unwrap();
        let value = |name: &str| {
            let line = report.json().lines().find(|line| line.contains(&format!("\"{name}\""))).map(ToOwned::to_owned);
            let figure: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            (figure["value"].as_f64().unwrap(), figure["floor"].as_f64())
        };
        let common = u32::try_from(r#","containerEdits":{"env":["A=b"]}"#.len()).unwrap();
        let larger = value("spec_unsplit_bytes").0 - value("spec_split_bytes").0;
        assert!((larger - f64::from(common)).abs() < 0.5, "{larger}");
        for name in ["spec_split_write_p50", "spec_split_write_p99", "spec_unsplit_write_p50", "spec_unsplit_write_p99"]
        {
            assert!(value(name).0 > 0.0 && value(name).1 > Some(0.0), "{name}");
        }
    }
}
