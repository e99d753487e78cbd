//! Prometheus out of its Debian package, for suites that ask it: unpacked into the build's own directory, and nothing installed.
use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::{
    debian::{Source, Unavailable, download, entries, loader, once, run, within},
    digest::sha256,
    testbed::{PATIENCE, Result},
};

/// Debian 13, by its name.
const RELEASE: &str = "trixie";
/// The program, and the C library that it is linked against. What else it depends on is for its pages.
const PACKAGES: [&str; 2] = ["prometheus", "libc6"];
/// As often as suites can wait for.
const INTERVAL: &str = "500ms";

/// The unpacked program, which stays as long as the build's directory does.
#[derive(Debug, Clone)]
pub struct Program {
    dir: PathBuf,
}

impl Program {
    /// Unpacks it below `target_dir`, once. Takes seconds and a network.
    pub fn fetch(target_dir: &Path) -> std::result::Result<Self, Unavailable> {
        let parts = [&[RELEASE], &PACKAGES[..]].concat().join(" ");
        let name = |_: &Path| format!("prometheus-{}", &sha256(parts.as_bytes())[..12]);
        let dir = once(target_dir, name, |scratch, _| {
            let archives = download(scratch, Source::Stable(RELEASE), &PACKAGES)?;
            let (root, fresh) = (scratch.join("root"), scratch.join("fresh"));
            for archive in entries(&archives)? {
                let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if PACKAGES.iter().any(|package| name.starts_with(&format!("{package}_"))) {
                    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;
                }
            }
            fs::create_dir_all(&fresh).map_err(within(&fresh))?;
            let lib = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
            for (from, to) in [("usr/bin/prometheus", "prometheus"), (lib.as_str(), "lib")] {
                let from = root.join(from);
                fs::rename(&from, fresh.join(to)).map_err(within(&from))?;
            }
            Ok(fresh)
        })?;
        Ok(Self { dir })
    }

    /// By the loader of its own C library, as the machine's may be older.
    fn command(&self) -> std::result::Result<Command, Unavailable> {
        let lib = self.dir.join("lib");
        let mut command = Command::new(lib.join(loader(&lib)?));
        command.arg("--library-path").arg(&lib).arg(self.dir.join("prometheus"));
        Ok(command)
    }
}

/// What is scraped, as a job of its own.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The job's name.
    pub name: &'a str,
    /// Address and port.
    pub target: String,
    /// What the target's series are labelled with.
    pub labels: &'a [(&'a str, &'a str)],
    /// Whether labels of the target's own win.
    pub honor_labels: bool,
}

/// A Prometheus that runs. Dropping it ends it and takes what it has stored away.
pub struct Prometheus {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

/// One series of an answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Found {
    /// Its labels.
    pub metric: Value,
    /// The time, and the value as text.
    value: (f64, String),
}

impl Found {
    /// Not a number where the text is none.
    pub fn value(&self) -> f64 {
        self.value.1.parse().unwrap_or(f64::NAN)
    }
}

impl Prometheus {
    /// Starts it, and waits until it answers.
    pub async fn start(program: &Program, jobs: &[Job<'_>]) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut prometheus = Self::begin(program, jobs)?;
            while prometheus.child.try_wait()?.is_none() {
                if prometheus.get("/-/ready").await.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200")) {
                    return Ok(prometheus);
                }
                if Instant::now() > deadline {
                    return Err(format!("Prometheus doesn't become ready:\n{}", prometheus.log()).into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Somebody else may have had its port first; anything else doesn't pass.
            if !prometheus.log().contains("address already in use") {
                return Err(format!("Prometheus ended:\n{}", prometheus.log()).into());
            }
        }
    }

    fn begin(program: &Program, jobs: &[Job<'_>]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("aliquot").tempdir()?;
        let scrapes: Vec<Value> = jobs
            .iter()
            .map(|job| {
                let labels: serde_json::Map<String, Value> =
                    job.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
                json!({"job_name": job.name, "honor_labels": job.honor_labels,
                    "static_configs": [{"targets": [job.target], "labels": labels}]})
            })
            .collect();
        let global = json!({"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL});
        // JSON is YAML.
        let config = dir.path().join("prometheus.yaml");
        fs::write(&config, json!({"global": global, "scrape_configs": scrapes}).to_string())?;
        // It can't say which port it got, so it is told one that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let child = program
            .command()?
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log"))?)
            .spawn()?;
        Ok(Self { child, address, dir })
    }

    /// The series of an instant query.
    pub async fn query(&self, expression: &str) -> Result<Vec<Found>> {
        let answer = self.get(&format!("/api/v1/query?query={}", encoded(expression))).await?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP")?;
        let body: Value = serde_json::from_str(body)?;
        if body["status"] != "success" {
            return Err(format!("{expression}: {}", body["error"]).into());
        }
        // A number without labels, as of time(), isn't asked for.
        Ok(serde_json::from_value(body["data"]["result"].clone())?)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// By HTTP/1.0, whose answers come in one piece.
    async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As a URL's query has it (RFC 3986).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_means_something_in_a_url_is_encoded() {
        assert_eq!(encoded("sum(a{b=~\"é+\"})"), "sum%28a%7Bb%3D~%22%C3%A9%2B%22%7D%29".replace('~', "%7E"));
    }
}
