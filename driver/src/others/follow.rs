//! Keeps what is known of others up to date: asks the kubelet when its files change, and watches the node's slices.
use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use dra_plugin::Backoff;
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use watch_patience::Patience;

use super::{
    Known,
    collide::{self, Collision},
    judge::{Elsewhere, Heard, judge},
    kubelet::{self, Kubelet},
    linger::Linger,
    taint::Marker,
    tell::{self, Contested},
};
use crate::{
    args::OtherPlugins,
    claim::Claims,
    discovery::{View, wake::Waker},
    notices::Notices,
    podresources,
    policy::InForce,
};

/// While others hand out GPUs, the kubelet is asked this often: it writes no file when a plugin is killed or a pod ends.
const LOOK: Duration = Duration::from_secs(30);
/// What is offered waits for the first answers, but not for long: it is better offered than withheld on a suspicion.
const FIRST: Duration = Duration::from_secs(3);

/// For whom and how.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) driver: String,
    pub(super) node: String,
    pub(super) kubelet: Kubelet,
    pub(super) mode: OtherPlugins,
}

/// What it works with.
pub(crate) struct Sources {
    pub(crate) client: Client,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) policy: watch::Receiver<InForce>,
    pub(crate) notices: Notices,
    pub(crate) claims: Arc<Claims>,
}

