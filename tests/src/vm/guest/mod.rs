//! What runs in the machine: the driver between the stand-ins, on the machine's own /sys, /dev and /proc.
mod host;
mod kernel;
mod monitor;
mod nvidia;
mod scene;
mod still;
mod switched;

use crate::{
    steps::{Report, Step},
    testbed::Result,
};
use scene::Scene;

/// Takes all steps, and hands over what each showed; the last word is the sum.
pub async fn run(tell: impl FnMut(&str)) -> Result<()> {
    let mut course = Course { scene: Scene::set().await?, report: Report::default(), tell };
    course.take("The machine: its kernel, and its IOMMU's groups", host::groups).await;
    course.take("vfio-pci takes a GPU", host::takes_a_gpu).await;
    course.take("The driver offers that GPU, and no other", still::is_offered).await;
    course.take("A claim gets the group's node, and the virtual machine the GPU through it", still::is_passed).await;
    course.take("A GPU that is taken from vfio-pci while a virtual machine has it", still::is_taken_away).await;
    course.take("A card of two functions in one group", still::goes_along).await;
    course.take("A group in which the host uses a device", still::is_crowded).await;
    course.take("NVIDIA's stand-in takes the GPU that is left, and no other", nvidia::takes_what_is_left).await;
    course.take("unbindLock", nvidia::is_locked).await;
    course.take("A GPU that is taken from NVIDIA's stand-in", nvidia::lets_go).await;
    course.take("The driver beside it", nvidia::is_offered).await;
    course.take("A claim takes a GPU from NVIDIA's stand-in, and gives it back", switched::goes_and_comes).await;
    course.take("A GPU that somebody uses is left to him", switched::stays_in_use).await;
    course.take("A driver that is killed at any step on the way, and started anew", switched::is_gone_on_with).await;
    let sum = format!("{}{}", course.report.sum(), course.scene.figures());
    (course.tell)(&sum);
    Ok(())
}

/// The steps up to now, and what they are taken on.
struct Course<F> {
    scene: Scene,
    report: Report,
    tell: F,
}

impl<F: FnMut(&str)> Course<F> {
    async fn take(&mut self, title: &str, body: impl AsyncFnOnce(&mut Scene, &mut Step) -> Result<()>) {
        let mut step = Step::new(title);
        if let Err(error) = body(&mut self.scene, &mut step).await {
            step.fail(error);
        }
        (self.tell)(&step.to_string());
        self.report.steps.push(step);
    }
}
