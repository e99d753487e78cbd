//! What GPUs measure at the time of a scrape: asked while somebody scrapes, and never on the way of a claim.
use std::{sync::Arc, time::Duration};

use aliquot_model::Gpu;
use aliquot_nvml::{NoSample, Patience, Questions, Sample};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use crate::discovery::{Found, View};

/// One GPU answers within a few milliseconds; one that takes longer than this is left out.
const EACH: Duration = Duration::from_millis(500);
/// A scrape waits no longer for all of them; Prometheus gives it 10 s unless told otherwise.
const ALL: Duration = Duration::from_secs(2);
/// Several who scrape at once get one sample.
const FRESH: Duration = Duration::from_millis(250);

/// Asks for samples, one at a time for all who scrape.
#[derive(Debug)]
pub(crate) struct Sampler {
    view: watch::Receiver<View>,
    questions: watch::Receiver<Option<Questions>>,
    last: Mutex<Option<(Instant, Arc<Samples>)>>,
}

/// The GPUs that answer, and what each measures.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    found: Option<Arc<Found>>,
    samples: Vec<Result<Sample, NoSample>>,
}

impl Sampler {
    pub(crate) fn new(view: watch::Receiver<View>, questions: watch::Receiver<Option<Questions>>) -> Self {
        Self { view, questions, last: Mutex::default() }
    }

    /// A sample of all GPUs, within `limit` at most.
    pub(crate) async fn sample(&self, limit: Duration) -> Arc<Samples> {
        let mut last = self.last.lock().await;
        if let Some((at, samples)) = &*last
            && at.elapsed() < FRESH
        {
            return Arc::clone(samples);
        }
        let samples = Arc::new(self.take(ALL.min(limit)).await);
        *last = Some((Instant::now(), Arc::clone(&samples)));
        samples
    }

    async fn take(&self, all: Duration) -> Samples {
        let questions = self.questions.borrow().clone();
        let (View::Ready(found), Some(questions)) = (self.view.borrow().clone(), questions) else {
            return Samples::default();
        };
        let gpus = found.listed().map(|gpu| gpu.uuid.clone()).collect();
        match questions.samples(gpus, Patience { each: EACH.min(all), all }).await {
            Ok(samples) => {
                let samples = samples.into_iter().map(|sampled| sampled.sample).collect();
                Samples { found: Some(found), samples }
            }
            // The library is being opened anew.
            Err(_) => Samples::default(),
        }
    }
}

impl Samples {
    /// Each GPU with its sample.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Gpu, &Result<Sample, NoSample>)> {
        self.found.iter().flat_map(|found| found.listed()).zip(&self.samples)
    }
}
