//! The examples lie beside this file, each read from top to bottom: `cargo run --example omniglot -- --quick`.
//!
//! Here is only what makes the code in the README and the book tests.

#[cfg(doctest)]
mod book {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/your-model.md")]
    struct YourModel;
    #[doc = include_str!("../docs/your-task.md")]
    struct YourTask;
    #[doc = include_str!("../docs/your-images.md")]
    struct YourImages;
    #[doc = include_str!("../docs/your-method.md")]
    struct YourMethod;
    #[doc = include_str!("../docs/your-environment.md")]
    struct YourEnvironment;
    #[doc = include_str!("../docs/your-experiment.md")]
    struct YourExperiment;
    #[cfg(feature = "ndarray")]
    #[doc = include_str!("../docs/devices.md")]
    struct Devices;
}
