use std::time::Duration;

use aliquot_model::{Gpu, Memory, testing};
use proptest::prelude::*;

use super::*;

fn gpu(product_name: &str, gibibytes: u64) -> Gpu {
    Gpu {
        uuid: "GPU-a669635e-6dfb-38a3-2f06-448166423d32".parse().unwrap(),
        index: 0,
        minor: 0,
        product_name: product_name.into(),
        memory: Memory::from_bytes(gibibytes << 30),
        ..testing::gpu(0x41)
    }
}

fn gib(n: u64) -> Memory {
    Memory::from_bytes(n << 30)
}

fn parse(rules: &str) -> Result<Policy, PolicyError> {
    Policy::parse(format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules:\n{rules}").as_bytes())
}

fn told(rules: &str) -> String {
    parse(rules).unwrap_err().to_string()
}

#[test]
fn without_a_file_every_gpu_is_offered_whole_and_as_ten_shares() {
    let offer = Policy::default().for_gpu(&gpu("NVIDIA H100", 80)).unwrap();
    let shares = offer.shares.unwrap();
    assert!(offer.whole && offer.rule.is_none());
    assert_eq!((shares.count, shares.default, shares.minimum), (10, gib(8), Memory::MEBIBYTE));
    assert_eq!((shares.guard.mode, shares.time_slice), (GuardMode::Observe, TimeSlice::Default));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = parse(
        "- match: {uuid: GPU-other}\n  offer: []\n\
         - match: {productName: NVIDIA H*, pciAddress: '0000:41:00.0'}\n  offer: [shares]\n  shares: {count: 4, timeSlice: Long}\n\
         - offer: [whole]\n",
    )
    .unwrap();
    let offer = policy.for_gpu(&gpu("NVIDIA H100", 80)).unwrap();
    assert_eq!((offer.rule, offer.whole), (Some(1), false));
    let shares = offer.shares.unwrap();
    assert_eq!((shares.count, shares.default, shares.time_slice), (4, gib(20), TimeSlice::Long));
    assert_eq!(policy.for_gpu(&gpu("NVIDIA L40S", 48)).unwrap().rule, Some(2));
}

#[test]
fn every_setting_arrives() {
    let policy = parse(
        "- shares: {memory: {default: 8Gi, minimum: 1Gi}, order: spread, guard: {mode: kill, grace: 500ms}}\n  \
         fallback: shares\n",
    );
    let offer = policy.unwrap().for_gpu(&gpu("NVIDIA H100", 80)).unwrap();
    let shares = offer.shares.unwrap();
    assert_eq!((shares.default, shares.minimum, shares.order), (gib(8), gib(1), Order::Spread));
    assert_eq!(shares.guard, Guard { mode: GuardMode::Kill, grace: Duration::from_millis(500) });
    assert_eq!(offer.fallback, Form::Shares);
}

#[test]
fn a_gpu_is_taken_for_virtual_machines_only_by_a_rule_that_says_so() {
    let takes = |rules: &str| parse(rules).unwrap().takes(&gpu("NVIDIA H100", 80)).map(str::to_owned);
    assert_eq!(takes("- vfio: {binding: dynamic}\n").as_deref(), Some("vfio-pci"));
    assert_eq!(
        takes("- offer: [vfio]\n  vfio: {binding: dynamic, driver: nvgrace_gpu_vfio_pci}\n").as_deref(),
        Some("nvgrace_gpu_vfio_pci")
    );
    for rules in
        ["- offer: [vfio]\n", "- vfio: {binding: static}\n", "- match: {uuid: GPU-1}\n  vfio: {binding: dynamic}\n"]
    {
        assert_eq!(takes(rules), None, "{rules}");
    }
    let error = told("- offer: [whole]\n  vfio: {binding: dynamic, driver: ../nvidia}\n");
    assert!(error.contains("rules[0].vfio.driver is \"../nvidia\"") && error.contains("offer has no vfio"), "{error}");
}

#[test]
fn faults_of_form_name_line_and_column() {
    for (rules, parts) in [
        ("- offr: [whole]\n", &["line 4", "column 3", "offr"][..]),
        ("- shares: {count: -1}\n", &["line 4"]),
        ("- shares: {count: many}\n", &["line 4"]),
        ("- offer: [whole, mig]\n", &["line 4", "mig"]),
        ("- match: {uuid: a669}\n", &["line 4", "no GPU UUID"]),
        ("- shares: {memory: {default: 8GB}}\n", &["line 4", "no amount of memory"]),
        ("- offer: [whole]\n  offer: [shares]\n", &["line 5", "offer"]),
    ] {
        let told = told(rules);
        assert!(parts.iter().all(|part| told.contains(part)), "{rules}: {told}");
    }
    assert!(Policy::parse(b"kind: Policy\n").unwrap_err().to_string().contains("apiVersion"));
    assert!(Policy::parse(b"apiVersion: v2\nkind: Policy\n").unwrap_err().to_string().contains("line 1"));
}

#[test]
fn faults_of_value_are_told_all_at_once_with_their_places() {
    let told = told(
        "- match: {productName: ''}\n  offer: [whole, whole]\n  shares:\n    count: 0\n    \
         memory: {default: 512Mi, minimum: 1Gi}\n    guard: {grace: 10}\n\
         - shares: {count: 129, memory: {default: 100k, minimum: '0'}}\n",
    );
    for part in [
        "line 4, column 24: rules[0].match.productName is empty",
        "rules[0].offer names one form twice",
        "line 7, column 12: rules[0].shares.count is 0, but must be 1 to 128",
        "rules[0].shares.memory.default is 512Mi, less than shares.memory.minimum, 1Gi",
        "rules[0].shares.guard.grace is \"10\": a time is",
        "rules[1].shares.count is 129",
        "rules[1].shares.memory.default is 100000, which is no whole number of Mi",
        "rules[1].shares.memory.minimum is 0",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn what_no_gpu_of_the_node_can_give_is_told_for_the_gpu() {
    let gpu = gpu("NVIDIA H100", 80);
    for (rules, part) in [
        ("- shares: {memory: {default: 100Gi}}\n", "memory.default is 100Gi, but it has 80Gi"),
        ("- shares: {count: 10, memory: {minimum: 9Gi}}\n", "10 shares of at least 9Gi are 90Gi, but it has 80Gi"),
        ("- shares: {memory: {default: 100Gi}}\n", "line 4, column 30: "),
        ("- shares: {count: 10, memory: {minimum: 9Gi}}\n", "line 4, column 41: "),
        ("- shares: {memory: {minimum: 90Gi}}\n", "line 4, column 30: "),
        ("- shares: {memory: {minimum: 90Gi}}\n", "memory.minimum is 90Gi, but it has 80Gi"),
    ] {
        let fault = parse(rules).unwrap().for_gpu(&gpu).unwrap_err().to_string();
        assert!(fault.contains(part) && fault.contains("rules[0]") && fault.contains("GPU-a669635e"), "{fault}");
    }
}

#[test]
fn shares_that_dont_all_fit_are_warned_of() {
    let l40s = Gpu { memory: Memory::from_bytes(46068 << 20), ..gpu("NVIDIA L40S", 1) };
    let warning = |rules: &str| parse(rules).unwrap().warning_for(&l40s).map(|warning| warning.to_string());
    assert_eq!(
        warning("- shares: {count: 10, memory: {default: 10Gi}}\n").unwrap(),
        "line 4, column 41: rules[0].shares don't all fit on GPU GPU-a669635e-6dfb-38a3-2f06-448166423d32 (NVIDIA L40S): \
         10 shares of 10Gi are 100Gi, but it has 46068Mi: 4 fit. As a fixed number of shares, each has 4606Mi"
    );
    assert!(warning("- shares: {memory: {default: 10Gi}}\n").unwrap().contains("10 shares of 10Gi"));
    for rules in [
        "- shares: {count: 4, memory: {default: 10Gi}}\n",
        "- shares: {count: 10}\n",
        "- shares: {count: 10, memory: {minimum: 4Gi}}\n",
        "- {offer: [whole], shares: {memory: {default: 10Gi}}}\n",
        "- {offer: [], shares: {memory: {default: 10Gi}}}\n",
        "- {match: {productName: other}, shares: {memory: {default: 10Gi}}}\n",
        "- shares: {memory: {default: 100Gi}}\n",
    ] {
        assert_eq!(warning(rules), None, "{rules}");
    }
}

#[test]
fn a_rule_that_an_earlier_one_shadows_is_warned_of() {
    let policy = parse(
        "- match: {productName: '*H100*'}\n- match: {productName: NVIDIA H100 80GB HBM3, uuid: GPU-1}\n\
         - match: {uuid: GPU-2}\n- {}\n- match: {uuid: GPU-3}\n",
    )
    .unwrap();
    let told = policy.warnings();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("rules[1] never decides: rules[0]") && told[1].starts_with("rules[4]"), "{told:?}");
}

#[test]
fn what_is_too_large_or_no_text_is_refused() {
    assert_eq!(Policy::parse(&vec![b' '; 10 << 20]), Err(PolicyError::TooLarge));
    let no_text = Policy::parse(b"kind: Policy\n# \xff").unwrap_err().to_string();
    assert_eq!(no_text, "line 2, column 3: it is no text (UTF-8)");
}

#[test]
fn a_policy_of_more_rules_than_anybody_writes_is_refused_with_the_place() {
    let rules = |count: usize| "- match: {uuid: GPU-1}\n".repeat(count);
    assert!(parse(&rules(1000)).is_ok());
    let told = told(&rules(1001));
    assert!(told.contains("more than 1000 rules") && told.contains("line 4"), "{told}");
    assert_eq!(schema()["properties"]["rules"]["maxItems"], 1000);
}

#[test]
fn the_largest_policy_keeps_nobody_waiting() {
    let name = |number: usize| format!("*{number:04}{}", "*ab".repeat(83));
    let rules: Vec<String> =
        (0..1000).map(|number| format!("- match: {{productName: '{}'}}\n", name(number))).collect();
    let rules = rules.concat();
    let begun = std::time::Instant::now();
    assert!(parse(&rules).unwrap().warnings().is_empty());
    // Without optimisation, on a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let told = told(&format!("- match: {{productName: '{}'}}\n", "x".repeat(257)));
    assert!(told.contains("line 4, column 24: rules[0].match.productName") && told.contains("at most 256"), "{told}");
}

#[test]
fn what_is_told_is_short_however_long_the_text_and_keeps_its_place() {
    let long = "x".repeat(100_000);
    for (rules, parts) in [
        (
            format!("- offer: [{long}]\n"),
            &["unknown variant", "expected one of whole, shares", "line 4, column 11"][..],
        ),
        (format!("- match: {{uuid: {long}}}\n"), &["no GPU UUID", "line 4, column 17"]),
        (
            format!("- shares: {{guard: {{grace: {long}}}}}\n"),
            &["line 4, column 27: rules[0].shares.guard.grace", "such as 35s"],
        ),
        ("- shares: {count: 0}\n".repeat(500), &["line 4", "rules[9].shares.count is 0", "and 490 more"]),
    ] {
        let told = told(&rules);
        assert!(told.len() < 1000 && parts.iter().all(|part| told.contains(part)), "{told}");
    }
    let policy = parse(&"- {}\n".repeat(1000)).unwrap();
    let warnings = policy.warnings();
    assert_eq!((warnings.len(), warnings[10].as_str()), (11, "989 more rules never decide"));
}

#[test]
fn the_schema_knows_every_field_and_refuses_others() {
    let schema = schema();
    let rule = &schema["properties"]["rules"]["items"];
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(rule["additionalProperties"], false);
    let shares = &rule["properties"]["shares"];
    assert_eq!(shares["properties"]["count"]["maximum"], 128);
    assert!(shares["properties"]["guard"]["properties"]["mode"].to_string().contains("evict"), "{shares}");
}

proptest! {
    #[test]
    fn foreign_text_is_refused_without_a_panic(text in "[\\[\\]{}:,&*a-zP0-9 \n-]{0,80}") {
        prop_assert!(Policy::parse(text.as_bytes()).is_err());
    }

    #[test]
    fn shares_of_the_default_size_all_fit(count in 1u32..=128, mebibytes in 128u64..1_000_000) {
        let gpu = Gpu { memory: Memory::from_bytes(mebibytes << 20), ..gpu("x", 1) };
        let shares = parse(&format!("- shares: {{count: {count}}}\n")).unwrap().for_gpu(&gpu).unwrap().shares.unwrap();
        prop_assert!(shares.default.bytes() * u64::from(count) <= gpu.memory.bytes());
    }
}
