//! The kernel of a simulated node, as far as it gives PCI functions to drivers.
//!
//! ```text
//! driver ─> its helper process ─write─> libkernel_files.so ─socket─> here: bus (what becomes of it) ─> sysfs, /dev, NVML
//! ```
//! It answers each write as the real one does: when it is done, with an error, or never where somebody holds what is to be
//! let go of. What goes wrong besides is ordered by tests ([`Kernel::order`]).
mod bus;
mod scene;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

pub use self::scene::Scene;
use crate::node::Node;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disorder {
    /// The kernel refuses.
    Refuse(Errno),
    /// It doesn't come back before [`Kernel::release`]; what was written is done then.
    Hang,
    /// It comes back, and has done nothing.
    Nothing,
    /// The function falls off the bus.
    Vanish,
}

/// A running kernel; its node's drivers talk to it until it is dropped.
#[derive(Debug)]
pub struct Kernel {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    node: Node,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Each once, at the first write that it is for.
    orders: Vec<(String, Disorder)>,
    writes: Vec<String>,
    /// How many have been released.
    releases: usize,
    hanging: usize,
    locked: BTreeSet<String>,
    /// Functions whose lock (`device_lock`) a write has.
    busy: BTreeSet<String>,
    has_devices: bool,
    devices: u32,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a function's lock.
    fn turn<'a>(&'a self, pci: &'a str) -> Turn<'a> {
        let mut state = self.lock();
        while state.busy.contains(pci) && !state.is_over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy.insert(pci.to_owned());
        Turn { shared: self, pci }
    }
}

/// A function's lock, until it is dropped.
struct Turn<'a> {
    shared: &'a Shared,
    pci: &'a str,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.lock().busy.remove(self.pci);
        self.shared.changed.notify_all();
    }
}

impl Kernel {
    /// With the functions that are plugged in by now, and with a node of VFIO's for each of them if `has_devices`.
    pub fn boot(node: &Node, has_devices: bool) -> io::Result<Self> {
        bus::lay_out(node)?;
        let listener = UnixListener::bind(node.kernel_socket())?;
        let state = Mutex::new(State { has_devices, ..State::default() });
        let shared = Arc::new(Shared { node: node.clone(), state, changed: Condvar::new() });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("kernel".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.lock().is_over {
                    return;
                }
                // One that hangs keeps no other waiting.
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || answer(&shared, stream));
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What is to go wrong the next time that this is written: a file with its directory, and perhaps what is written, such as
    /// `nvidia/unbind 0000:1b:00.0`.
    pub fn order(&self, write: &str, disorder: Disorder) {
        self.shared.lock().orders.push((write.to_owned(), disorder));
    }

    /// All that hang now go on.
    pub fn release(&self) {
        self.shared.lock().releases += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until something hangs.
    pub fn until_it_hangs(&self) {
        let mut state = self.shared.lock();
        while state.hanging == 0 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// All is as after the machine was started: each function is with the driver that takes it by itself.
    pub fn reboot(&self) -> io::Result<()> {
        let refused = |errno: Errno| io::Error::from(errno);
        for pci in bus::functions(&self.shared.node)? {
            let _turn = self.shared.turn(&pci);
            bus::start_over(&self.shared, &pci).map_err(refused)?;
        }
        Ok(())
    }

    /// All that was written, in order.
    pub fn writes(&self) -> Vec<String> {
        self.shared.lock().writes.clone()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.release();
        // Wakes the thread; one whose node is gone already can't be woken.
        let is_woken = UnixStream::connect(self.shared.node.kernel_socket()).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| is_woken) {
            let _ = thread.join();
        }
        let _ = fs::remove_file(self.shared.node.kernel_socket());
    }
}

/// A process that holds a device node open until it is dropped.
#[derive(Debug)]
pub struct Holder(Child);

impl Holder {
    /// Of a node below the node's `/dev`; it is among the node's processes.
    pub fn of(node: &Node, device: &str) -> io::Result<Self> {
        let path = node.path("dev").join(device);
        let open = |flags| rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty());
        // Behind a real node there is no driver.
        let held = open(OFlags::RDONLY).or_else(|_| open(OFlags::PATH))?;
        let child = Command::new("sleep").arg("600").stdin(Stdio::from(held)).spawn()?;
        node.place(child.id(), None)?;
        Ok(Self(child))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answer(shared: &Shared, mut stream: UnixStream) {
    let mut text = String::new();
    if stream.read_to_string(&mut text).is_err() {
        return;
    }
    let (path, value) = text.split_once('\n').unwrap_or_default();
    let errno = match attend(shared, Path::new(path), value.trim()) {
        Ok(()) => 0,
        Err(errno) => errno.raw_os_error(),
    };
    // Who wrote may have been killed meanwhile.
    let _ = stream.write_all(errno.to_string().as_bytes());
}

fn attend(shared: &Shared, path: &Path, value: &str) -> Result<(), Errno> {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let (of, file) = (path.parent().map(name).unwrap_or_default(), name(path));
    let write = format!("{of}/{file} {value}").trim_end().to_owned();
    let is_functions = ["driver_override", "reset", "unbindLock"].contains(&file.as_str());
    let pci = if is_functions { of.as_str() } else { value };
    let mut state = shared.lock();
    state.writes.push(write.clone());
    let at = state.orders.iter().position(|(order, _)| write.starts_with(order.as_str()));
    let disorder = at.map(|at| state.orders.remove(at).1);
    if disorder == Some(Disorder::Hang) {
        let releases = state.releases;
        state.hanging += 1;
        shared.changed.notify_all();
        while state.releases == releases {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.hanging -= 1;
    }
    drop(state);
    match disorder {
        Some(Disorder::Refuse(errno)) => Err(errno),
        Some(Disorder::Nothing) => Ok(()),
        Some(Disorder::Vanish) => {
            bus::vanish(shared, pci).map_err(|_| Errno::IO)?;
            Err(Errno::NODEV)
        }
        // NVIDIA's own.
        Some(Disorder::Hang) | None if file == "unbindLock" => bus::write(shared, &of, &file, value),
        Some(Disorder::Hang) | None => {
            let _turn = shared.turn(pci);
            bus::write(shared, &of, &file, value)
        }
    }
}

/// Until nobody holds what is to be let go of.
fn wait_until(shared: &Shared, is_so: impl Fn() -> bool) {
    while !is_so() && !shared.lock().is_over {
        std::thread::sleep(Duration::from_millis(10));
    }
}
