//! Policies that fit some of a node's GPUs only, which come and go.
use fake_nvml::Control;

use super::*;

/// The GPUs of profile l40sx2, and a rule that only the first one fits.
const FIRST: &str = "gpu-0000-17-00";
const SECOND: &str = "gpu-0000-ca-00";
const RULES: &str = "[{match: {pciAddress: '0000:ca:00.0'}, shares: {memory: {default: 100Gi}}}]";

/// Takes the second GPU away, or gives it back.
fn second(testbed: &Testbed, is_there: bool) -> Result<()> {
    let gpus = &testbed.node.profile().gpus;
    let uuid = gpus.iter().find(|gpu| gpu.pci.to_lowercase().contains("ca:00")).ok_or("no such GPU")?.uuid.clone();
    let removed = if is_there { vec![] } else { vec![uuid] };
    Ok(testbed.node.control(&Control { removed, ..Control::default() })?)
}

fn start(testbed: &mut Testbed) -> Result<()> {
    let file = file(testbed);
    let environment = [("ALIQUOT_POLICY", file.to_str().unwrap()), ("ALIQUOT_RESCAN_INTERVAL", "200ms")];
    testbed.start_driver(&environment)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_comes_later_and_does_not_fit_its_rule_is_not_offered_and_told() -> Result<()> {
    let mut testbed = prepared("l40sx2", RULES).await?;
    second(&testbed, false)?;
    start(&mut testbed)?;
    testbed.until("the first one is offered", || testbed.whole() == [FIRST]).await?;
    second(&testbed, true)?;
    let (object, note) = testbed.event("PolicyDoesNotFit").await?;
    assert_eq!(object, format!("Node {NODE}"));
    for words in ["a GPU is not offered", "rules[0]", "100Gi", "line 3"] {
        assert!(note.contains(words), "{words}: {note}");
    }
    assert_eq!(testbed.whole(), [FIRST]);
    assert_eq!(testbed.metric("aliquot_policy_in_force").await?, Some(1));
    replace(&testbed, policy("[]"))?;
    testbed.until("both are offered", || testbed.whole() == [FIRST, SECOND]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_refused_for_a_gpu_is_in_force_once_that_gpu_has_gone() -> Result<()> {
    let mut testbed = prepared("l40sx2", RULES).await?;
    start(&mut testbed)?;
    assert!(testbed.event("PolicyRefused").await?.1.contains("100Gi"));
    assert!(testbed.published().is_empty());
    second(&testbed, false)?;
    testbed.until("the first one is offered", || testbed.whole() == [FIRST]).await?;
    testbed.until_metric("aliquot_policy_in_force", Some(1)).await?;
    assert_eq!(testbed.metric("aliquot_policy_refused_total").await?, Some(1));
    testbed.event("PolicyInForce").await?;
    Ok(())
}
