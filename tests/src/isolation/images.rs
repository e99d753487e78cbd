//! Images made to have the runtime or the hook read or write where they shouldn't.
//!
//! Whatever an image does, the host stays as it is, and the container either starts with what it holds and nothing else, or
//! doesn't start, with a message, in the runtime's answer or in the hook's log, that names the path.
use super::{
    Tally,
    refusal::Refusal,
    seen::Own,
    stage::{How, Scene, container, reference},
};
use crate::{
    image::{Entry, Image},
    runtime::{ContainerSpec, Runtime},
    testbed::Result,
};

/// The library directory of this architecture in images of Debian's family.
const LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "usr/lib/aarch64-linux-gnu" } else { "usr/lib/x86_64-linux-gnu" };
const CACHE: &str = "etc/ld.so.cache";
const COMPAT: &str = "usr/local/cuda/compat";
/// More than the loader's cache of any distribution.
const HUGE: usize = 8 << 20;

/// An image, and one of what a refusal of it names.
struct Trick {
    name: &'static str,
    entries: Vec<(String, Entry)>,
    named: &'static [&'static str],
}

impl Trick {
    /// What a container of this image has.
    fn own(&self, own: &Own) -> Own {
        let mut own = own.clone();
        for (path, entry) in &self.entries {
            match entry {
                Entry::Device(..) => drop(own.brought.insert(format!("/{path}"))),
                // Where the image has another directory as /dev, the runtime's is there, in the container's root.
                Entry::Link(target) if path == "dev" => {
                    let nodes = std::mem::take(&mut own.nodes).into_iter();
                    own.nodes = nodes.map(|(path, number)| (path.replacen("/dev", target, 1), number)).collect();
                }
                _ => {}
            }
        }
        own
    }
}

fn trick(name: &'static str, entries: Vec<(&str, Entry)>, named: &'static [&'static str]) -> Trick {
    let entries = entries.into_iter().map(|(path, entry)| (path.to_owned(), entry)).collect();
    Trick { name, entries, named }
}

/// All of them, aimed at a directory of the host.
fn tricks(canary: &str) -> Vec<Trick> {
    let link = |to: &str| Entry::Link(to.to_owned());
    let at_host = |below: &str| Entry::Link(format!("{canary}/{below}"));
    let upwards = |below: &str| Entry::Link(format!("{}{}/{below}", "../".repeat(12), canary.trim_start_matches('/')));
    let file = |text: &str| Entry::File(text.as_bytes().to_vec());
    let compat = |name: &str| format!("{COMPAT}/{name}");
    let libraries = &["/usr/lib"];
    let cache = &["/etc/ld.so.cache"];
    vec![
        trick("lib-is-root", vec![("usr/lib", link("/"))], libraries),
        trick("libraries-upwards", vec![(LIBRARIES, link("../../../../../.."))], libraries),
        trick("libraries-at-host", vec![(LIBRARIES, at_host("lib")), ("usr/lib64", upwards("lib"))], libraries),
        trick("libraries-in-proc", vec![("usr/lib64", link("/proc/self/cwd"))], &["/usr/lib64"]),
        trick("libraries-are-one", vec![("usr/lib64", link(&LIBRARIES["usr/".len()..]))], libraries),
        trick("cache-is-a-fifo", vec![(CACHE, Entry::Fifo)], cache),
        trick("cache-is-a-directory", vec![(CACHE, Entry::Directory)], cache),
        trick("cache-is-a-device", vec![(CACHE, Entry::Device(195, 5))], cache),
        trick("cache-at-host", vec![(CACHE, at_host("etc/ld.so.cache"))], cache),
        trick("cache-upwards", vec![(CACHE, upwards("etc/ld.so.cache"))], cache),
        trick("cache-in-proc", vec![(CACHE, link("/proc/kmsg"))], cache),
        trick("cache-in-a-circle", vec![(CACHE, link("ld.so.cache"))], cache),
        trick("cache-is-huge", vec![(CACHE, Entry::File(vec![0; HUGE]))], cache),
        trick("cache-is-rubbish", vec![(CACHE, file("glibc-ld.so.cache1.1\u{1}\u{1}\u{1}\u{1}"))], cache),
        trick("configuration-at-host", vec![("etc/ld.so.conf.d", upwards("etc/ld.so.conf.d"))], &["/etc/ld.so.conf.d"]),
        trick("etc-at-host", vec![("etc", at_host("etc"))], &["/etc"]),
        trick("dev-at-host", vec![("dev", at_host("dev"))], &["/dev"]),
        trick("proc-at-host", vec![("proc", at_host("lib"))], &["/proc"]),
        trick(
            "compat-is-hostile",
            vec![
                (COMPAT, Entry::Directory),
                (&compat("libcuda.so.999.1"), file("")),
                (&compat("libcuda.so.1"), at_host("compat/libcuda.so.999.1")),
                (&compat("lib\n/etc/x.so.1"), file("")),
                (&compat("lib.so.99999999999999999999"), link("/proc/self/exe")),
                (&compat("libfifo.so.1"), Entry::Fifo),
            ],
            &["/usr/local/cuda"],
        ),
        trick("compat-at-host", vec![("usr/local/cuda", upwards(""))], &["/usr/local/cuda"]),
        trick(
            "devices-in-the-image",
            vec![("usr/share/nvidia5", Entry::Device(195, 5)), ("usr/share/card5", Entry::Device(226, 5))],
            &["/usr/share"],
        ),
    ]
}

pub(super) async fn run(scene: &Scene<'_>, runtime: Runtime, tally: &mut Tally) -> Result<()> {
    let canary = scene.host().canary().to_string_lossy().into_owned();
    let held = scene.hold(How::Whole, &[0]).await?;
    let before = scene.host().print()?;
    let (attempts, mut refused, all) = (tally.attempts, Vec::new(), tricks(&canary));
    let plain = scene.image();
    let images: Vec<Image> =
        all.iter().map(|trick| plain.with(&reference(trick.name), trick.entries.clone())).collect();
    scene.import(&images).await?;
    for trick in &all {
        let told = scene.refusals();
        let spec = ContainerSpec { image: Some(reference(trick.name)), ..container("one", &held.ids) };
        match scene.run(trick.name, runtime, vec![spec]).await {
            Ok(pod) => {
                scene.judge(&pod, "one", trick.name, &trick.own(&held.own), tally).await?;
                pod.remove().await?;
            }
            Err(error) => {
                // crun tells only that the hook refused; what the hook said is in its log.
                let refusal = Refusal::read(&error.to_string(), trick.name, &told, &scene.refusals());
                if !trick.named.iter().any(|path| refusal.names(path)) {
                    let told = refusal.told();
                    tally.fault(format_args!("{} isn't started, and its path isn't named: {told}", trick.name));
                }
                refused.push(trick.name);
            }
        }
        if scene.host().print()? != before {
            return Err(format!("{} changed the host", trick.name).into());
        }
    }
    scene.release(&held).await?;
    let attempts = tally.attempts - attempts;
    let (count, refused) = (all.len(), refused.join(", "));
    tally.note(format_args!("{count} hostile images, the host unchanged: {attempts} attempts; not started: {refused}"));
    Ok(())
}
