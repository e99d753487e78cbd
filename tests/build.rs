//! Compiles the runtime interface with protox, so that no protoc is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=cri/api.proto");
    let files = protox::compile(["api.proto"], ["cri"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
