//! Why a container wasn't started: in the hook's own words where it refused it, in the runtime's where it didn't.
use serde_json::Value;

/// What was said of one container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The reasons that the hook wrote down.
    Hook(Vec<String>),
    /// The runtime's answer.
    Runtime(String),
}

impl Refusal {
    /// From the runtime's answer for a pod, and the hook's log as it was before and after.
    ///
    /// Of the log's lines only the reasons count, since the pod's name is in them too. Of the answer its name is left out.
    pub(super) fn read(answer: &str, pod: &str, before: &str, after: &str) -> Self {
        // A log that has grown too long begins anew.
        let fresh = after.strip_prefix(before).unwrap_or(after);
        let reason = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["reason"].as_str().map(ToOwned::to_owned)
        };
        let reasons: Vec<String> = fresh.lines().filter_map(reason).collect();
        if reasons.is_empty() { Self::Runtime(answer.replace(pod, "POD")) } else { Self::Hook(reasons) }
    }

    /// Whether this path, or one below it, is named.
    pub(super) fn names(&self, path: &str) -> bool {
        match self {
            Self::Hook(reasons) => reasons.iter().any(|reason| names(reason, path)),
            Self::Runtime(answer) => names(answer, path),
        }
    }

    /// All of it.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Hook(reasons) => format!("the hook says: {}", reasons.join("; ")),
            Self::Runtime(answer) => format!("the runtime says: {answer}"),
        }
    }
}

/// A path is named where it ends as a whole: `/usr/lib` is named by `/usr/lib/x`, and not by `/usr/lib64`. Runtimes name it
/// with the container's root before it.
fn names(text: &str, path: &str) -> bool {
    let is_more = |next: char| next.is_alphanumeric() || matches!(next, '_' | '-' | '.');
    text.match_indices(path).any(|(at, _)| text.get(at + path.len()..).is_some_and(|rest| !rest.starts_with(is_more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pod: &str, reason: &str) -> String {
        serde_json::json!({"id": "c", "pod": pod, "container": "one", "reason": reason}).to_string() + "\n"
    }

    #[test]
    fn neither_the_pods_name_nor_an_earlier_refusal_names_the_path() {
        let earlier = line("lib-is-root", "/usr/lib in the container can't be opened");
        let after = format!("{earlier}{}", line("lib-is-root", "the driver doesn't answer"));
        let refusal = Refusal::read("exit status 1", "lib-is-root", &earlier, &after);
        assert_eq!(refusal, Refusal::Hook(vec!["the driver doesn't answer".into()]));
        assert!(!refusal.names("lib") && !refusal.names("/usr/lib"));
        let silent = Refusal::read("can't start /usr/lib-is-root", "lib-is-root", &earlier, &earlier);
        assert!(!silent.names("/usr/lib") && !silent.names("lib"), "{silent:?}");
    }

    #[test]
    fn a_path_is_named_by_itself_and_by_what_is_below_it() {
        let of = |reason: &str| Refusal::read("exit status 1", "pod", "", &line("pod", reason));
        assert!(of("/usr/lib/x86_64 in the container is a directory").names("/usr/lib"));
        assert!(of("/usr/lib in the container is a directory").names("/usr/lib"));
        assert!(!of("/usr/lib64 in the container is a directory").names("/usr/lib"));
        assert!(Refusal::read("open /run/c/rootfs/proc: x", "pod", "", "").names("/proc"));
    }

    #[test]
    fn a_log_that_began_anew_is_read_whole() {
        let refusal = Refusal::read("exit status 1", "pod", &line("other", "long ago"), &line("pod", "/etc is odd"));
        assert!(refusal.names("/etc"));
    }
}
