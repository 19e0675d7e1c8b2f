//! Leap computes what the authors' PyTorch code computes.

use std::path::Path;

use burn::module::ParamGroup;
use burn::nn::activation::ActivationConfig;
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor};
use leap_core::{
    Lanes, Leap, LearningPath, MetaGradient, MetaLearner, MetaTrainer, Norm, ParamSpace, Predict,
    task_copy,
};
use leap_models::{ConvNetConfig, MlpConfig};
use leap_tests::{Golden, GoldenTasks, authors_golden, cpu_devices};

/// Of the norm of a whole meta-gradient. PyTorch's own float32 run is within 4e-6.
const TOLERANCE: f64 = 2e-5;

const MLP_NAMES: [(&str, &str); 3] = [("0", "layers.0"), ("2", "layers.1"), ("4", "layers.2")];
const CONV_NAMES: [(&str, &str); 5] = [
    ("0", "encoder.blocks.0.conv"),
    ("2", "encoder.blocks.0.norm"),
    ("4", "encoder.blocks.1.conv"),
    ("6", "encoder.blocks.1.norm"),
    ("9", "head"),
];

fn variants() -> impl Iterator<Item = (String, Leap)> {
    let flags = [false, true];
    let all = flags.into_iter().flat_map(move |energy| {
        flags
            .into_iter()
            .flat_map(move |loss| flags.into_iter().map(move |stab| (energy, loss, stab)))
    });
    all.map(|(energy, loss, stabilizer)| {
        let name = format!(
            "{}-{}-{}",
            if energy { "energy" } else { "length" },
            if loss { "loss" } else { "noloss" },
            if stabilizer { "stab" } else { "nostab" },
        );
        let norm = if energy { Norm::Energy } else { Norm::Length };
        (
            name,
            Leap::new()
                .with_norm(norm)
                .with_loss(loss)
                .with_stabilizer(stabilizer),
        )
    })
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// Every meta-gradient and every loss of a golden file.
fn check<M: Predict<Tensor<D>>, const D: usize>(
    what: &str,
    golden: &Golden,
    empty: M,
    device: &Device,
) {
    let init = golden.load(empty, "init");
    let all = ParamGroup::all();
    let space = ParamSpace::new(&init, &all).unwrap();
    let (tasks, steps) = golden.size();
    let mut worst: f64 = 0.0;
    for optimizer in ["sgd", "momentum", "adam"] {
        let inner = golden.inner_loop(optimizer, steps);
        for (variant, leap) in variants() {
            let mut meta = MetaGradient::new();
            for task in 0..tasks {
                let mut path = leap.path(&space);
                let mut batches = GoldenTasks::<D>(golden).get(task, device);
                let (model, curve) = inner
                    .run(task_copy(&init), &mut batches, &mut path)
                    .unwrap();
                let losses = golden.values(&format!("losses/{optimizer}/task{task}")).0;
                for (step, (ours, theirs)) in curve.loss.iter().zip(&losses).enumerate() {
                    assert!(
                        (ours - f64::from(*theirs)).abs() < 1e-5 * theirs.abs() as f64,
                        "{what} {optimizer} task {task} step {step}: loss {ours}, not {theirs}"
                    );
                }
                assert_eq!(curve.loss.len(), losses.len());
                let learned = path.finish(&model).unwrap();
                assert_eq!(learned.figures.unwrap().segments, steps - 1);
                meta.add(learned.gradient).unwrap();
            }
            // The mean, as a vector: a model that it moves by a step of 1 from 0 would be as good.
            let mean = meta.take(device).unwrap();
            let mean = space.gradient(&init, &mean).unwrap().to_vec().unwrap();
            let key = format!("leap/{optimizer}/{variant}");
            let theirs = golden.load(init.clone(), &key);
            let theirs = ParamSpace::new(&theirs, &all)
                .unwrap()
                .point(&theirs)
                .unwrap();
            let error = distance(&mean, &theirs.to_vec().unwrap());
            assert!(
                error < TOLERANCE,
                "{what} {key}: off by {error:e} of its norm"
            );
            worst = worst.max(error);
        }
    }
    println!("{what}: 24 meta-gradients within {worst:.1e} of their norm");
}

fn mlp(golden: &Golden, device: &Device) -> leap_models::Mlp {
    let sizes = ["0", "2", "4"].map(|layer| golden.values(&format!("init/{layer}.weight")).1);
    let sizes = vec![sizes[0][1], sizes[0][0], sizes[1][0], sizes[2][0]];
    let config = MlpConfig::new(sizes).with_activation(ActivationConfig::Tanh);
    config.init(device).unwrap()
}

fn conv(device: &Device) -> leap_models::ConvNet {
    ConvNetConfig::new()
        .with_layers(2)
        .with_filters(8)
        .with_classes(4)
        .with_image_size([8, 8])
        .init(device)
        .unwrap()
}

fn own_golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/mlp.safetensors");
    Golden::open(&path, &MLP_NAMES)
}

