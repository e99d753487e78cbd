//! The command line and bad surroundings: a clear error, and nothing half-done.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Command,
};

use aliquot_tests::testbed::{DRIVER, Result, Testbed};
use fake_apiserver::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Runs to the end; standard output and standard error.
fn ended(command: &mut Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

async fn testbed() -> Result<Testbed> {
    Testbed::without_driver("h100x8", Server::builder()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_prints_what_would_be_published_without_a_cluster() -> Result<()> {
    let testbed = testbed().await?;
    let (ok, table, _) = ended(testbed.node.driver("inspect").env_remove("KUBECONFIG"));
    assert!(ok && table.lines().count() == 25 && table.starts_with("NAME"), "{table}");
    assert!(table.contains("gpu-0000-1b-00") && table.contains("81559Mi") && table.contains("NVIDIA H100 80GB HBM3"));
    let (ok, json, _) = ended(testbed.node.driver("inspect").args(["-o", "json"]));
    let list: serde_json::Value = serde_json::from_str(&json)?;
    assert!(ok && list["items"][1]["spec"]["devices"].as_array().unwrap().len() == 24);
    let (ok, yaml, _) = ended(testbed.node.driver("inspect").args(["-o", "yaml"]));
    let same: serde_json::Value = serde_saphyr::from_str(&yaml)?;
    assert!(ok && same == list, "{yaml}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_at_the_start_is_said_with_what_to_do() -> Result<()> {
    let testbed = testbed().await?;
    let long = testbed.node.path(&"x".repeat(90));
    let foreign = testbed.node.path("foreign");
    std::fs::create_dir(&foreign)?;
    std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o777))?;
    let link = testbed.node.path("link");
    symlink("run", &link)?;
    let file = testbed.node.path("file");
    std::fs::write(&file, "")?;
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    for (variable, value, words) in [
        ("ALIQUOT_KUBELET_ROOT", path(&long), vec!["107", "bytes"]),
        ("ALIQUOT_CDI_ROOT", path(&foreign), vec!["foreign", "mode 777"]),
        ("ALIQUOT_CDI_ROOT", path(&link), vec!["link", "can't be used"]),
        ("ALIQUOT_RUN_ROOT", path(&file), vec!["file", "can't be used"]),
        ("ALIQUOT_DRIVER_NAME", "Not_A_Name".to_owned(), vec!["Not_A_Name", "DNS subdomain"]),
        ("NODE_NAME", "a,b".to_owned(), vec!["--node-name", "a,b"]),
        ("ALIQUOT_PREPARE_BUDGET", "60s".to_owned(), vec!["45 s"]),
        ("ALIQUOT_PREPARE_BUDGET", "fast".to_owned(), vec!["35s"]),
        ("ALIQUOT_LOG", "a=b=c".to_owned(), vec!["--log"]),
        ("ALIQUOT_PROC_ROOT", path(&file), vec!["--proc-root"]),
        ("KUBECONFIG", path(&file), vec!["API server"]),
    ] {
        let mut command = testbed.driver_command("run");
        let (ok, _, error) = ended(command.env(variable, &value));
        let missing: Vec<&&str> = words.iter().filter(|word| !error.contains(**word)).collect();
        assert!(!ok && missing.is_empty() && !error.contains("panicked"), "{variable}={value}: {missing:?} in {error}");
    }
    assert!(testbed.records()?.is_empty() && testbed.specs()?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn help_teaches_every_flag_with_its_variable() -> Result<()> {
    let testbed = testbed().await?;
    let (ok, help, _) = ended(testbed.node.driver("run").arg("--help"));
    assert!(ok);
    for flag in ["--kubelet-root", "--driver-root", "--cdi-root", "--node-name", "--driver-name", "--log-format"] {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(help.contains("[env: ALIQUOT_CDI_ROOT"), "{help}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_large_or_no_grpc_leave_the_driver_serving() -> Result<()> {
    let mut testbed = testbed().await?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    let claim = testbed.allocated("claim", &[("gpu", "gpu-0000-1b-00")]).await?;
    let mut huge = claim.clone();
    huge.name = "x".repeat(5 << 20);
    assert!(testbed.kubelet.client(DRIVER)?.prepare(vec![huge]).await.is_err());
    for (namespace, name, uid) in
        [("../..", "claim", "u1"), ("default", "a/b", "u1"), ("default", "claim", "../../x"), ("", "", "")]
    {
        let (namespace, name, uid) = (namespace.to_owned(), name.to_owned(), uid.to_owned());
        let odd = kubelet_api::dra::v1::Claim { namespace, name, uid };
        assert!(testbed.prepare(&odd).await?.is_err(), "{odd:?}");
    }
    for socket in ["plugins/gpu.aliquot.dev/dra.sock", "plugins_registry/gpu.aliquot.dev@reg.sock"] {
        let mut stream = tokio::net::UnixStream::connect(testbed.node.path("kubelet").join(socket)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n\xff\xff\xff").await?;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), stream.read_to_end(&mut rest)).await;
    }
    testbed.prepare(&claim).await?.unwrap();
    assert!(!testbed.log().contains("panicked"));
    Ok(())
}
