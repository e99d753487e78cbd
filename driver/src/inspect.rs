//! `aliquot-driver inspect`: what this node would publish, without any cluster.
use std::fmt::Write as _;

use aliquot_model::Inventory;
use aliquot_params::policy::Policy;
use dra_plugin::{
    DriverName,
    slices::{NodeName, Pool},
};
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};

use crate::{
    args::{InspectArgs, NodeArgs, Output},
    discovery,
    offer::{self, Layout, Offered},
    roots::Roots,
    sharing::limits,
    streams,
};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The runtime that reads NVML can't start.
    #[error("the runtime can't be started")]
    Runtime(#[source] std::io::Error),
    /// No GPUs can be read.
    #[error(transparent)]
    Trouble(#[from] discovery::Trouble),
    /// The driver's name is none.
    #[error("--driver-name")]
    Driver(#[from] dra_plugin::InvalidDriverName),
    /// The node's name is none.
    #[error("--node-name")]
    Node(#[from] dra_plugin::slices::InvalidName),
    /// The output can't be written.
    #[error("the output can't be written")]
    Json(#[from] serde_json::Error),
    /// The output can't be written.
    #[error("the output can't be written")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// Standard output takes nothing.
    #[error("standard output can't be written")]
    Stdout(#[source] std::io::Error),
}

/// Reads the node once and prints what is offered without a policy.
pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Error> {
    let inventory = inventory(&args.node)?;
    let offered = offer::offered(&inventory, &Policy::default(), &[], Layout::Counters);
    streams::print(&show(&args.node, offered, args.output)?).map_err(Error::Stdout)
}

/// The node's GPUs; those that are left out are told on standard error.
pub(crate) fn inventory(node: &NodeArgs) -> Result<Inventory, Error> {
    let settings = once(node);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let found = runtime.block_on(discovery::read(
        &mut discovery::Library::default(),
        aliquot_nvml::Session::Keep,
        &settings,
        Vec::new,
    ));
    runtime.shutdown_background();
    let found = found?;
    for gpu in found.inventory.broken() {
        streams::tell(format_args!("GPU {} is left out: {}", gpu.index, gpu.reason));
    }
    Ok(found.inventory)
}

/// How a node is read once.
pub(crate) fn once(node: &NodeArgs) -> discovery::Settings {
    let roots = Roots::new(&node.places, &node.driver_name);
    discovery::Settings {
        hard_limits: limits::could_be_had(&roots),
        roots,
        deadline: node.nvml_deadline,
        interval: std::time::Duration::MAX,
        // What the driver itself can trace does not show from here.
        processes: true,
    }
}

/// What is offered, in the form that was asked for.
pub(crate) fn show(node: &NodeArgs, offered: Offered, output: Output) -> Result<String, Error> {
    Ok(match output {
        Output::Table => table(&offered.devices),
        Output::Json => serde_json::to_string_pretty(&list(node, offered)?)? + "\n",
        Output::Yaml => serde_saphyr::to_string(&list(node, offered)?)?,
    })
}

fn list(args: &NodeArgs, offered: Offered) -> Result<serde_json::Value, Error> {
    let (driver, node) = (DriverName::new(&args.driver_name)?, NodeName::new(&args.node_name)?);
    let Offered { devices, counters, .. } = offered;
    let pool = Pool { name: offer::pool_name(&driver, &node)?, devices, counters };
    let slices = pool.slices(&driver, &node);
    let items = slices.into_iter().map(|spec| serde_json::to_value(ResourceSlice { spec, ..ResourceSlice::default() }));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

/// One line per device, in columns as kubectl prints them.
fn table(devices: &[Device]) -> String {
    const COLUMNS: [(&str, &str); 6] = [
        ("PRODUCT", "productName"),
        ("DRIVER", "driverVersion"),
        ("PCI", "resource.kubernetes.io/pciBusID"),
        ("NUMA", "resource.kubernetes.io/numaNode"),
        ("INDEX", "index"),
        ("UUID", "uuid"),
    ];
    let mut rows = vec![{
        let mut head = ["NAME", "SHARES", "MEMORY", "SHARE"].map(ToOwned::to_owned).to_vec();
        head.extend(COLUMNS.iter().map(|(title, _)| (*title).to_owned()));
        head
    }];
    for device in devices {
        let capacity = |name: &str| device.capacity.as_ref().and_then(|all| all.get(name));
        let amount = |name: &str| capacity(name).map_or_else(|| "-".to_owned(), |capacity| capacity.value.0.clone());
        let default = capacity("memory").and_then(|memory| memory.request_policy.as_ref()?.default.clone());
        let default = default.map_or_else(|| "-".to_owned(), |default| default.0);
        let mut row = vec![device.name.clone(), amount("shares"), amount("memory"), default];
        row.extend(COLUMNS.iter().map(|(_, name)| attribute(device, name)));
        rows.push(row);
    }
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().map(|row| row.get(c).map_or(0, |cell| cell.chars().count())).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn attribute(device: &Device, name: &str) -> String {
    let value = device.attributes.as_ref().and_then(|all| all.get(name));
    let shown = value.and_then(|value| {
        let text = value.string.clone().or_else(|| value.version.clone());
        text.or_else(|| value.int.map(|int| int.to_string()))
    });
    shown.unwrap_or_else(|| "-".to_owned())
}