#[test]
fn mlp_is_the_authors() {
    let Some(folder) = authors_golden() else {
        return;
    };
    let golden = Golden::open(&folder.join("mlp.safetensors"), &MLP_NAMES);
    for (name, device) in cpu_devices() {
        check::<_, 2>(
            &format!("mlp on {name}"),
            &golden,
            mlp(&golden, &device),
            &device,
        );
    }
}

#[test]
fn conv_is_the_authors() {
    let Some(folder) = authors_golden() else {
        return;
    };
    let golden = Golden::open(&folder.join("conv.safetensors"), &CONV_NAMES);
    for (name, device) in cpu_devices() {
        check::<_, 4>(&format!("conv on {name}"), &golden, conv(&device), &device);
    }
}

#[test]
fn mlp_is_our_own_float64_computation() {
    let golden = own_golden();
    for (name, device) in cpu_devices() {
        check::<_, 2>(
            &format!("own mlp on {name}"),
            &golden,
            mlp(&golden, &device),
            &device,
        );
    }
}

/// Reptile's direction is the mean of θ⁰ − θᴷ. Energy without loss telescopes to the same on its own
/// points, of which the last was measured one update earlier.
#[test]
fn energy_without_loss_is_reptile() {
    let golden = own_golden();
    let (tasks, steps) = golden.size();
    for (name, device) in cpu_devices() {
        let init = golden.load(mlp(&golden, &device), "init");
        let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
        let leap = Leap::new()
            .with_norm(Norm::Energy)
            .with_loss(false)
            .with_stabilizer(false);
        for optimizer in ["sgd", "momentum", "adam"] {
            for task in 0..tasks {
                let batches = GoldenTasks::<2>(&golden);
                let mut path = leap.path(&space);
                let inner = golden.inner_loop(optimizer, steps);
                let (model, _) = inner
                    .run(task_copy(&init), &mut batches.get(task, &device), &mut path)
                    .unwrap();
                let ours = path.finish(&model).unwrap().gradient.to_vec().unwrap();

                let inner = golden.inner_loop(optimizer, steps - 1);
                let mut unused = leap.path(&space);
                let (last, _) = inner
                    .run(
                        task_copy(&init),
                        &mut batches.get(task, &device),
                        &mut unused,
                    )
                    .unwrap();
                let reptile = space.point(&init).unwrap() - space.point(&last).unwrap();
                let error = distance(&ours, &reptile.to_vec().unwrap());
                assert!(
                    error < 1e-6,
                    "{name} {optimizer} task {task}: off by {error:e}"
                );
            }
        }
    }
}

/// The trainer's meta-step is the same mean as the loop by hand.
#[test]
fn a_meta_step_moves_by_the_golden_meta_gradient() {
    let golden = own_golden();
    let (tasks, steps) = golden.size();
    for (name, device) in cpu_devices() {
        let init = golden.load(mlp(&golden, &device), "init");
        let trainer = MetaTrainer::new(Leap::new())
            .with_meta_batch_size(tasks)
            .with_task_steps(steps)
            .with_meta_optimizer(SgdConfig::new().init(), 1.0);
        let lanes = Lanes::threads(&device, 2).unwrap();
        let moved = trainer
            .fit(init.clone(), 1, &GoldenTasks::<2>(&golden), &lanes)
            .unwrap();
        let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
        let step = space.point(&init).unwrap() - space.point(&moved).unwrap();
        let theirs = golden.load(init.clone(), "leap/sgd/length-loss-stab");
        let theirs = ParamSpace::new(&theirs, &ParamGroup::all())
            .unwrap()
            .point(&theirs)
            .unwrap();
        let error = distance(&step.to_vec().unwrap(), &theirs.to_vec().unwrap());
        assert!(error < TOLERANCE, "{name}: off by {error:e}");
    }
}
