//! The kubelet's gRPC contracts for DRA plugins: clients, servers and messages, one module per contract.
//!
//! Field numbers and full method names are those of Kubernetes 1.34 to 1.37; the `.proto` files beside this crate are
//! compiled without `protoc`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

macro_rules! contract {
    ($dir:literal, $package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $dir, "/", $package, ".rs"));
    };
}

/// Prepare and unprepare of resource claims.
pub mod dra {
    /// The current version; devices carry a share ID.
    pub mod v1 {
        contract!("dra-v1", "k8s.io.kubelet.pkg.apis.dra.v1");
        /// What a plugin writes in `PluginInfo.supported_versions` when it serves this contract.
        pub const SERVICE: &str = "v1.DRAPlugin";
    }
    /// The version that kubelets before 1.34 speak, and later ones too.
    pub mod v1beta1 {
        contract!("dra-v1beta1", "k8s.io.kubelet.pkg.apis.dra.v1beta1");
        /// What a plugin writes in `PluginInfo.supported_versions` when it serves this contract.
        pub const SERVICE: &str = "v1beta1.DRAPlugin";
    }
}

/// Device health for the pod status (KEP-4680).
pub mod health {
    /// The version of Kubernetes 1.34 to 1.37.
    pub mod v1alpha1 {
        contract!("dra-health-v1alpha1", "v1alpha1");
        /// What a plugin writes in `PluginInfo.supported_versions` when it serves this contract.
        pub const SERVICE: &str = "v1alpha1.DRAResourceHealth";
    }
}

/// Plugin registration: the kubelet asks, the plugin answers.
pub mod registration {
    /// The only version there is.
    pub mod v1 {
        contract!("pluginregistration-v1", "pluginregistration");
        /// `PluginInfo.type` of a DRA driver.
        pub const DRA_PLUGIN: &str = "DRAPlugin";
    }
}

/// Which pod holds which device.
pub mod podresources {
    /// The current version.
    pub mod v1 {
        contract!("podresources-v1", "v1");
    }
}
