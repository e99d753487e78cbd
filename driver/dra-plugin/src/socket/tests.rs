//! Sockets on a real file system.
use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use super::*;

fn driver() -> DriverName {
    DriverName::new("gpu.example.com").unwrap()
}

fn paths(root: &Path) -> SocketPaths {
    SocketPaths::new(root, &driver(), None).unwrap()
}

#[test]
fn names_are_the_kubelets_and_a_second_instance_has_its_own() {
    let root = Path::new("/var/lib/kubelet");
    let one = paths(root);
    assert_eq!(one.registration.as_str(), "/var/lib/kubelet/plugins_registry/gpu.example.com@reg.sock");
    assert_eq!(one.dra.as_str(), "/var/lib/kubelet/plugins/gpu.example.com/dra.sock");
    let instance = |uid| SocketPaths::new(root, &driver(), Some(uid)).unwrap();
    let (a, b) = (instance("0b0c7a4e-1"), instance("0b0c7a4e-2"));
    assert_ne!(a, b);
    assert_eq!(a, instance("0b0c7a4e-1"));
    for path in [&a.registration, &a.dra] {
        assert!(path.as_str().len() < one.registration.as_str().len() + 12, "{path:?}");
    }
}

#[test]
fn a_path_of_107_bytes_binds_and_one_of_108_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("r");
    fs::create_dir(&root).unwrap();
    let name = |len: usize| "s".repeat(len - root.as_os_str().len() - 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let _in_runtime = runtime.enter();
    Socket::bind(&SocketPath::new(&root, &name(107)).unwrap()).unwrap();
    let error = SocketPath::new(&root, &name(108)).unwrap_err().to_string();
    assert!(error.contains("108 bytes") && error.contains("107") && error.contains("shorter driver name"), "{error}");
}

#[tokio::test]
async fn a_socket_is_for_its_owner_alone_and_goes_with_its_listener() {
    let root = tempfile::tempdir().unwrap();
    let path = paths(root.path()).dra;
    let socket = Socket::bind(&path).unwrap();
    assert_eq!(fs::metadata(path.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(socket.is_in_place());
    drop(socket);
    assert!(!path.path().exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let root = tempfile::tempdir().unwrap();
    let path = paths(root.path()).dra;
    fs::create_dir_all(path.path().parent().unwrap()).unwrap();
    drop(StdListener::bind(path.path()).unwrap());
    assert!(path.path().exists(), "std leaves its file, as a killed process does");
    let live = Socket::bind(&path).unwrap();
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse { .. })));
    drop(live);
}

#[tokio::test]
async fn what_is_no_socket_is_left_and_named() {
    let root = tempfile::tempdir().unwrap();
    let path = paths(root.path()).dra;
    let directory = path.path().parent().unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::write(path.path(), "precious").unwrap();
    let error = Socket::bind(&path).unwrap_err().to_string();
    assert!(error.contains("it is a file"), "{error}");
    fs::remove_file(path.path()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path.path()).unwrap();
    let error = Socket::bind(&path).unwrap_err().to_string();
    assert!(error.contains("it is a symlink"), "{error}");
}

#[tokio::test]
async fn directories_that_others_control_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = paths(root.path()).registration;
    let directory = path.path().parent().unwrap();
    fs::create_dir(directory).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Socket::bind(&path), Err(SocketError::UnsafeDirectory { mode: 0o777, .. })));
    fs::set_permissions(directory, fs::Permissions::from_mode(0o1777)).unwrap();
    drop(Socket::bind(&path).unwrap());
    fs::remove_dir(directory).unwrap();
    std::os::unix::fs::symlink("/tmp", directory).unwrap();
    assert!(matches!(Socket::bind(&path), Err(SocketError::NotADirectory { found: "a symlink", .. })));
}

#[tokio::test]
async fn a_missing_kubelet_root_is_an_error_and_not_made() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("kubelet");
    assert!(matches!(Socket::bind(&paths(&missing).dra), Err(SocketError::Io { .. })));
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_successors_socket_survives_the_end_of_ours() {
    let root = tempfile::tempdir().unwrap();
    let path = paths(root.path()).dra;
    let ours = Socket::bind(&path).unwrap();
    fs::remove_file(path.path()).unwrap();
    let successor = Socket::bind(&path).unwrap();
    assert!(!ours.is_in_place());
    drop(ours);
    assert!(UnixStream::connect(path.path()).is_ok());
    drop(successor);
}
