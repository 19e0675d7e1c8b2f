//! Who is told how a run goes on.

use crate::error::Error;

/// Somebody who is told how a run goes on: a file, TensorBoard, or a service of your own.
///
/// All that it is told is in the run's folder as well, so that a tracker may leave out what it has no use for.
pub trait Tracker: Send {
    /// Numbers after a meta-step, counted from 1, by names such as `meta-training/loss` and, once held-out tasks were
    /// learned, `held-out/auc`. What was not measured, or is not finite, is not among them.
    ///
    /// # Errors
    /// Any error ends the run.
    fn scalars(&mut self, meta_step: usize, scalars: &[(String, f64)]) -> Result<(), Error>;

    /// The mean learning curve on held-out tasks, of (training step, value), by a name such as `learning/loss`.
    ///
    /// # Errors
    /// Any error ends the run.
    fn curve(&mut self, name: &str, curve: &[(f64, f64)]) -> Result<(), Error> {
        let _ = (name, curve);
        Ok(())
    }

    /// A figure, as SVG.
    ///
    /// # Errors
    /// Any error ends the run.
    fn figure(&mut self, name: &str, svg: &str) -> Result<(), Error> {
        let _ = (name, svg);
        Ok(())
    }
}
