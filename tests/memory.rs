//! A path's memory does not grow with its length. Alone in its process, which it measures.

#![cfg(target_os = "linux")]

use burn::optim::SgdConfig;
use burn::tensor::Device;
use leap_core::{InnerLoop, Leap, ParamSpace, TaskContext, TaskSet, task_copy};
use leap_models::{Mlp, MlpConfig};
use leap_tasks::Sinusoids;

/// Resident memory in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 4096
}

#[test]
fn memory_is_constant_in_the_number_of_steps() {
    let device = Device::flex().autodiff();
    let init: Mlp = MlpConfig::new(vec![1, 128, 128, 1]).init(&device).unwrap();
    let parameters = 4 * (128 * 128 + 4 * 128);
    let space = ParamSpace::new(&init, &burn::module::ParamGroup::all()).unwrap();
    let run = |steps: usize| {
        let context = TaskContext {
            seed: leap_core::TaskSeed {
                seed: 0,
                purpose: leap_core::Purpose::Training,
                meta_step: 0,
                task: 0,
            },
            device: device.clone(),
            steps,
        };
        let mut task = TaskSet::<Mlp>::task(&Sinusoids::new(), 0, &context).unwrap();
        let mut path = Leap::new().path(&space);
        let inner = InnerLoop::new(steps, SgdConfig::new().init(), 0.001);
        inner.run(task_copy(&init), &mut task, &mut path).unwrap();
        path.finish().unwrap().gradient.to_vec().unwrap();
        resident()
    };
    let before = run(300);
    let after = run(3_000);
    // A hundred copies of the parameters are 7 MB; one a step would be 200 MB. What the curve keeps on the
    // device, a few hundred bytes a step up to its bound, is far below.
    assert!(
        after < before + 100 * parameters,
        "{before} bytes, then {after}"
    );
}
