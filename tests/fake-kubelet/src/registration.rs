//! One registration: ask a socket who it is, judge the answer, register, and tell it the outcome.
use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kubelet_api::registration::v1::{
    DRA_PLUGIN, InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

use crate::{
    dial::{Connection, DialError},
    driver::Version,
    plugins::{PluginError, Plugins},
};

const GET_INFO: &str = "/pluginregistration.Registration/GetInfo";
const NOTIFY: &str = "/pluginregistration.Registration/NotifyRegistrationStatus";
/// The kubelet's deadlines for the two calls.
const GET_INFO_WITHIN: Duration = Duration::from_secs(1);
const NOTIFY_WITHIN: Duration = Duration::from_secs(5);
/// The longest path that fits `sockaddr_un.sun_path` with its terminator (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// Why an attempt to register failed; the kubelet tries again while the socket is there.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Nobody answered at the socket.
    #[error("RegisterPlugin error -- dial failed at socket {}, err: {source}", socket.display())]
    Dial {
        /// The registration socket.
        socket: PathBuf,
        /// What went wrong.
        source: DialError,
    },
    /// `GetInfo` failed.
    #[error(
        "RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {}, err: {source}",
        socket.display()
    )]
    GetInfo {
        /// The registration socket.
        socket: PathBuf,
        /// What went wrong.
        source: DialError,
    },
    /// Not a DRA driver.
    #[error("RegisterPlugin error -- no handler registered for plugin type: {kind} at socket {}", socket.display())]
    Type {
        /// What the plugin says that it is.
        kind: String,
        /// The registration socket.
        socket: PathBuf,
    },
    /// The answer of `GetInfo` is not acceptable.
    #[error("RegisterPlugin error -- plugin validation failed with err: {0}")]
    Invalid(InvalidInfo),
    /// The answer is acceptable, but clashes with another instance.
    #[error("RegisterPlugin error -- plugin registration failed with err: {0}")]
    Refused(PluginError),
    /// The plugin is registered, but does not want to know.
    #[error("RegisterPlugin error -- failed to send registration status at socket {}, err: {source}", socket.display())]
    Notify {
        /// The registration socket.
        socket: PathBuf,
        /// What went wrong.
        source: DialError,
    },
}

/// What is wrong with a plugin's answer to `GetInfo`. Kubelets from mid-2026 on check name and endpoint too.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInfo {
    /// Not a DNS subdomain of at most 63 characters.
    #[error("invalid DRA driver name {0:?}: must be a lower-case DNS subdomain of at most 63 characters")]
    Name(String),
    /// Relative, or too long for a socket address.
    #[error("invalid endpoint {0:?} of DRA driver plugin: must be an absolute path of at most {LONGEST_SOCKET} bytes")]
    Endpoint(PathBuf),
    /// No common contract version.
    #[error(
        "invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {}: {}", endpoint.display(),
        versions_text(supported)
    )]
    Versions {
        /// The driver's name.
        driver: String,
        /// Its DRA socket.
        endpoint: PathBuf,
        /// What it offers.
        supported: Vec<String>,
    },
}

fn versions_text(supported: &[String]) -> String {
    if supported.is_empty() {
        return "empty list of supported gRPC services (aka supported versions)".to_owned();
    }
    let known = Version::ALL.map(Version::service);
    format!("none of services supported by the plugin ({supported:?}) are supported by the kubelet ({known:?})")
}

/// A plugin that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The driver's name.
    pub driver: String,
    /// Its DRA socket.
    pub endpoint: PathBuf,
    /// The contract version that was settled on.
    pub version: Version,
}

/// One attempt. `registered` is set as soon as the plugin is registered, even if it then cannot be told.
pub(crate) async fn register(
    socket: &Path,
    plugins: &Arc<Plugins>,
    registered: impl FnOnce(Registered),
) -> Result<(), RegistrationError> {
    let at = || socket.to_owned();
    let dialled = Connection::dial(socket).await;
    let mut connection = dialled.map_err(|source| RegistrationError::Dial { socket: at(), source })?;
    let info = connection.unary(GET_INFO, &InfoRequest {}, GET_INFO_WITHIN).await;
    let info: PluginInfo = info.map_err(|source| RegistrationError::GetInfo { socket: at(), source })?;
    let outcome = accept(info, socket).and_then(|plugin| {
        let added = plugins.add(&plugin.driver, &plugin.endpoint, plugin.version);
        added.map(|()| plugin).map_err(RegistrationError::Refused)
    });
    let status = match outcome {
        Ok(plugin) => {
            registered(plugin);
            Ok(RegistrationStatus { plugin_registered: true, error: String::new() })
        }
        Err(refusal) => Err(refusal),
    };
    let message = match &status {
        Ok(status) => status.clone(),
        Err(refusal) => RegistrationStatus { plugin_registered: false, error: refusal.to_string() },
    };
    let notified = connection.unary::<_, RegistrationStatusResponse>(NOTIFY, &message, NOTIFY_WITHIN).await;
    status?;
    notified.map(|_| ()).map_err(|source| RegistrationError::Notify { socket: at(), source })
}

