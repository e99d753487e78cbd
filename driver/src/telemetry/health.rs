//! Whether the driver is of use by now: what the kubelet and the API server have said of it.
use dra_plugin::{Registration, slices::PublishStatus};
use tokio::sync::watch;

/// What readiness follows from. That the records of claims can be read goes before: nothing is served until they were.
#[derive(Clone)]
pub(crate) struct Readiness {
    pub(crate) registration: watch::Receiver<Registration>,
    pub(crate) slices: watch::Receiver<PublishStatus>,
}

impl Readiness {
    /// What keeps pods from getting GPUs through this driver, each in a line; nothing if it serves.
    ///
    /// A node without GPUs, or one whose GPUs can't be read, publishes an empty pool, and its driver is ready: rolling
    /// updates go on.
    pub(crate) fn missing(&self) -> Vec<String> {
        let registration = unregistered(&self.registration.borrow());
        let slices = unpublished(&self.slices.borrow());
        registration.into_iter().chain(slices).collect()
    }
}

fn unregistered(registration: &Registration) -> Option<String> {
    match registration {
        Registration::Registered => None,
        Registration::Waiting => Some("the kubelet has not registered this driver yet".to_owned()),
        Registration::Refused { error } => Some(format!("the kubelet refused this driver: {error}")),
    }
}

fn unpublished(status: &PublishStatus) -> Option<String> {
    match status {
        PublishStatus::Published { .. } => None,
        PublishStatus::Pending => {
            Some("the node's devices are not published yet; the log says what is waited for".to_owned())
        }
        PublishStatus::Failing { error } => Some(format!("the node's devices can't be published: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(registration: Registration, publishing: PublishStatus) -> Vec<String> {
        let readiness =
            Readiness { registration: watch::channel(registration).1, slices: watch::channel(publishing).1 };
        readiness.missing()
    }

    fn published(slices: usize) -> PublishStatus {
        PublishStatus::Published { generation: 1, slices, dropped: Vec::new() }
    }

    #[test]
    fn a_driver_is_ready_once_it_is_registered_and_has_published_be_it_nothing() {
        for slices in [0, 2] {
            assert_eq!(missing(Registration::Registered, published(slices)), Vec::<String>::new());
        }
    }

    #[test]
    fn each_thing_that_is_missing_is_said() {
        assert_eq!(missing(Registration::Waiting, PublishStatus::Pending).len(), 2);
        let refused = Registration::Refused { error: "too old".to_owned() };
        assert!(missing(refused, published(1))[0].ends_with("too old"));
        let failing = PublishStatus::Failing { error: "forbidden".to_owned() };
        assert!(missing(Registration::Registered, failing)[0].ends_with("forbidden"));
    }
}
