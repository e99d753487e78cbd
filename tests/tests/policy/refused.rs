//! Files that are wrong: the last good policy stays in force, and log, event and metric say why.
use std::{io, os::unix::fs::symlink, path::Path};

use fake_apiserver::{Fault, Trouble};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use super::*;

const IN_FORCE: &str = "aliquot_policy_in_force";
const REFUSED: &str = "aliquot_policy_refused_total";

/// Puts something other than a file in its place, at once.
fn replace_by(testbed: &Testbed, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let fresh = testbed.node.path("etc/.policy.new");
    make(&fresh)?;
    Ok(fs::rename(fresh, file(testbed))?)
}

/// Waits for an event that says all of this.
async fn event(testbed: &Testbed, reason: &str, words: &[&str]) -> Result<Value> {
    let found = || {
        let says = |event: &Value| words.iter().all(|word| event["note"].as_str().unwrap().contains(word));
        testbed.events(reason).into_iter().find(says)
    };
    testbed.until(&format!("an event {reason} says {words:?}"), || found().is_some()).await?;
    Ok(found().unwrap())
}

/// A change of the file is refused for this reason, and everything stays as it was; then a good one is taken.
async fn is_refused(testbed: &Testbed, name: &str, words: &[&str], change: impl FnOnce() -> Result<()>) -> Result<()> {
    let (before, refused) = (testbed.log().len(), testbed.metric(REFUSED).await?.unwrap());
    change()?;
    testbed.until_metric(REFUSED, Some(refused + 1)).await?;
    let words = [words, &["the last good one stays in force"]].concat();
    let log = testbed.log().split_off(before);
    let told_of = |line: &str| line.contains("the policy is refused") && words.iter().all(|word| line.contains(word));
    assert!(log.lines().any(told_of), "{name}: {words:?}: {log}");
    let event = event(testbed, "PolicyRefused", &words).await?;
    assert_eq!((&event["type"], &event["regarding"]["kind"]), (&"Warning".into(), &"Node".into()), "{name}");
    assert_eq!(testbed.metric(IN_FORCE).await?, Some(0), "{name}");
    assert_eq!(testbed.published(), SHARES, "{name}");
    replace(testbed, policy("[{offer: [shares], shares: {count: 3}}]"))?;
    testbed.until_metric(IN_FORCE, Some(1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_wrong_changes_nothing_and_says_where() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [shares], shares: {count: 3}}]").await?;
    published(&testbed, &SHARES).await?;
    let before = writes(&testbed);
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n";
    let all: [(&str, Vec<u8>, &[&str]); 13] = [
        ("an unknown field", policy("[{ofer: [whole]}]").into(), &["ofer", "line 3, column 10"]),
        ("a zero count", policy("[{shares: {count: 0}}]").into(), &["line 3, column 26: rules[0].shares.count is 0"]),
        ("a negative count", policy("[{shares: {count: -1}}]").into(), &["line 3, column 26"]),
        ("a negative memory", policy("[{shares: {memory: {default: -1Gi}}}]").into(), &["-1Gi", "line 3, column 37"]),
        (
            "shares that don't divide",
            policy("[{shares: {count: 4, memory: {minimum: 4Gi}}}]").into(),
            &["line 3, column 47: rules[0].shares", "4 shares of at least 4Gi are 16Gi, but it has 15Gi"],
        ),
        (
            "more than the GPU has",
            policy("[{shares: {memory: {default: 16Gi}}}]").into(),
            &["line 3, column 37: rules[0].shares", "memory.default is 16Gi, but it has 15Gi"],
        ),
        ("no UTF-8", b"kind: Policy\n# \xff\n".to_vec(), &["line 2, column 3: it is no text (UTF-8)"]),
        ("10 MB", vec![b'#'; 10_000_000], &["more than 1048576 bytes"]),
        ("nothing", Vec::new(), &["line 1, column 1"]),
        ("another kind", b"apiVersion: v1\nkind: ConfigMap\n".to_vec(), &["line 1, column 13"]),
        ("no YAML", b"rules: [\n".to_vec(), &["line "]),
        ("a bomb of aliases", bomb.as_bytes().to_vec(), &["line 1, column 1"]),
        ("a depth without end", vec![b'['; 500_000], &["line 1"]),
    ];
    for (name, content, words) in all {
        is_refused(&testbed, name, words, || replace(&testbed, content)).await?;
    }
    assert_eq!(writes(&testbed), before, "{:?}", testbed.api.requests());
    // What is corrected to something else is taken.
    replace(&testbed, "rules: none")?;
    testbed.until_metric(IN_FORCE, Some(0)).await?;
    replace(&testbed, policy("[{offer: [whole]}]"))?;
    published(&testbed, &WHOLE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_changes_nothing() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [shares], shares: {count: 3}}]").await?;
    published(&testbed, &SHARES).await?;
    let before = writes(&testbed);
    let fifo = |path: &Path| Ok(mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?);
    let to = |target: &'static str| move |path: &Path| symlink(target, path);
    let (gone, odd) = ("policy.yaml can't be read: No such file", "policy.yaml is no regular file");
    is_refused(&testbed, "a dangling link", &[gone], || replace_by(&testbed, to("/nowhere/at/all"))).await?;
    let endless = "policy.yaml can't be read: Too many levels";
    is_refused(&testbed, "a link to itself", &[endless], || replace_by(&testbed, to("policy.yaml"))).await?;
    is_refused(&testbed, "a link to /dev/zero", &[odd], || replace_by(&testbed, to("/dev/zero"))).await?;
    is_refused(&testbed, "a link to a directory", &[odd], || replace_by(&testbed, to("/proc/self/fd"))).await?;
    is_refused(&testbed, "a pipe without a writer", &[odd], || replace_by(&testbed, fifo)).await?;
    is_refused(&testbed, "a file that is gone", &[gone], || Ok(fs::remove_file(file(&testbed))?)).await?;
    assert_eq!(writes(&testbed), before, "{:?}", testbed.api.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_never_decides_is_a_warning_and_no_more() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [whole]}]").await?;
    replace(&testbed, policy("[{offer: [shares]}, {match: {productName: Tesla*}, offer: [whole]}]"))?;
    published(&testbed, &SHARES).await?;
    let warned = |line: &str| line.contains("WARN") && line.contains("rules[1] never decides: rules[0] comes first");
    testbed.until("it is warned of", || testbed.log().lines().any(warned)).await?;
    assert_eq!((testbed.metric(IN_FORCE).await?, testbed.metric(REFUSED).await?), (Some(1), Some(0)));
    assert!(testbed.events("PolicyRefused").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_starts_with_a_bad_file_goes_on_with_the_last_good_one() -> Result<()> {
    let mut testbed = under("t4x1", "[{offer: [shares], shares: {count: 3}}]").await?;
    published(&testbed, &SHARES).await?;
    let before = writes(&testbed);
    for _ in 0..2 {
        testbed.kill_driver()?;
        replace(&testbed, policy("[{offer: [whole}]"))?;
        restart(&mut testbed).await?;
        testbed.until_metric(IN_FORCE, Some(0)).await?;
        event(&testbed, "PolicyRefused", &["line 3", "the last good one stays in force"]).await?;
        let claim = sharing(&testbed, "claim", &[share("gpu", T4_SHARE, 2, 5)]).await?;
        let ids = testbed.prepare(&claim).await?.unwrap();
        assert_eq!(testbed.env_of(&ids)?["ALIQUOT_SHARES"], "2");
        testbed.unprepare(&claim).await?.unwrap();
        kube::Api::<k8s_openapi::api::resource::v1::ResourceClaim>::namespaced(testbed.client.clone(), "default")
            .delete("claim", &kube::api::DeleteParams::default())
            .await?;
    }
    assert_eq!((shares_of(&testbed, T4_SHARE).as_deref(), writes(&testbed)), (Some("3"), before));
    replace(&testbed, policy("[{offer: [whole]}]"))?;
    published(&testbed, &WHOLE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_never_was_a_good_file_nothing_is_offered_and_claims_are_prepared_all_the_same() -> Result<()> {
    let mut testbed = prepared("t4x1", "{}").await?;
    restart(&mut testbed).await?;
    event(&testbed, "PolicyRefused", &["line 3", "nothing new is offered"]).await?;
    testbed.until_metric(IN_FORCE, Some(0)).await?;
    let claim = sharing(&testbed, "claim", &[whole("gpu", T4)]).await?;
    testbed.prepare(&claim).await?.unwrap();
    testbed.unprepare(&claim).await?.unwrap();
    assert_eq!(testbed.published(), [""; 0]);
    replace(&testbed, policy("[{offer: [whole]}]"))?;
    published(&testbed, &WHOLE).await?;
    // A copy of the last good one that is damaged is none; what is published stays.
    testbed.kill_driver()?;
    let before = writes(&testbed);
    fs::write(testbed.node.path("run/gpu.aliquot.dev/policy.yaml"), "rules: [")?;
    replace(&testbed, "{}")?;
    restart(&mut testbed).await?;
    event(&testbed, "PolicyRefused", &["line 1", "nothing new is offered"]).await?;
    assert_eq!((testbed.published(), writes(&testbed)), (WHOLE.map(ToOwned::to_owned).to_vec(), before));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_api_server_never_answers_holds_up_the_next_for_a_while_and_not_for_ever() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [shares]}]").await?;
    published(&testbed, &SHARES).await?;
    let silence = Fault { verb: "create".into(), resource: "events".into(), times: 1, trouble: Trouble::Silence };
    testbed.api.inject(silence);
    replace(&testbed, policy("[{ofer: [whole]}]"))?;
    testbed.until_metric(REFUSED, Some(1)).await?;
    replace(&testbed, policy("[{offfer: [whole]}]"))?;
    event(&testbed, "PolicyRefused", &["offfer"]).await?;
    let told = |line: &str| line.contains("WARN") && line.contains("an event can't be written");
    assert!(testbed.log().lines().any(told));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_too_many_rules_is_refused_in_few_words() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [shares], shares: {count: 3}}]").await?;
    published(&testbed, &SHARES).await?;
    let many = policy(&format!("[{}]", "{offer: []}, ".repeat(80_000)));
    is_refused(&testbed, "80,000 rules", &["more than 1000 rules", "line 3"], || replace(&testbed, many)).await
}
