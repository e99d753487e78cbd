//! Runs claims: one after the other for a UID, side by side otherwise, each to its end whoever still listens.
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    backoff::Backoff,
    claim::{ClaimRef, ClaimUid, PreparedDevice},
    driver::{Call, Driver, FailedClaim, Failure, Operation},
    fetch::{Fetcher, given_up},
    observer::{Observer, Reason},
};

/// For work that keeps its worth: tokio's own farthest future, thirty years.
const EVER: Duration = Duration::from_hours(24 * 365 * 30);

/// Runs a driver's work on claims.
pub(crate) struct Runner<D> {
    work: Arc<Work<D>>,
    queues: Arc<Queues>,
    tasks: TaskTracker,
    budget: Duration,
}

/// What claims are done with.
struct Work<D> {
    driver: D,
    fetcher: Fetcher,
    observer: Arc<dyn Observer>,
}

/// Why a claim failed, for users and for those who count.
struct Fault {
    failure: Failure,
    reason: Reason,
}

/// The work that waits for each UID; a UID without any has no entry.
#[derive(Default)]
struct Queues(Mutex<HashMap<ClaimUid, Queue>>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// Cancelled by the next unprepare: every prepare that was asked for before it.
    prepares: CancellationToken,
}

struct Job {
    /// Nobody listens any more after this, so that a job which has not begun by then never does.
    worthless_from: Instant,
    run: BoxFuture<'static, ()>,
}

impl<D: Driver> Runner<D> {
    pub(crate) fn new(driver: D, fetcher: Fetcher, observer: Arc<dyn Observer>, budget: Duration) -> Self {
        let work = Arc::new(Work { driver, fetcher, observer });
        Self { work, queues: Arc::default(), tasks: TaskTracker::new(), budget }
    }

    /// Who is told of calls.
    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        &self.work.observer
    }

    /// Prepares `claim` and says what containers get.
    pub(crate) fn prepare(
        &self,
        claim: ClaimRef,
    ) -> impl Future<Output = Result<Vec<PreparedDevice>, String>> + use<D> {
        self.submit(claim, Operation::Prepare, |work, claim, call| async move { work.prepare(&claim, &call).await })
    }

    /// Unprepares `claim`, after telling a prepare of it to give up.
    pub(crate) fn unprepare(&self, claim: ClaimRef) -> impl Future<Output = Result<(), String>> + use<D> {
        self.submit(claim, Operation::Unprepare, |work, claim, call| async move { work.unprepare(&claim, &call).await })
    }

    /// Waits until everything that was asked for has ended, `limit` at most; then how many claims are left.
    pub(crate) async fn finish(&self, limit: Duration) -> usize {
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_ok() { 0 } else { self.tasks.len() }
    }

    /// The order of the claims, for others who do something to one.
    pub(crate) fn turns(&self) -> Turns {
        Turns { queues: Arc::clone(&self.queues), tasks: self.tasks.clone() }
    }

    /// Takes the place in the queue at once; the returned future only waits for the answer.
    fn submit<T, F, Fut>(
        &self,
        claim: ClaimRef,
        operation: Operation,
        run: F,
    ) -> impl Future<Output = Result<T, String>> + use<D, T, F, Fut>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Work<D>>, ClaimRef, Call) -> Fut,
        Fut: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut call = Call::within(self.budget);
        let answer_by = call.answer_by();
        let (tell, told) = oneshot::channel();
        let work = Arc::clone(&self.work);
        let span = tracing::info_span!("claim", %operation, claim = %claim, uid = %claim.uid());
        let uid = claim.uid().clone();

        let is_new = {
            let mut queues = self.queues.lock();
            let (queue, is_new) = queue_of(&mut queues, &uid);
            match operation {
                Operation::Prepare => call.cancelled = queue.prepares.clone(),
                Operation::Unprepare => std::mem::take(&mut queue.prepares).cancel(),
            }
            queue.waiting.retain(|job| job.worthless_from > Instant::now());
            let done = run(Arc::clone(&work), claim.clone(), call);
            let work = Arc::clone(&work);
            let claim = claim.clone();
            let job = async move {
                // A panic costs this claim; the queue behind it goes on.
                let done =
                    AssertUnwindSafe(done).catch_unwind().await.unwrap_or_else(|_| Err(broke_off(operation, &claim)));
                let done = done.map_err(|fault| (fault.failure.to_string(), fault.reason));
                if let Err((error, reason)) = &done {
                    // Past that moment the kubelet has been told something else.
                    let tell_others = (Instant::now() < answer_by).then_some(*reason);
                    work.report(&claim, operation, error, tell_others);
                }
                let _ = tell.send(done.map_err(|(error, _)| error));
            };
            let run = job.instrument(span.clone()).boxed();
            queue.waiting.push_back(Job { worthless_from: answer_by, run });
            is_new
        };
        if is_new {
            self.tasks.spawn(Arc::clone(&self.queues).work_off(uid));
        }

        async move {
            if let Ok(Ok(done)) = tokio::time::timeout_at(answer_by, told).await {
                return done;
            }
            let error = format!(
                "the {operation} of ResourceClaim {claim} has not ended in time; it goes on, and the next try finds its outcome"
            );
            span.in_scope(|| work.report(&claim, operation, &error, Some(Reason::Late)));
            Err(error)
        }
    }
}

