//! Stand-in until the machinery lands.
use aliquot_model::Taken;

#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("x")]
    X,
}
impl Trouble {
    pub(crate) fn is_transient(&self) -> bool {
        true
    }
}
#[derive(Debug, Clone)]
pub(crate) struct Binder;
impl Binder {
    pub(crate) async fn take(&self, _taken: &Taken) -> Result<(), Trouble> {
        Ok(())
    }
    pub(crate) async fn give_back(&self, _taken: &Taken) -> Result<(), Trouble> {
        Ok(())
    }
}
