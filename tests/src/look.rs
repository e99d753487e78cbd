//! What a suite sees of a testbed from outside: CDI specs, records, events, metrics and what was ever published.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::testbed::{PATIENCE, Result, Testbed, whole_pool};

impl Testbed {
    /// The environment, by name, that CDI ids stand for, without what every container of their claims gets.
    pub fn env_of(&self, ids: &[String]) -> Result<BTreeMap<String, String>> {
        let mut env = BTreeMap::new();
        for path in self.specs()? {
            let spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            let kind = spec["kind"].as_str().unwrap_or_default();
            for device in spec["devices"].as_array().into_iter().flatten() {
                if ids.contains(&format!("{kind}={}", device["name"].as_str().unwrap_or_default())) {
                    let lines = device.pointer("/containerEdits/env").and_then(Value::as_array).into_iter().flatten();
                    let pairs = lines.filter_map(|line| line.as_str()?.split_once('='));
                    env.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
            }
        }
        Ok(env)
    }

    /// What the records on the node say, without their checksums. One that goes while they are read isn't told.
    pub fn told_by_records(&self) -> Result<Vec<Value>> {
        let mut told = Vec::new();
        let is_finished = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        for path in self.records()?.into_iter().filter(is_finished) {
            let text = match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                text => text?,
            };
            told.push(serde_json::from_str(text.lines().next().unwrap_or_default())?);
        }
        Ok(told)
    }

    /// The events of a reason.
    pub fn events(&self, reason: &str) -> Vec<Value> {
        let mut events = self.api.peek_all("events");
        events.retain(|event| event["reason"] == reason);
        events
    }

    /// Waits for an event of a reason: its kind and name, and its note.
    pub async fn event(&self, reason: &str) -> Result<(String, String)> {
        self.until(&format!("there is an event {reason}"), || !self.events(reason).is_empty()).await?;
        let event = self.events(reason).first().cloned().unwrap_or_default();
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok((format!("{} {}", text("/regarding/kind"), text("/regarding/name")), text("/note")))
    }

    /// The names of all devices after each change of the slices, as schedulers see them: of pools of which all slices of
    /// the newest generation are there.
    pub fn ever_published(&self) -> Result<Vec<BTreeSet<String>>> {
        let mut ever = Vec::new();
        for slices in self.api.history("resourceslices") {
            let slices: Vec<ResourceSlice> = serde_json::from_value(json!(slices))?;
            if let Some(current) = whole_pool(&slices) {
                let devices = current.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
                ever.push(devices.map(|device| device.name.clone()).collect());
            }
        }
        Ok(ever)
    }

    /// The value of a metric without labels, or of one line with them.
    pub async fn metric(&self, name: &str) -> Result<Option<u64>> {
        let text = self.metrics().await?;
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(values.next().and_then(|value| value.trim().parse().ok()))
    }

    /// Waits until the driver that was started last says that it is registered and has published.
    pub async fn until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get("/readyz").await;
            if matches!(&answer, Ok(answer) if answer.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the driver isn't ready: {answer:?}; its log:\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All metrics of the driver that was started last.
    pub async fn metrics(&self) -> Result<String> {
        self.get("/metrics").await
    }

    /// Where the driver that was started last serves metrics.
    pub fn metrics_address(&self) -> Result<String> {
        let log = self.log();
        let line = log.lines().rev().find(|line| line.contains("serving metrics")).ok_or("no metrics are served")?;
        let plain: String = without_colours(line);
        let address = plain.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(address.ok_or("the log names no address")?.to_owned())
    }

    /// What the driver that was started last answers over HTTP, with the status line and headers.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.get_as(path, "*/*").await
    }

    /// The same, for a client that takes these formats.
    pub async fn get_as(&self, path: &str, accept: &str) -> Result<String> {
        Ok(get_at(&self.metrics_address()?, path, accept).await?)
    }

    /// Waits for a metric, or one line of it, to have a value, or to be gone.
    pub async fn until_metric(&self, name: &str, value: Option<u64>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A driver that has just started doesn't serve any yet.
            let now = self.metric(name).await;
            if matches!(&now, Ok(now) if *now == value) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{name} is {now:?}, and not {value:?}; the driver's log:\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What is answered over HTTP at an address, with the status line and headers.
pub(crate) async fn get_at(address: &str, path: &str, accept: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// A log line without the sequences that colour it.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.filter_map(|part| part.split_once('m').map(|(_, text)| text));
    first + &rest.collect::<String>()
}
