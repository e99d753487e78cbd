//! Stands between a program and the C library (`LD_PRELOAD`): what the program writes to a simulated node's `bind`, `unbind`
//! and the like is not written, but asked of that node's kernel, which answers as the real one does: at last, never, or
//! with an error.
//!
//! Any other write goes to the real kernel. The simulated one listens on the socket `kernel.sock` in the node's directory.
#![allow(unsafe_code, reason = "a C ABI is pointers")]
#![allow(unreachable_pub, reason = "the linker's idea of public is another one")]
use std::{
    ffi::{OsStr, c_int, c_void},
    fs,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

const SOCKET: &str = "kernel.sock";
const FILES: [&str; 6] = ["bind", "unbind", "drivers_probe", "driver_override", "reset", "unbindLock"];
/// More than anything that is written to one of them.
const LONGEST: usize = 256;

/// `write(2)`.
///
/// # Safety
///
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: usize) -> isize {
    if count <= LONGEST
        && !buffer.is_null()
        && let Some((path, socket)) = simulated(fd)
    {
        // SAFETY: the caller's buffer has that many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), count) };
        let errno = ask(&path, &socket, bytes).unwrap_or(libc::EIO);
        if errno == 0 {
            return count.cast_signed();
        }
        // SAFETY: it is this thread's own.
        unsafe { *libc::__errno_location() = errno };
        return -1;
    }
    // SAFETY: the caller's arguments as they are.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, buffer, count) };
    // Never more than was asked for.
    isize::try_from(written).unwrap_or(-1)
}

/// The file behind a descriptor and the socket of its node, if it is one of the simulated kernel's.
fn simulated(fd: c_int) -> Option<(PathBuf, PathBuf)> {
    let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    path.file_name().and_then(OsStr::to_str).filter(|name| FILES.contains(name))?;
    let socket = path.ancestors().map(|dir| dir.join(SOCKET)).find(|socket| socket.exists())?;
    Some((path, socket))
}

/// The number of the kernel's error, and 0 for none.
fn ask(path: &Path, socket: &Path, bytes: &[u8]) -> io::Result<c_int> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(path.as_os_str().as_encoded_bytes())?;
    stream.write_all(b"\n")?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.trim().parse().map_err(io::Error::other)
}
