//! Compiles the contracts with protox, so that no protoc is needed.
use std::{env, error::Error, path::Path};

const CONTRACTS: [&str; 5] =
    ["dra/v1", "dra/v1beta1", "dra-health/v1alpha1", "pluginregistration/v1", "podresources/v1"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    for contract in CONTRACTS {
        println!("cargo::rerun-if-changed={contract}/api.proto");
        // Every file is called api.proto, so each is compiled below its own include root.
        let files = protox::compile(["api.proto"], [contract])?;
        let dir = Path::new(&out).join(contract.replace('/', "-"));
        std::fs::create_dir_all(&dir)?;
        tonic_prost_build::configure().btree_map(".").out_dir(&dir).compile_fds(files)?;
    }
    Ok(())
}