/// Follows others until `stop`.
pub(super) async fn follow(
    settings: Settings,
    sources: Sources,
    known: watch::Sender<Option<Arc<Known>>>,
    stop: CancellationToken,
) {
    if settings.mode == OtherPlugins::Ignore {
        known.send_replace(Some(Arc::default()));
        return stop.cancelled().await;
    }
    let Sources { client, mut view, mut policy, notices, claims } = sources;
    let mut holders = claims.changes();
    let files = Waker::new(settings.kubelet.places(), kubelet::is_news);
    let is_woken = files.watches();
    // A stream keeps what has begun, where a future that is dropped would forget it.
    let mut wakes = stream::unfold(files, |mut files| async {
        files.woken().await;
        Some(((), files))
    })
    .boxed();
    let mut slices = slices(client, &settings.node);
    let mut following = Following::new(settings, notices, claims, is_woken, known);
    let first = following.first;
    loop {
        if following.ask_at.is_some_and(|at| at <= Instant::now())
            && stop.run_until_cancelled(following.ask()).await.is_none()
        {
            return;
        }
        let again = following.conclude(&view.borrow_and_update().clone(), &policy.borrow_and_update().clone());
        let first = (Instant::now() < first).then_some(first);
        let next = [following.ask_at, again, first].into_iter().flatten().min();
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = wakes.next() => following.ask_at = Some(Instant::now()),
            event = slices.next() => match event {
                Some(event) => following.hear(event),
                None => return,
            },
            changed = view.changed() => if changed.is_err() { return },
            Ok(()) = policy.changed() => {}
            Ok(()) = holders.changed() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

type Slices = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<ResourceSlice>>> + Send>>;

fn slices(client: Client, node: &str) -> Slices {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    watcher(Api::<ResourceSlice>::all(client), config).backoff(Patience::default()).boxed()
}

struct Following {
    settings: Settings,
    notices: Notices,
    known: watch::Sender<Option<Arc<Known>>>,
    mark: Marker,
    heard: Heard,
    linger: Linger,
    contested: Contested,
    claims: Arc<Claims>,
    collisions: BTreeSet<Collision>,
    /// When to ask the kubelet; never if nothing but its files says so.
    ask_at: Option<Instant>,
    is_woken: bool,
    pauses: Backoff,
    trouble: Option<String>,
    /// Whether the kubelet was asked, and slices were listed, once; `first` is when that no longer matters.
    asked: bool,
    listed: bool,
    first: Instant,
}

fn fresh() -> Backoff {
    Backoff::new(Duration::from_secs(1), Duration::from_mins(1))
}

impl Following {
    fn new(
        settings: Settings,
        notices: Notices,
        claims: Arc<Claims>,
        is_woken: bool,
        known: watch::Sender<Option<Arc<Known>>>,
    ) -> Self {
        Self {
            mark: Marker::new(&settings.driver, settings.mode),
            settings,
            notices,
            known,
            heard: Heard::default(),
            linger: Linger::default(),
            contested: Contested::default(),
            claims,
            collisions: BTreeSet::new(),
            ask_at: Some(Instant::now()),
            is_woken,
            pauses: fresh(),
            trouble: None,
            asked: false,
            listed: false,
            first: Instant::now() + FIRST,
        }
    }

    /// Asks the kubelet. One that doesn't answer is no evidence: what it said last stays.
    async fn ask(&mut self) {
        let answer = self.settings.kubelet.ask().await;
        self.asked = true;
        match answer {
            Ok(plugins) => {
                if self.trouble.take().is_some() {
                    tracing::info!("the kubelet tells again what device plugins registered");
                }
                (self.heard.plugins, self.pauses) = (plugins, fresh());
                self.ask_at = (!self.is_woken).then(|| Instant::now() + LOOK);
            }
            Err(error) => {
                let is_absent = matches!(error, podresources::Error::Absent { .. });
                let error = crate::report(&error);
                if self.trouble.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "device plugins that hand out this node's GPUs aren't noticed; what was known of \
                        them stays, and the kubelet is asked again"
                    );
                }
                self.trouble = Some(error);
                self.ask_at = (!is_absent || !self.is_woken).then(|| Instant::now() + self.pauses.pause());
            }
        }
    }

    /// Takes news of a slice.
    fn hear(&mut self, event: watcher::Result<watcher::Event<ResourceSlice>>) {
        let (ours, published) = (self.settings.driver.as_str(), &mut self.heard.published);
        match event {
            Ok(watcher::Event::Init) => published.begin_listing(),
            Ok(watcher::Event::InitApply(slice)) => published.listed(ours, &slice),
            Ok(watcher::Event::InitDone) => {
                published.end_listing();
                self.listed = true;
            }
            Ok(watcher::Event::Apply(slice)) => published.put(ours, &slice),
            Ok(watcher::Event::Delete(slice)) => published.remove(&slice),
            // The publisher has the same trouble, and tells it.
            Err(error) => tracing::debug!(error = crate::report(&error), "slices of others can't be watched"),
        }
    }

    /// Tells what follows from all that is known; when to look again.
    fn conclude(&mut self, view: &View, policy: &InForce) -> Option<Instant> {
        let now = Instant::now();
        if !(self.asked && self.listed) && now < self.first {
            return None;
        }
        let (elsewhere, again) = match view {
            View::Searching => return None,
            View::Unavailable(_) => (Elsewhere::default(), None),
            View::Ready(found) => {
                let (elsewhere, again) = self.linger.settle(judge(&found.inventory, &self.heard), now);
                if let Some(policy) = policy.policy() {
                    self.tell(tell::contested(&found.inventory, &policy, &elsewhere));
                }
                (elsewhere, again)
            }
        };
        if elsewhere != Elsewhere::default() {
            self.ask_at = Some(self.ask_at.unwrap_or(now + LOOK));
        }
        self.warn_of_collisions(&elsewhere);
        let known = Known { heard: self.heard.clone(), elsewhere, kubelet_answers: self.trouble.is_none() };
        self.known.send_if_modified(|last| {
            let is_new = last.as_deref() != Some(&known);
            if is_new {
                *last = Some(Arc::new(known));
            }
            is_new
        });
        again
    }

    /// Looks at what claims hold, if others hold anything.
    fn warn_of_collisions(&mut self, elsewhere: &Elsewhere) {
        let is_held = elsewhere.gpus.values().any(|others| !others.held.is_empty());
        let holdings = if is_held { self.claims.holdings() } else { Ok(Vec::new()) };
        // Whoever offers tells of records that can't be read.
        let Ok(holdings) = holdings else { return };
        let now = collide::collisions(&holdings, elsewhere);
        for note in collide::step(&self.collisions, &now, &self.settings.node) {
            tracing::warn!("{note}");
            self.notices.warn_node("GPUUsedTwice", note);
        }
        self.collisions = now;
    }

    fn tell(&mut self, contested: Contested) {
        let Settings { node, mode, .. } = &self.settings;
        for telling in tell::step(&self.contested, &contested, self.mark.key(), node, *mode) {
            if telling.is_warning {
                tracing::warn!("{}", telling.note);
                self.notices.warn_node("GPUContested", telling.note);
            } else {
                tracing::info!("{}", telling.note);
                self.notices.tell_node("GPUUncontested", telling.note);
            }
        }
        self.contested = contested;
    }
}
