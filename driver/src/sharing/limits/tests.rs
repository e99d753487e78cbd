//! Requests against a tree of cgroups and an NVML that notes what it is told.
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use aliquot_model::{GpuUuid, Memory};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::{
    answer::{Answer, Desk, Request},
    cgroup::Cgroups,
    *,
};
use crate::{claim::testing::share, sharing::guard::cgroup::Kubepods};

/// procfs and a hierarchy of cgroups, as plain files.
pub(super) struct Tree(tempfile::TempDir);

impl Tree {
    pub(super) fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(tree.0.path().join("sys/fs/cgroup")).unwrap();
        tree
    }

    pub(super) fn roots(&self) -> Roots {
        let path = |below: &str| self.0.path().join(below);
        let roots = crate::roots::tests::roots("/d", "/d");
        Roots { sys: path("sys"), proc: path("proc"), kubelet: path("k"), plugin: path("k/plugins/x"), ..roots }
    }

    /// A process in a cgroup that is made; its directory.
    pub(super) fn place(&self, pid: u32, cgroup: &str) -> PathBuf {
        self.write(pid, &format!("0::{cgroup}\n"));
        let path = self.0.path().join("sys/fs/cgroup").join(cgroup.trim_start_matches('/'));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub(super) fn write(&self, pid: u32, cgroups: &str) {
        let dir = self.0.path().join("proc").join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cgroup"), cgroups).unwrap();
    }
}

/// In GiB, by GPU and cgroup.
type Set = Rc<RefCell<BTreeMap<(String, PathBuf), u64>>>;

#[derive(Default, Clone)]
struct Fake {
    set: Set,
    broken: Rc<RefCell<bool>>,
}

impl Limiter for Fake {
    async fn limit(&self, gpu: &GpuUuid, cgroup: &Path) -> Result<Option<Memory>, String> {
        let set = self.set.borrow().get(&(gpu.to_string(), cgroup.to_owned())).copied();
        Ok(set.map(|gib| Memory::from_bytes(gib << 30)))
    }

    async fn set(&self, gpu: &GpuUuid, cgroup: &Path, limit: Memory) -> Result<(), String> {
        if *self.broken.borrow() {
            return Err("it failed".to_owned());
        }
        self.set.borrow_mut().insert((gpu.to_string(), cgroup.to_owned()), limit.bytes() >> 30);
        Ok(())
    }
}

/// Claim u1 with 8 GiB and 4 GiB of one GPU and 2 GiB of another; claim u2 without limits.
fn records(uid: &str) -> Result<Option<Arc<Record>>, String> {
    let mut record = share("u1", "gpu-0", 1, 8);
    for (gpu, name, gib) in [("gpu-0", "u1-gpu-0-b", 4), ("gpu-1", "u1-gpu-1", 2)] {
        let mut held = share("u1", gpu, 1, gib).devices.remove(0);
        held.cdi_id = format!("gpu.example.com/claim={name}");
        record.devices.push(held);
    }
    record.devices.iter_mut().for_each(|held| held.share.as_mut().unwrap().hard = true);
    match uid {
        "u1" => Ok(Some(Arc::new(record))),
        "u2" => Ok(Some(Arc::new(share("u2", "gpu-0", 1, 8)))),
        "damaged" => Err("damaged".to_owned()),
        _ => Ok(None),
    }
}

type Records = fn(&str) -> Result<Option<Arc<Record>>, String>;

fn desk(tree: &Tree, fake: &Fake) -> Desk<Records, Fake> {
    Desk::new(Cgroups::new(&tree.roots(), Kubepods::default()), records, fake.clone())
}

fn request(claim: &str, device: &str, pid: u32) -> Request {
    Request { claim: claim.into(), device: device.into(), pid }
}

fn limits(fake: &Fake) -> Vec<(String, u64)> {
    fake.set.borrow().iter().map(|((gpu, _), gib)| (gpu.clone(), *gib)).collect()
}

fn told(limits: &[(&str, u64)]) -> Vec<(String, u64)> {
    limits.iter().map(|(gpu, gib)| ((*gpu).to_owned(), *gib)).collect()
}

#[tokio::test]
async fn a_containers_devices_of_one_gpu_add_up_and_another_container_starts_from_nothing() {
    let (tree, fake) = (Tree::new(), Fake::default());
    let mut desk = desk(&tree, &fake);
    tree.place(7, "/kubepods/pod-a/c1");
    for device in ["u1-gpu-0", "u1-gpu-0-b", "u1-gpu-0", "u1-gpu-1"] {
        assert_eq!(desk.answer(request("u1", device, 7)).await, Answer::Ok(true));
    }
    assert_eq!(limits(&fake), told(&[("GPU-gpu-0", 12), ("GPU-gpu-1", 2)]));
    let second = tree.place(8, "/kubepods/pod-a/c2");
    assert_eq!(desk.answer(request("u1", "u1-gpu-0-b", 8)).await, Answer::Ok(true));
    assert_eq!(fake.set.borrow()[&("GPU-gpu-0".to_owned(), second)], 4);
}

