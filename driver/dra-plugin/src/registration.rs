//! Registration: the kubelet asks who is there, and says whether it took the plugin.
use kubelet_api::registration::v1::{
    DRA_PLUGIN, InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    registration_server::Registration as RegistrationContract,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, async_trait};

/// What the kubelet has made of this plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Registration {
    /// The kubelet has not said anything yet, or its last word is void as the socket had to be made anew.
    #[default]
    Waiting,
    /// The kubelet uses this plugin.
    Registered,
    /// The kubelet refused, and tries again by itself.
    Refused {
        /// Its reason.
        error: String,
    },
}

/// Serves `pluginregistration.Registration`.
pub(crate) struct RegistrationService {
    info: PluginInfo,
    state: watch::Sender<Registration>,
}

impl RegistrationService {
    /// `versions` in order of preference: the kubelet takes the first that it knows.
    pub(crate) fn new(
        driver: &str,
        endpoint: &str,
        versions: impl IntoIterator<Item = &'static str>,
        state: watch::Sender<Registration>,
    ) -> Self {
        let info = PluginInfo {
            r#type: DRA_PLUGIN.to_owned(),
            name: driver.to_owned(),
            endpoint: endpoint.to_owned(),
            supported_versions: versions.into_iter().map(str::to_owned).collect(),
        };
        Self { info, state }
    }
}

#[async_trait]
impl RegistrationContract for RegistrationService {
    async fn get_info(&self, _request: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        tracing::debug!("the kubelet asks who this is");
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        let now = if plugin_registered {
            tracing::info!("registered with the kubelet");
            Registration::Registered
        } else {
            tracing::warn!("the kubelet refused to register this plugin and will try again: {error}");
            Registration::Refused { error }
        };
        self.state.send_replace(now);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
