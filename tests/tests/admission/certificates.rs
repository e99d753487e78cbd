//! Certificates: made and renewed beside other replicas without a request that fails, or followed in files.
use std::{collections::BTreeSet, os::unix::fs::symlink, path::Path, sync::Arc};

use fake_apiserver::{Asked, Fault, Trouble};

use super::{
    tls::{bad, certificate, connect, post, review, send},
    *,
};

/// By how much an API server is behind with what it trusts.
const LAG: Duration = Duration::from_millis(200);

/// What an API server trusts, which is behind the configuration by `LAG`.
struct Follower {
    seen: Vec<(Instant, Vec<u8>)>,
    looked: Instant,
}

impl Follower {
    fn trusts(&mut self, now: Instant, bundle: Vec<u8>) -> Vec<u8> {
        // A test that was held up must not be further behind for that.
        if now - self.looked > LAG {
            self.seen.clear();
        }
        self.looked = now;
        if self.seen.last().is_none_or(|(_, last)| *last != bundle) {
            self.seen.push((now, bundle));
        }
        let old_enough = self.seen.iter().rposition(|(since, _)| now - *since >= LAG);
        self.seen.drain(..old_enough.unwrap_or_default());
        self.seen[0].1.clone()
    }
}

/// Has wrong parameters refused over a connection of its own, and gives that one's certificate.
async fn refused_by(replica: &Replica, trusted: &[u8]) -> Result<Vec<u8>> {
    let stream = connect(replica.address, trusted).await?;
    let certificate = certificate(&stream).ok_or("no certificate")?;
    let review = review("deviceclasses", "v1", "CREATE", &[bad()]);
    let (code, answer) = send(stream, post("application/json", review.to_string())?).await?;
    assert_eq!(code, http::StatusCode::OK, "{answer}");
    assert_eq!(serde_json::from_str::<Value>(&answer)?["response"]["allowed"], serde_json::json!(false));
    Ok(certificate)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_renew_their_certificate_and_no_request_fails() -> Result<()> {
    let api = Arc::new(deployed().await?);
    let life = ["--webhook-cert-life", "12s"];
    let replicas = [Replica::start(&api, &life).await?, Replica::start(&api, &life).await?];
    let trusted = until("the authority is written", async || bundle(&api)).await?;
    for replica in &replicas {
        until("it serves", async || connect(replica.address, &trusted).await.ok()).await?;
    }
    let mut follower = Follower { seen: Vec::new(), looked: Instant::now() };
    let (mut seen, mut answered) = (BTreeSet::new(), 0);
    let deadline = Instant::now() + Duration::from_mins(3);
    while seen.len() < 3 {
        assert!(Instant::now() < deadline, "{} certificates after {answered} requests", seen.len());
        for replica in &replicas {
            let began = Instant::now();
            match refused_by(replica, &follower.trusts(began, bundle(&api).unwrap())).await {
                Ok(certificate) => {
                    seen.insert(certificate);
                    answered += 1;
                }
                // Nobody promises to whoever was held up for that long.
                Err(_) if began.elapsed() > LAG => {}
                Err(error) => return Err(error),
            }
        }
    }
    assert!(answered > 20, "{answered}");
    for replica in replicas {
        replica.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_needs_all_that_its_roles_grant_and_nothing_else() -> Result<()> {
    let api = deployed().await?;
    let replica = Replica::start(&api, &[]).await?;
    let trusted = until("the authority is written", async || bundle(&api)).await?;
    until("it serves", async || connect(replica.address, &trusted).await.ok()).await?;
    let asked = |verb: &str, group: &str, resource: &str| Asked {
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: Some(NAME.to_owned()),
    };
    let rules = rules(WEBHOOK, NAME)?;
    let mut granted = BTreeSet::new();
    for rule in &rules {
        assert_eq!(rule.resource_names, [NAME], "no others of its kind");
        for verb in &rule.verbs {
            granted.insert(asked(verb, &rule.api_groups[0], &rule.resources[0]));
        }
    }
    // It serves before it watches.
    let all = async || granted.is_subset(&api.asked(ACCOUNT)).then_some(());
    until("it has asked for all of it", all).await?;
    assert_eq!(api.asked(ACCOUNT), granted);
    replica.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_serves_the_same_certificate_and_an_emptied_secret_a_new_one() -> Result<()> {
    let api = deployed().await?;
    let replica = Replica::start(&api, &[]).await?;
    let trusted = until("the authority is written", async || bundle(&api)).await?;
    let first = until("it serves", async || connect(replica.address, &trusted).await.ok()).await?;
    replica.stop().await?;
    let replica = Replica::start(&api, &[]).await?;
    let again = until("it serves", async || connect(replica.address, &trusted).await.ok()).await?;
    assert_eq!(certificate(&first), certificate(&again));
    replace_secret(&api, &serde_json::json!({})).await?;
    let other = until("another one is served", async || {
        let stream = connect(replica.address, &bundle(&api)?).await.ok()?;
        (certificate(&stream) != certificate(&first)).then_some(())
    });
    other.await?;
    replica.stop().await
}

async fn replace_secret(api: &Server, data: &Value) -> Result<()> {
    let mut secret = api.peek("secrets", NAMESPACE, NAME).ok_or("no secret")?;
    secret["data"] = data.clone();
    let client = Client::try_from(Config::new(api.url().parse()?))?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}");
    client.request::<Value>(http::Request::put(path).body(secret.to_string().into_bytes())?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_as_soon_as_what_is_missing_comes_and_writes_are_taken() -> Result<()> {
    let api = Server::builder().start().await?;
    api.permit(ACCOUNT, rules(WEBHOOK, NAME)?);
    let trouble = Trouble::Error(500, None);
    api.inject(Fault { verb: "update".into(), resource: String::new(), times: 2, trouble });
    let replica = Replica::start(&api, &["--webhook-cert-life", "24s"]).await?;
    // Whoever trusts nobody is refused either way, but of a certificate it says so.
    let error = connect(replica.address, &[]).await.map(drop).unwrap_err().to_string();
    assert!(!error.contains("peer certificate"), "there is no certificate yet: {error}");
    create(&api, "Secret").await?;
    create(&api, "ValidatingWebhookConfiguration").await?;
    let trusted = until("the authority is written", async || bundle(&api)).await?;
    until("it serves", async || connect(replica.address, &trusted).await.ok()).await?;
    replica.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_someone_takes_away_is_written_again() -> Result<()> {
    let api = deployed().await?;
    let replica = Replica::start(&api, &[]).await?;
    let trusted = until("the authority is written", async || bundle(&api)).await?;
    let client = Client::try_from(Config::new(api.url().parse()?))?;
    let path = format!("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{NAME}");
    let mut object = document("ValidatingWebhookConfiguration")?;
    object["metadata"]["annotations"] = serde_json::json!({"of": "someone else"});
    client.request::<Value>(http::Request::put(path).body(object.to_string().into_bytes())?).await?;
    let again = until("it is there again", async || bundle(&api)).await?;
    assert_eq!(again, trusted);
    let kept = api.peek("validatingwebhookconfigurations", "", NAME).unwrap();
    assert_eq!(kept["metadata"]["annotations"]["of"], "someone else");
    replica.stop().await
}

/// Puts a certificate where a Secret's volume has it: all files change at once, behind a link.
fn mount(dir: &Path, version: &str, certificate: &[u8], key: &[u8]) -> Result<()> {
    let data = dir.join(version);
    std::fs::create_dir_all(&data)?;
    std::fs::write(data.join("tls.crt"), certificate)?;
    std::fs::write(data.join("tls.key"), key)?;
    symlink(version, dir.join("..new"))?;
    std::fs::rename(dir.join("..new"), dir.join("..data"))?;
    for name in ["tls.crt", "tls.key"] {
        let link = dir.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    Ok(())
}

/// A certificate with its key, and whom to trust.
async fn made() -> Result<[Vec<u8>; 3]> {
    let api = deployed().await?;
    let replica = Replica::start(&api, &[]).await?;
    until("there is a certificate", async || secret(&api, "ca.crt")).await?;
    replica.stop().await?;
    Ok(["tls.crt", "tls.key", "ca.crt"].map(|name| secret(&api, name).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_and_what_is_wrong_in_them_changes_nothing() -> Result<()> {
    let ([one, key_one, ca_one], [two, key_two, ca_two]) = (made().await?, made().await?);
    let dir = tempfile::tempdir()?;
    let api = Server::builder().start().await?;
    api.permit(ACCOUNT, Vec::new());
    let replica = Replica::start(&api, &["--webhook-cert-dir", dir.path().to_str().unwrap()]).await?;
    mount(dir.path(), "..1", &one, &key_one)?;
    until("the first is served", async || connect(replica.address, &ca_one).await.ok()).await?;
    mount(dir.path(), "..2", &two, &key_one)?;
    // Time in which it would be taken.
    tokio::time::sleep(Duration::from_millis(600)).await;
    connect(replica.address, &ca_one).await?;
    mount(dir.path(), "..3", &two, &key_two)?;
    until("the second is served", async || connect(replica.address, &ca_two).await.ok()).await?;
    assert!(api.asked(ACCOUNT).is_empty(), "no rights are needed");
    replica.stop().await
}