/// The order in which a plugin works on each claim, for what a driver does to one of its own accord.
#[derive(Clone)]
pub struct Turns {
    queues: Arc<Queues>,
    tasks: TaskTracker,
}

impl Turns {
    /// Does `work` when all that the kubelet has asked for this claim so far is done, and before what it asks from now on.
    ///
    /// It takes the place in the queue at once, goes on if the returned future is dropped, and gives up nothing that the
    /// kubelet waits for. None if it panicked.
    pub fn take<W>(&self, claim: &ClaimUid, work: W) -> impl Future<Output = Option<W::Output>> + use<W>
    where
        W: Future<Output: Send> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let run = async move {
            if let Ok(done) = AssertUnwindSafe(work).catch_unwind().await {
                let _ = tell.send(done);
            }
        };
        let is_new = {
            let mut queues = self.queues.lock();
            let (queue, is_new) = queue_of(&mut queues, claim);
            queue.waiting.push_back(Job { worthless_from: Instant::now() + EVER, run: run.in_current_span().boxed() });
            is_new
        };
        if is_new {
            self.tasks.spawn(Arc::clone(&self.queues).work_off(claim.clone()));
        }
        async move { told.await.ok() }
    }
}

/// The queue of a claim, and whether it is a new one that nobody works off yet.
fn queue_of<'a>(queues: &'a mut HashMap<ClaimUid, Queue>, uid: &ClaimUid) -> (&'a mut Queue, bool) {
    match queues.entry(uid.clone()) {
        Entry::Occupied(entry) => (entry.into_mut(), false),
        Entry::Vacant(entry) => (entry.insert(Queue::default()), true),
    }
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimUid, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what waits for `uid`, in order, until nothing does.
    async fn work_off(self: Arc<Self>, uid: ClaimUid) {
        while let Some(job) = self.next(&uid) {
            if job.worthless_from > Instant::now() {
                job.run.await;
            }
        }
    }

    /// The next job of `uid`; with none its entry goes, under the same lock, so that no job can slip in between.
    fn next(&self, uid: &ClaimUid) -> Option<Job> {
        let mut queues = self.lock();
        let job = queues.get_mut(uid).and_then(|queue| queue.waiting.pop_front());
        if job.is_none() {
            queues.remove(uid);
        }
        job
    }
}

