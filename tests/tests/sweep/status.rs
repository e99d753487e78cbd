//! `aliquot-driver status`: with the running driver and without it.
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn status(testbed: &Testbed, output: &str) -> Result<(String, String)> {
    let out = testbed.driver_command("status").args(["-o", output]).output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok((String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?))
}

fn claim(testbed: &Testbed, uid: &str) -> Result<Value> {
    let report: Value = serde_json::from_str(&status(testbed, "json")?.0)?;
    Ok(report["claims"].as_array().unwrap().iter().find(|claim| claim["uid"] == uid).cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_each_claim_and_what_the_sweep_thinks_of_it() -> Result<()> {
    let mut testbed = started(&[("ALIQUOT_SWEEP", "report")]).await?;
    let share = aliquot_tests::objects::share("gpu", &format!("{TWO}-shared"), 1, 8);
    let shared = aliquot_tests::objects::sharing(&testbed, "shared", &[share]).await?;
    testbed.prepare(&shared).await?.unwrap();
    let whole = forgotten(&testbed, "whole", ONE).await?;
    delete(&testbed, "whole").await?;
    testbed.until_metric("aliquot_claims_stale", Some(1)).await?;
    testbed.until_metric("aliquot_claims_suspect", Some(0)).await?;
    let stale = claim(&testbed, &whole.uid)?;
    assert_eq!((&stale["state"], &stale["name"]), (&json!("prepared"), &json!("whole")));
    assert_eq!(stale["devices"][0]["device"], ONE);
    assert_eq!(stale["sweep"]["verdict"], "stale", "{stale}");
    let live = claim(&testbed, &shared.uid)?;
    assert_eq!(live["devices"][0]["memoryBytes"], 8_u64 << 30, "{live}");
    assert_eq!(live["sweep"]["verdict"], "allocated", "{live}");
    let (table, told) = status(&testbed, "table")?;
    let row = |name: &str| table.lines().position(|line| line.trim_start().starts_with(name));
    let text = table.lines().nth(row("default/whole").unwrap()).unwrap();
    assert!(text.contains("the claim doesn't exist"), "{table}");
    assert_eq!(told, "");
    // Below its GPU, and above the next one.
    assert!(row("0  ") < row("default/whole") && row("default/whole") < row("1  "), "{table}");
    assert!(row("1  ") < row("default/shared") && row("default/shared") < row("2  "), "{table}");
    // Only root may ask.
    let socket = testbed.node.path("run").join(DRIVER).join("sweep.sock");
    assert_eq!(socket.metadata()?.permissions().mode() & 0o777, 0o600);
    // Without the driver the records are there all the same; a bad one too, with what its spec says.
    testbed.kill_driver()?;
    let path = testbed.records()?.into_iter().find(|path| path.to_string_lossy().contains(&whole.uid)).unwrap();
    std::fs::write(&path, "{")?;
    let before = files_below(&testbed.node.path("run"))?;
    let (table, told) = status(&testbed, "table")?;
    assert!(told.contains("no driver on this node tells"), "{told}");
    assert!(table.contains(&format!("{} can't be used: it is cut short", path.display())), "{table}");
    let hurt = claim(&testbed, &whole.uid)?;
    assert_eq!((&hurt["state"], &hurt["devices"][0]["device"]), (&json!("quarantined"), &json!(ONE)), "{hurt}");
    assert_eq!(files_below(&testbed.node.path("run"))?, before, "looking changes nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_does_not_hold_it_up_and_an_empty_node_is_no_error() -> Result<()> {
    let testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let gpus = |table: String| table.lines().filter(|line| line.contains("H100")).count();
    assert_eq!(gpus(status(&testbed, "table")?.0), 8);
    assert!(files_below(&testbed.node.path("run"))?.is_empty());
    let claims = testbed.node.path("run").join(DRIVER).join("claims");
    std::fs::create_dir_all(&claims)?;
    let lock = std::fs::File::create(claims.join("lock"))?;
    lock.lock()?;
    assert_eq!(gpus(status(&testbed, "table")?.0), 8);
    Ok(())
}

/// All paths below a directory, in order.
fn files_below(dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(files_below(&path)?);
        }
        all.push(path);
    }
    all.sort();
    Ok(all)
}
