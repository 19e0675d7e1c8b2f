//! Memory does not grow with the length of a path, nor with the number of meta-steps. Alone in its process, which it
//! measures.

#![cfg(target_os = "linux")]

use burn::module::Module;
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::Device;
use leap_core::{InnerLoop, Lanes, Leap, MetaTrainer, ParamSpace, TaskSet, task_copy};
use leap_models::{ConvNet, ConvNetConfig, Mlp, MlpConfig, ProgressiveNet};
use leap_tasks::Sinusoids;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

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
fn memory_is_constant_in_steps_and_meta_steps() {
    let device = Device::flex().autodiff();
    device.seed(0);
    let init: Mlp = MlpConfig::new(vec![1, 128, 128, 1]).init(&device).unwrap();
    let parameters = 4 * (128 * 128 + 4 * 128);
    let space = ParamSpace::new(&init, &burn::module::ParamGroup::all()).unwrap();
    let run = |steps: usize| {
        let context = leap_tests::context(&device, steps);
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

    // One copy of the parameters a meta-step would be 34 MB.
    let (before, after) = meta_train(&device, init, &Sinusoids::new());
    println!("MLP: {before} bytes after 100 meta-steps, {after} after 600");
    assert!(
        after < before + 30 * parameters,
        "{before} bytes, then {after}"
    );

    let tasks = OmniglotTasksConfig::new().init(Omniglot::bundled().unwrap());
    let init: ConvNet = ConvNetConfig::new().with_filters(8).init(&device).unwrap();
    let (before, after) = meta_train(&device, init, &tasks.unwrap().train);
    println!("convnet: {before} bytes after 100 meta-steps, {after} after 600");
    // A batch of images a meta-step would be 31 MB.
    assert!(after < before + (4 << 20), "{before} bytes, then {after}");

    // Of a third column, whose gradient does not go through those before it: their graphs would be 70 MB.
    let config = ConvNetConfig::new().with_filters(8);
    let mut columns = ProgressiveNet::new(&config, 3, &device).unwrap();
    columns.encoder.active = 2;
    let tasks = OmniglotTasksConfig::new().init(Omniglot::bundled().unwrap());
    let train = tasks.unwrap().train;
    let run = |steps: usize| {
        let mut task =
            TaskSet::<ProgressiveNet>::task(&train, 0, &leap_tests::context(&device, steps))
                .unwrap();
        let space = ParamSpace::new(&columns, &burn::module::ParamGroup::all()).unwrap();
        let inner = InnerLoop::new(steps, SgdConfig::new().init(), 0.001);
        let mut path = Leap::new().path(&space);
        inner
            .run(task_copy(&columns), &mut task, &mut path)
            .unwrap();
        resident()
    };
    let (before, after) = (run(20), run(200));
    println!("columns: {before} bytes after 20 steps, {after} after 200 more");
    assert!(after < before + (16 << 20), "{before} bytes, then {after}");
}

/// Resident memory after 100 meta-steps, and after 500 more.
fn meta_train<M: Module>(device: &Device, init: M, tasks: &impl TaskSet<M>) -> (usize, usize) {
    let trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(2)
        .with_task_steps(5)
        .with_task_optimizer(SgdConfig::new().init(), 0.01)
        .with_meta_optimizer(AdamConfig::new().init(), 0.001);
    let lanes = Lanes::threads(device, 2).unwrap();
    let mut run = trainer.begin(init).unwrap();
    let mut at = |meta_steps: usize| {
        while run.meta_step() < meta_steps {
            run.step(tasks, &lanes).unwrap();
        }
        resident()
    };
    (at(100), at(600))
}