impl<D: Driver> Work<D> {
    async fn prepare(&self, claim: &ClaimRef, call: &Call) -> Result<Vec<PreparedDevice>, Fault> {
        retry(call, || async {
            if call.cancelled.is_cancelled() {
                return Err(Fault { failure: given_up(claim), reason: Reason::Cancelled });
            }
            if let Some(recalled) = self.driver.recall(claim).await {
                return recalled.map_err(Fault::of_driver);
            }
            // Fetched anew for each try: the allocation may have changed while this one waited.
            let allocated = self.fetcher.fetch(claim, call).await.map_err(|failure| {
                let reason = if call.cancelled.is_cancelled() { Reason::Cancelled } else { Reason::Claim };
                Fault { failure, reason }
            })?;
            self.driver.prepare(allocated, call).await.map_err(Fault::of_driver)
        })
        .await
    }

    async fn unprepare(&self, claim: &ClaimRef, call: &Call) -> Result<(), Fault> {
        retry(call, || async { self.driver.unprepare(claim).await.map_err(Fault::of_driver) }).await
    }

    /// Tells the driver and the observer too, where there is a reason that the kubelet was given.
    fn report(&self, claim: &ClaimRef, operation: Operation, error: &str, reason: Option<Reason>) {
        tracing::warn!("{operation} failed: {error}");
        if let Some(reason) = reason {
            self.observer.failed(operation, reason);
            self.driver.failed(&FailedClaim { claim, operation, error });
        }
    }
}

impl Fault {
    fn of_driver(failure: Failure) -> Self {
        let reason = match failure {
            Failure::Transient(_) => Reason::Unready,
            Failure::Permanent(_) => Reason::Refused,
        };
        Self { failure, reason }
    }
}

/// Tries until success, a permanent failure, the deadline or cancellation.
async fn retry<T, Fut: Future<Output = Result<T, Fault>>>(
    call: &Call,
    mut one: impl FnMut() -> Fut,
) -> Result<T, Fault> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(4));
    loop {
        let fault = match one().await {
            Err(fault) if matches!(fault.failure, Failure::Transient(_)) => fault,
            settled => return settled,
        };
        tracing::info!("trying again: {}", fault.failure);
        if !call.pause(backoff.pause()).await {
            let reason = if call.cancelled.is_cancelled() { Reason::Cancelled } else { fault.reason };
            return Err(Fault { reason, ..fault });
        }
    }
}

fn broke_off(operation: Operation, claim: &ClaimRef) -> Fault {
    let failure = Failure::Permanent(format!(
        "internal error: the driver broke off the {operation} of ResourceClaim {claim}; its log on this node says why"
    ));
    Fault { failure, reason: Reason::Internal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_of_ones_own_begins_when_earlier_work_on_its_claim_has_ended_and_others_go_on() {
        let turns = Turns { queues: Arc::default(), tasks: TaskTracker::new() };
        let (one, other) = (ClaimUid::new("u1").unwrap(), ClaimUid::new("u2").unwrap());
        let (end, ended) = oneshot::channel::<()>();
        let first = turns.take(&one, ended);
        let second = turns.take(&one, async { 2 });
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut second).await.is_err());
        assert_eq!(turns.take(&other, async { 3 }).await, Some(3));
        end.send(()).unwrap();
        assert_eq!((first.await, second.await), (Some(Ok(())), Some(2)));
    }

    #[tokio::test]
    async fn work_of_ones_own_goes_on_unheard_and_a_panic_costs_only_itself() {
        let turns = Turns { queues: Arc::default(), tasks: TaskTracker::new() };
        let uid = ClaimUid::new("u1").unwrap();
        let (tell, told) = oneshot::channel();
        drop(turns.take(&uid, async { tell.send(1) }));
        assert_eq!(told.await, Ok(1));
        assert_eq!(turns.take(&uid, async { assert_eq!(1, 2) }).await, None);
        assert_eq!(turns.take(&uid, async { 3 }).await, Some(3));
    }
}