#[tokio::test]
async fn a_driver_that_was_started_anew_goes_on_from_what_is_set() {
    let (tree, fake) = (Tree::new(), Fake::default());
    tree.place(7, "/kubepods/pod-a/c1");
    desk(&tree, &fake).answer(request("u1", "u1-gpu-0", 7)).await;
    desk(&tree, &fake).answer(request("u1", "u1-gpu-0-b", 7)).await;
    assert_eq!(limits(&fake), told(&[("GPU-gpu-0", 12)]));
}

#[tokio::test]
async fn a_cgroup_of_an_earlier_containers_name_starts_from_nothing() {
    let (tree, fake) = (Tree::new(), Fake::default());
    let mut desk = desk(&tree, &fake);
    let path = tree.place(7, "/kubepods/pod-a/c1");
    desk.answer(request("u1", "u1-gpu-0", 7)).await;
    // The old one stays, so that its inode isn't given out again; NVML forgets it with its name.
    std::fs::rename(&path, path.with_file_name("old")).unwrap();
    std::fs::create_dir(&path).unwrap();
    fake.set.borrow_mut().clear();
    desk.answer(request("u1", "u1-gpu-0-b", 7)).await;
    assert_eq!(limits(&fake), told(&[("GPU-gpu-0", 4)]));
}

#[tokio::test]
async fn what_was_not_set_is_not_counted_later() {
    let (tree, fake) = (Tree::new(), Fake::default());
    let mut desk = desk(&tree, &fake);
    tree.place(7, "/kubepods/pod-a/c1");
    fake.broken.replace(true);
    let answer = desk.answer(request("u1", "u1-gpu-0", 7)).await;
    assert!(matches!(answer, Answer::Error(error) if error.contains("it failed")));
    fake.broken.replace(false);
    desk.answer(request("u1", "u1-gpu-0-b", 7)).await;
    assert_eq!(limits(&fake), told(&[("GPU-gpu-0", 4)]));
}

#[tokio::test]
async fn whoever_was_promised_no_limit_gets_none() {
    let (tree, fake) = (Tree::new(), Fake::default());
    let mut desk = desk(&tree, &fake);
    tree.place(7, "/kubepods/pod-a/c1");
    for (claim, device, pid, words) in [
        ("u9", "u1-gpu-0", 7, "no claim with UID u9"),
        ("../u1", "u1-gpu-0", 7, "no claim with UID"),
        ("damaged", "u1-gpu-0", 7, "damaged"),
        ("u1", "u1-gpu-7", 7, "holds no device u1-gpu-7"),
        ("u2", "u2-gpu-0", 7, "no share with a hard memory limit"),
        ("u1", "u1-gpu-0", 9, "hostPID"),
    ] {
        let answer = desk.answer(request(claim, device, pid)).await;
        assert!(matches!(&answer, Answer::Error(error) if error.contains(words)), "{words}: {answer:?}");
    }
    assert_eq!(limits(&fake), []);
}

#[tokio::test(start_paused = true)]
async fn callers_that_say_nothing_or_nonsense_keep_nobody_else_from_an_answer() {
    let (tree, fake) = (Tree::new(), Fake::default());
    tree.place(7, "/kubepods/pod-a/c1");
    let roots = tree.roots();
    std::fs::create_dir_all(&roots.kubelet).unwrap();
    let limits = Limits::begin(&roots, false, Kubepods::default());
    assert!(!limits.are_ready());
    let path = roots.plugin.join(SOCKET);
    let calls = async {
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        for (line, expected) in [
            ("{}\n", "the request is none"),
            (&*"x".repeat(5000), "the request is none"),
            ("{\"claim\":\"u1\",\"device\":\"u1-gpu-0\",\"pid\":-1}\n", "the request is none"),
            ("{\"claim\":\"u1\",\"device\":\"u1-gpu-0\",\"pid\":7}\n", "{\"ok\":true}"),
        ] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(line.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains(expected), "{line}: {answer}");
        }
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(path.exists(), "a socket that somebody removed is there again");
    };
    let stop = CancellationToken::new();
    tokio::join!(limits.serve(records, fake.clone(), stop.clone()), async {
        calls.await;
        stop.cancel();
    });
    assert_eq!(self::limits(&fake), told(&[("GPU-gpu-0", 8)]));
}
