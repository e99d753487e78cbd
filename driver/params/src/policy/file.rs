//! The policy file's own form. The JSON schema is made from these types, so it can't differ from what is parsed.
#![allow(clippy::doc_markdown, reason = "these comments are the text of the schema, where backticks are noise")]
use std::fmt;

use aliquot_model::{GpuUuid, Memory, PciAddress};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::{Form, GuardMode, MOST_RULES, Order, VfioBinding};
use crate::TimeSlice;

/// Which of a node's GPUs aliquot offers, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Policy", inline)]
pub(super) struct File {
    #[allow(dead_code, reason = "its only value is checked by reading it")]
    api_version: ApiVersion,
    #[allow(dead_code, reason = "its only value is checked by reading it")]
    kind: Kind,
    /// The first rule that matches a GPU decides. A GPU that none matches is offered whole and as shares.
    #[serde(default, deserialize_with = "at_most")]
    #[schemars(with = "Vec<Rule>", length(max = MOST_RULES))]
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
enum ApiVersion {
    #[serde(rename = "gpu.aliquot.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
enum Kind {
    Policy,
}

/// What is offered of the GPUs that match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Rule {
    /// Which GPUs. All that is given must match; without any of it every GPU does.
    #[serde(default)]
    pub(super) r#match: Match,
    /// As what they are offered; an empty list withholds them. GPUs that the kernel's vfio-pci has are offered for
    /// virtual machines without a list, and with one that has vfio.
    #[serde(default = "everything")]
    #[schemars(with = "Vec<Form>", default = "every_form")]
    pub(super) offer: Spanned<Vec<Form>>,
    /// How they are shared.
    #[serde(default)]
    pub(super) shares: SharesRule,
    /// How virtual machines get them.
    #[serde(default)]
    pub(super) vfio: VfioRule,
    /// What is offered where the API server can't tell shares from whole GPUs (before Kubernetes 1.36, or with
    /// DRAConsumableCapacity or DRAPartitionableDevices off): each GPU whole, or a fixed number of shares.
    #[serde(default)]
    pub(super) fallback: Fallback,
}

/// By what a GPU is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Match {
    /// As `nvidia-smi -L` prints it, such as GPU-a669635e-6dfb-38a3-2f06-448166423d32.
    #[schemars(with = "Option<String>", regex(pattern = r"^GPU-[A-Za-z0-9-]{1,60}$"))]
    pub(super) uuid: Option<GpuUuid>,
    /// Such as 0000:41:00.0.
    #[schemars(with = "Option<String>")]
    pub(super) pci_address: Option<PciAddress>,
    /// As `nvidia-smi -L` prints it; "*" stands for any text: "NVIDIA H100*".
    #[schemars(with = "Option<String>")]
    pub(super) product_name: Option<Spanned<String>>,
}

/// A GPU's shares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct SharesRule {
    /// How many; 10 if not given.
    #[schemars(with = "Option<u32>", range(min = 1, max = 128))]
    pub(super) count: Option<Spanned<u32>>,
    /// How much memory a share has.
    #[serde(default)]
    pub(super) memory: MemoryRule,
    /// Which GPU the next share is taken from.
    #[serde(default)]
    pub(super) order: Order,
    /// How long each share computes at a time, unless a claim asks for another length.
    #[serde(default)]
    pub(super) time_slice: TimeSlice,
    /// What happens to a claim that uses more memory than its share.
    #[serde(default)]
    pub(super) guard: GuardRule,
}

/// How virtual machines get a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct VfioRule {
    /// static: those that a vfio driver of the kernel has, by the administrator's doing. dynamic: also those that NVIDIA's
    /// driver has, which are taken from it when a claim is prepared and given back afterwards.
    #[serde(default)]
    pub(super) binding: VfioBinding,
    /// The kernel driver that is to have a GPU which is taken from NVIDIA's; vfio-pci if not given, or a variant of it.
    #[schemars(with = "Option<String>", regex(pattern = r"^([a-z0-9_-]+[_-])?vfio[_-]pci$"))]
    pub(super) driver: Option<Spanned<String>>,
}

/// How much memory a share has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct MemoryRule {
    /// Of a claim that doesn't say; the GPU's memory divided by the count if not given. Such as 8Gi.
    #[schemars(with = "Option<String>")]
    pub(super) default: Option<Spanned<Amount>>,
    /// The least that a claim can ask for; 1Mi if not given.
    #[schemars(with = "Option<String>")]
    pub(super) minimum: Option<Spanned<Amount>>,
}

/// What happens to a claim that uses more memory than its share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct GuardRule {
    /// off: nobody looks; observe: an Event and a metric; evict: the pod is evicted; kill: its largest process is killed.
    #[serde(default)]
    pub(super) mode: GuardMode,
    /// For how long it may be over its share before that; 10s if not given.
    #[schemars(with = "Option<String>", regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    pub(super) grace: Option<Spanned<String>>,
}

/// What is offered where an API server lacks what both needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum Fallback {
    /// Each GPU for one claim.
    #[default]
    Whole,
    /// A fixed number of devices for each GPU.
    Shares,
}

/// An amount of memory in a file: text with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Amount(pub(super) Memory);

impl TryFrom<String> for Amount {
    type Error = aliquot_model::InvalidMemory;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

/// Rules, as long as there are not too many: what is beyond isn't even read.
fn at_most<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    struct Rules;

    impl<'de> Visitor<'de> for Rules {
        type Value = Vec<Rule>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of rules")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Rule>, A::Error> {
            let mut rules = Vec::new();
            while let Some(rule) = list.next_element()? {
                if rules.len() == MOST_RULES {
                    return Err(A::Error::custom(format_args!(
                        "there are more than {MOST_RULES} rules, the most that a policy can have"
                    )));
                }
                rules.push(rule);
            }
            Ok(rules)
        }
    }

    deserializer.deserialize_seq(Rules)
}

impl Rule {
    /// Whether the file says what is offered.
    pub(super) fn says_forms(&self) -> bool {
        self.offer.referenced != serde_saphyr::Location::UNKNOWN
    }
}

fn every_form() -> Vec<Form> {
    vec![Form::Whole, Form::Shares]
}

/// A list that isn't there has no place in the file.
fn everything() -> Spanned<Vec<Form>> {
    Spanned::new(every_form(), serde_saphyr::Location::UNKNOWN, serde_saphyr::Location::UNKNOWN)
}
