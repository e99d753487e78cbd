//! Whole beside shared: the scheduler sees it in the slices, and the node sees to it where a scheduler doesn't.
use aliquot_tests::testbed::apply;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_gives_a_gpu_whole_or_in_shares_and_never_both() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    apply(&testbed.client, &templates()).await?;
    for (first, then, named) in [("share", "whole", T4), ("whole", "share", T4_SHARE)] {
        let (holder, _) = testbed.run_pod(pod("holder", &[first])).await?;
        let next = testbed.create_pod(pod("next", &[then])).await?;
        let error = testbed.scheduler.schedule(&next).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{named} lacks counters")), "{then} beside {first}: {error}");
        testbed.stop_pod(&holder).await?;
        let spec = testbed.scheduler.schedule(&next).await?;
        testbed.kubelet.run_pod(spec).await?;
        testbed.stop_pod(&next).await?;
    }
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_gpu_is_waited_for_until_the_last_share_has_left() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let one = sharing(&testbed, "one", &[share("gpu", T4_SHARE, 1, 1)]).await?;
    let two = sharing(&testbed, "two", &[share("gpu", T4_SHARE, 1, 1)]).await?;
    let next = sharing(&testbed, "next", &[whole("gpu", T4)]).await?;
    testbed.prepare(&one).await?.unwrap();
    testbed.prepare(&two).await?.unwrap();
    let mut waiting = std::pin::pin!(testbed.prepare(&next));
    let leave = async {
        testbed.until("the claim waits", || testbed.log().contains("waiting for another claim to leave")).await?;
        testbed.unprepare(&one).await?.unwrap();
        // The waiting claim has looked again by the time that this one was served.
        testbed.prepare(&two).await?.unwrap();
        Result::Ok(())
    };
    tokio::select! {
        biased;
        early = &mut waiting => panic!("prepared beside a share: {early:?}"),
        left = leave => left?,
    }
    let (prepared, left) = tokio::join!(waiting, testbed.unprepare(&two));
    left?.unwrap();
    assert_eq!(testbed.nodes_of(&prepared?.unwrap())?, ["/dev/nvidia0"]);
    // And the other way round.
    let (back, gone) = tokio::join!(testbed.prepare(&one), testbed.unprepare(&next));
    gone?.unwrap();
    assert_eq!(testbed.nodes_of(&back?.unwrap())?, ["/dev/nvidia0"]);
    assert_eq!(testbed.records()?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_beyond_what_the_gpu_offers_are_refused_with_the_figures() -> Result<()> {
    let testbed = impatient("t4x1").await?;
    let holder = sharing(&testbed, "holder", &[share("gpu", T4_SHARE, 6, 10)]).await?;
    testbed.prepare(&holder).await?.unwrap();
    let memory = sharing(&testbed, "memory", &[share("gpu", T4_SHARE, 1, 6)]).await?;
    let error = testbed.prepare(&memory).await?.unwrap_err();
    for words in [T4_SHARE, "7 shares and 16Gi", "offers 10 shares and 15Gi", "default/holder", &holder.uid] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let shares = sharing(&testbed, "shares", &[share("gpu", T4_SHARE, 5, 5)]).await?;
    let error = testbed.prepare(&shares).await?.unwrap_err();
    assert!(error.contains("11 shares and 15Gi"), "{error}");
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (1, 1), "nothing is left of what was refused");
    let fits = sharing(&testbed, "fits", &[share("gpu", T4_SHARE, 4, 5)]).await?;
    testbed.prepare(&fits).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_claim_alone_gets_no_more_than_the_gpu_offers() -> Result<()> {
    let testbed = impatient("t4x1").await?;
    for (name, results) in [
        ("memory", vec![share("a", T4_SHARE, 1, 8), share("b", T4_SHARE, 1, 8)]),
        ("shares", vec![share("a", T4_SHARE, 11, 1)]),
    ] {
        let claim = sharing(&testbed, name, &results).await?;
        let error = testbed.prepare(&claim).await?.unwrap_err();
        assert!(error.contains("offers 10 shares and 15Gi"), "{name}: {error}");
    }
    let both = sharing(&testbed, "both", &[whole("a", T4), share("b", T4_SHARE, 1, 1)]).await?;
    let error = testbed.prepare(&both).await?.unwrap_err();
    assert!(error.contains(&format!("{T4} and {T4_SHARE} were both allocated")), "{error}");
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_another_namespace_is_not_named() -> Result<()> {
    let testbed = impatient("t4x1").await?;
    let secret = allocation(&[share("gpu", T4_SHARE, 9, 10)]);
    let holder = testbed.allocated_in("secret-team", "secret-name", secret).await?;
    testbed.prepare(&holder).await?.unwrap();
    for (name, result) in [("whole", whole("gpu", T4)), ("share", share("gpu", T4_SHARE, 2, 1))] {
        let claim = sharing(&testbed, name, &[result]).await?;
        let error = testbed.prepare(&claim).await?.unwrap_err();
        assert!(error.contains("a claim in another namespace"), "{name}: {error}");
        assert!(!error.contains("secret") && !error.contains(&holder.uid), "{name}: {error}");
    }
    Ok(())
}
