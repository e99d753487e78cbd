//! Who holds what of which GPU, added up from the records on a node.
use std::collections::BTreeMap;

use serde_json::Value;

use crate::testbed::{Result, Testbed};

/// What the records hold of one GPU.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Claims that hold it whole.
    pub whole: usize,
    /// Shares.
    pub shares: u64,
    /// Bytes of memory in shares.
    pub memory: u64,
    /// The most shares and memory that it was offered in to any of those.
    pub offered: (u64, u64),
}

impl Held {
    /// It is held whole by one or in shares by some, and not beyond what it has.
    pub fn is_held_once(&self) -> bool {
        let fits = self.shares <= self.offered.0 && self.memory <= self.offered.1;
        if self.whole > 0 { self.whole == 1 && self.shares == 0 } else { fits }
    }
}

impl Testbed {
    /// What the records hold, by GPU.
    pub fn holds(&self) -> Result<BTreeMap<String, Held>> {
        let mut gpus: BTreeMap<String, Held> = BTreeMap::new();
        for record in self.told_by_records()? {
            for device in record["devices"].as_array().into_iter().flatten() {
                let held = gpus.entry(device["gpu"].as_str().unwrap_or_default().to_owned()).or_default();
                let number = |path: &str| device.pointer(path).and_then(Value::as_u64).ok_or("a record lacks a number");
                if device.get("share").is_none() {
                    held.whole += 1;
                    continue;
                }
                held.shares += number("/share/takes/shares")?;
                held.memory += number("/share/takes/memory")?;
                let (shares, memory) = held.offered;
                held.offered = (shares.max(number("/share/of/shares")?), memory.max(number("/share/of/memory")?));
            }
        }
        Ok(gpus)
    }
}
