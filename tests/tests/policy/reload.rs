//! A good file is taken without a restart, in whatever way it came.
use std::os::unix::fs::symlink;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_renamed_into_place_is_taken() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [whole]}]").await?;
    published(&testbed, &WHOLE).await?;
    assert!(testbed.events("PolicyInForce").is_empty(), "the first one is no news");
    replace(&testbed, policy("[{offer: [shares], shares: {count: 5}}]"))?;
    published(&testbed, &SHARES).await?;
    assert_eq!(shares_of(&testbed, T4_SHARE).as_deref(), Some("5"));
    assert_eq!(testbed.event("PolicyInForce").await?.0, format!("Node {NODE}"));
    replace(&testbed, policy("[{offer: []}]"))?;
    published(&testbed, &[]).await?;
    replace(&testbed, policy("[]"))?;
    published(&testbed, &BOTH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_in_place_is_taken() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [whole]}]").await?;
    published(&testbed, &WHOLE).await?;
    for count in [2, 7, 128] {
        fs::write(file(&testbed), policy(&format!("[{{offer: [shares], shares: {{count: {count}}}}}]")))?;
        testbed
            .until("the new count is published", || shares_of(&testbed, T4_SHARE) == Some(count.to_string()))
            .await?;
    }
    assert_eq!(testbed.metric("aliquot_policy_refused_total").await?, Some(0));
    Ok(())
}

/// A version of a `ConfigMap`'s volume, as the kubelet writes it.
fn version(testbed: &Testbed, name: &str, rules: &str) -> Result<()> {
    let dir = testbed.node.path("etc").join(name);
    fs::create_dir(&dir)?;
    Ok(fs::write(dir.join("policy.yaml"), policy(rules))?)
}

/// Makes `..data` lead somewhere else, as the kubelet does.
fn point(testbed: &Testbed, to: &str) -> Result<()> {
    let etc = testbed.node.path("etc");
    symlink(to, etc.join("..data_tmp"))?;
    Ok(fs::rename(etc.join("..data_tmp"), etc.join("..data"))?)
}

/// A node whose policy comes from a `ConfigMap`, in its first of two versions: whole and in shares.
async fn with_config_map() -> Result<Testbed> {
    let mut testbed = prepared("t4x1", "[]").await?;
    version(&testbed, "..whole", "[{offer: [whole]}]")?;
    version(&testbed, "..shares", "[{offer: [shares]}]")?;
    point(&testbed, "..whole")?;
    fs::remove_file(file(&testbed))?;
    symlink("..data/policy.yaml", file(&testbed))?;
    restart(&mut testbed).await?;
    published(&testbed, &WHOLE).await?;
    Ok(testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_changes_is_taken_and_never_half() -> Result<()> {
    let testbed = with_config_map().await?;
    for _ in 0..3 {
        point(&testbed, "..shares")?;
        published(&testbed, &SHARES).await?;
        point(&testbed, "..whole")?;
        published(&testbed, &WHOLE).await?;
    }
    // The kubelet removes the old version once the new one is there.
    point(&testbed, "..shares")?;
    fs::remove_dir_all(testbed.node.path("etc/..whole"))?;
    published(&testbed, &SHARES).await?;
    assert_eq!(testbed.metric("aliquot_policy_refused_total").await?, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_swapped_all_the_time_come_to_the_last_good_file() -> Result<()> {
    let testbed = with_config_map().await?;
    let etc = testbed.node.path("etc");
    fs::create_dir(etc.join("..bad"))?;
    fs::write(etc.join("..bad/policy.yaml"), [0xff; 64])?;
    fs::create_dir_all(etc.join("..odd/policy.yaml"))?;
    fs::create_dir(etc.join("..away"))?;
    symlink("/dev/zero", etc.join("..away/policy.yaml"))?;
    let until = Instant::now() + Duration::from_secs(2);
    let all = ["..shares", "..bad", "..nowhere", "..whole", "..odd", "..away", "..data"];
    // Pauses on both sides of the time that the driver waits for quiet.
    for (at, to) in all.iter().cycle().enumerate() {
        point(&testbed, to)?;
        if Instant::now() > until {
            break;
        }
        if at % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
    }
    point(&testbed, "..shares")?;
    published(&testbed, &SHARES).await?;
    testbed.until_metric("aliquot_policy_in_force", Some(1)).await?;
    for devices in testbed.ever_published()? {
        let is = |form: &[&str]| devices.iter().eq(form);
        assert!(devices.is_empty() || is(&[T4_ADMIN, T4_SHARE]) || is(&[T4, T4_ADMIN]) || is(&[T4]), "{devices:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_replaced_is_followed() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [whole]}]").await?;
    published(&testbed, &WHOLE).await?;
    let (etc, fresh) = (testbed.node.path("etc"), testbed.node.path("etc.new"));
    fs::create_dir(&fresh)?;
    fs::write(fresh.join("policy.yaml"), policy("[{offer: [shares]}]"))?;
    fs::rename(&etc, testbed.node.path("etc.old"))?;
    fs::rename(&fresh, &etc)?;
    published(&testbed, &SHARES).await?;
    replace(&testbed, policy("[{offer: [whole]}]"))?;
    published(&testbed, &WHOLE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_where_something_always_changes_hides_no_change_of_the_file() -> Result<()> {
    let testbed = under("t4x1", "[{offer: [whole]}]").await?;
    published(&testbed, &WHOLE).await?;
    let other = testbed.node.path("etc/other");
    let busy = tokio::spawn(async move {
        loop {
            let _ = fs::write(&other, "x");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    replace(&testbed, policy("[{offer: [shares]}]"))?;
    published(&testbed, &SHARES).await?;
    busy.abort();
    Ok(())
}