fn accept(info: PluginInfo, socket: &Path) -> Result<Registered, RegistrationError> {
    let PluginInfo { r#type: kind, name: driver, endpoint, supported_versions: supported } = info;
    if kind != DRA_PLUGIN {
        return Err(RegistrationError::Type { kind, socket: socket.to_owned() });
    }
    let endpoint = if endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(endpoint) };
    if !is_driver_name(&driver) {
        return Err(RegistrationError::Invalid(InvalidInfo::Name(driver)));
    }
    if !endpoint.is_absolute() || endpoint.as_os_str().as_bytes().len() > LONGEST_SOCKET {
        return Err(RegistrationError::Invalid(InvalidInfo::Endpoint(endpoint)));
    }
    match Version::choose(&supported) {
        Some(version) => Ok(Registered { driver, endpoint, version }),
        None => Err(RegistrationError::Invalid(InvalidInfo::Versions { driver, endpoint, supported })),
    }
}

/// A DNS-1123 subdomain of at most 63 characters.
fn is_driver_name(name: &str) -> bool {
    let alphanumeric = |octet: &u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
    let label = |label: &str| {
        let octets = label.as_bytes();
        octets.first().is_some_and(alphanumeric)
            && octets.last().is_some_and(alphanumeric)
            && octets.iter().all(|octet| alphanumeric(octet) || *octet == b'-')
    };
    name.len() <= 63 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> PluginInfo {
        PluginInfo {
            r#type: DRA_PLUGIN.to_owned(),
            name: "gpu.example.com".to_owned(),
            endpoint: "/plugins/dra.sock".to_owned(),
            supported_versions: vec!["v1.DRAPlugin".to_owned()],
        }
    }

    fn refusal(info: PluginInfo) -> String {
        accept(info, Path::new("/reg/x.sock")).unwrap_err().to_string()
    }

    #[test]
    fn a_good_plugin_is_accepted() {
        let registered = accept(info(), Path::new("/reg/x.sock")).unwrap();
        assert_eq!((registered.driver.as_str(), registered.version), ("gpu.example.com", Version::V1));
    }

    #[test]
    fn an_empty_endpoint_means_the_registration_socket() {
        let registered = accept(PluginInfo { endpoint: String::new(), ..info() }, Path::new("/reg/x.sock")).unwrap();
        assert_eq!(registered.endpoint, Path::new("/reg/x.sock"));
    }

    #[test]
    fn another_plugin_type_is_refused() {
        let text = refusal(PluginInfo { r#type: "CSIPlugin".to_owned(), ..info() });
        let expected = "RegisterPlugin error -- no handler registered for plugin type: CSIPlugin at socket /reg/x.sock";
        assert_eq!(text, expected);
    }

    #[test]
    fn names_endpoints_and_versions_are_checked() {
        for name in ["", "GPU.example.com", "gpu_x", "gpu..com", "-gpu", &"x".repeat(64)] {
            assert!(refusal(PluginInfo { name: name.to_owned(), ..info() }).contains("driver name"), "{name}");
        }
        assert!(refusal(PluginInfo { endpoint: "dra.sock".to_owned(), ..info() }).contains("endpoint"));
        let long = format!("/{}", "x".repeat(107));
        assert!(refusal(PluginInfo { endpoint: long, ..info() }).contains("endpoint"));
        let text = refusal(PluginInfo { supported_versions: vec!["v2.DRAPlugin".to_owned()], ..info() });
        assert!(text.contains(
            r#"none of services supported by the plugin (["v2.DRAPlugin"]) are supported by the kubelet (["v1.DRAPlugin", "v1beta1.DRAPlugin"])"#
        ));
        assert!(refusal(PluginInfo { supported_versions: vec![], ..info() }).contains("empty list"));
    }
}
