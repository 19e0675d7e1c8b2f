//! Leap computes what the authors' PyTorch code computes.

use std::path::Path;

use burn::module::ParamGroup;
use burn::nn::activation::ActivationConfig;
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor};
use leap_core::{
    Fomaml, Lanes, Leap, Maml, MetaGradient, MetaLearner, MetaTrainer, Method, ParamSpace, Predict,
    Reptile, task_copy,
};
use leap_models::{ConvNetConfig, MlpConfig};
use leap_tests::{Golden, GoldenTasks, authors_golden, cpu_devices, devices};

/// Of the norm of a whole meta-gradient. PyTorch's own float32 run is within 4e-6.
const TOLERANCE: f64 = 2e-5;

/// For second derivatives, which are differences of gradients.
const MAML_TOLERANCE: f64 = 2e-4;

const MLP_NAMES: [(&str, &str); 3] = [("0", "layers.0"), ("2", "layers.1"), ("4", "layers.2")];
const CONV_NAMES: [(&str, &str); 5] = [
    ("0", "encoder.blocks.0.conv"),
    ("2", "encoder.blocks.0.norm"),
    ("4", "encoder.blocks.1.conv"),
    ("6", "encoder.blocks.1.norm"),
    ("9", "head"),
];

/// Leap's variants by their names in the golden files.
fn variants() -> impl Iterator<Item = (String, Leap)> {
    Method::leap_variants().map(|method| {
        let Method::Leap(leap) = method else {
            unreachable!("a variant of Leap")
        };
        let name = format!(
            "{:?}-{}-{}",
            leap.norm,
            if leap.loss { "loss" } else { "noloss" },
            if leap.stabilizer { "stab" } else { "nostab" },
        );
        (name.to_lowercase(), leap)
    })
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// Every meta-gradient and every loss of a golden file.
fn check<M: Predict<Tensor<D>>, const D: usize>(what: &str, golden: &Golden, empty: M) {
    let init = golden.load(empty, "init");
    let (_, steps) = golden.size();
    // Ten times what rounding the factors of products may come to, where that is more.
    let roundoff = 10.0 * leap_core::product_roundoff(&init.devices()[0]);
    let tolerance = TOLERANCE.max(roundoff);
    let mut worst: f64 = 0.0;
    for optimizer in ["sgd", "momentum", "adam"] {
        for (variant, leap) in variants() {
            let key = format!("leap/{optimizer}/{variant}");
            worst = worst.max(deviation(what, golden, &init, leap, &key, steps));
            assert!(worst < tolerance, "{what} {key}: off by {worst:e}");
        }
    }
    println!("{what}: Leap's 24 meta-gradients within {worst:.1e} of their norm");
    let first_order = [
        ("reptile", Method::Reptile(Reptile)),
        ("fomaml", Method::Fomaml(Fomaml::new())),
        (
            "fomaml-query",
            Method::Fomaml(Fomaml::new().with_query(true)),
        ),
    ];
    for (name, method) in first_order {
        let error = deviation(what, golden, &init, method, &format!("{name}/sgd"), steps);
        assert!(error < tolerance, "{what} {name}: off by {error:e}");
        println!("{what}: {name} within {error:.1e}");
    }
    if golden.has("maml5/") {
        let error = deviation(what, golden, &init, Maml::new(), "maml5/sgd", 5);
        assert!(
            error < MAML_TOLERANCE.max(roundoff),
            "{what} MAML: off by {error:e}"
        );
        println!("{what}: MAML within {error:.1e}");
    }
}

/// By how much of its norm a learner's meta-gradient is not the golden `key`.
fn deviation<M: Predict<Tensor<D>>, L: MetaLearner<M>, const D: usize>(
    what: &str,
    golden: &Golden,
    init: &M,
    learner: L,
    key: &str,
    steps: usize,
) -> f64 {
    let all = ParamGroup::all();
    let space = ParamSpace::new(init, &all).unwrap();
    let device = init.devices().remove(0);
    let optimizer = key.split('/').nth(1).expect("METHOD/OPT");
    let inner = golden.inner_loop(optimizer, steps);
    let mut meta = MetaGradient::new();
    for task in 0..golden.size().0 {
        let mut batches = GoldenTasks::<D>(golden).get(task, &device);
        let learned = learner
            .learn(&space, &inner, task_copy(init), &mut batches)
            .unwrap();
        let losses = golden.values(&format!("losses/{optimizer}/task{task}")).0;
        assert_eq!(learned.curve.loss.len(), steps);
        let tolerance = (10.0 * leap_core::product_roundoff(&device)).max(1e-5);
        for (step, (ours, theirs)) in learned.curve.loss.iter().zip(&losses).enumerate() {
            assert!(
                (ours - f64::from(*theirs)).abs() < tolerance * theirs.abs() as f64,
                "{what} {optimizer} task {task} step {step}: loss {ours}, not {theirs}"
            );
        }
        assert_eq!(learned.figures.unwrap().segments, steps - 1);
        meta.add(learned.gradient).unwrap();
    }
    let mean = meta.take(&device).unwrap();
    let mean = space.gradient(init, &mean).unwrap().to_vec().unwrap();
    let theirs = golden.load(init.clone(), key);
    let theirs = ParamSpace::new(&theirs, &all)
        .unwrap()
        .point(&theirs)
        .unwrap();
    distance(&mean, &theirs.to_vec().unwrap())
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
    for (name, device) in &devices().devices {
        check::<_, 2>(&format!("mlp on {name}"), &golden, mlp(&golden, device));
    }
}

#[test]
fn conv_is_the_authors() {
    let Some(folder) = authors_golden() else {
        return;
    };
    let golden = Golden::open(&folder.join("conv.safetensors"), &CONV_NAMES);
    for (name, device) in &devices().devices {
        check::<_, 4>(&format!("conv on {name}"), &golden, conv(device));
    }
}

#[test]
fn mlp_is_our_own_float64_computation() {
    let golden = own_golden();
    for (name, device) in &devices().devices {
        check::<_, 2>(&format!("own mlp on {name}"), &golden, mlp(&golden, device));
    }
}

/// Energy without loss telescopes to Reptile's direction on its own points, of which the last was measured
/// one update earlier.
#[test]
fn energy_without_loss_is_reptile() {
    let golden = own_golden();
    let (tasks, steps) = golden.size();
    let leap: Method = "leap-energy-noloss-nostab".parse().unwrap();
    for (name, device) in cpu_devices() {
        let init = golden.load(mlp(&golden, &device), "init");
        let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
        let direction = |method: Method, optimizer, task, steps| {
            let mut batches = GoldenTasks::<2>(&golden).get(task, &device);
            let inner = golden.inner_loop(optimizer, steps);
            let learned = method.learn(&space, &inner, task_copy(&init), &mut batches);
            learned.unwrap().gradient.to_vec().unwrap()
        };
        for optimizer in ["sgd", "momentum", "adam"] {
            for task in 0..tasks {
                let ours = direction(leap, optimizer, task, steps);
                let reptile = direction(Method::Reptile(Reptile), optimizer, task, steps - 1);
                let error = distance(&ours, &reptile);
                assert!(
                    error < 1e-6,
                    "{name} {optimizer} task {task}: off by {error:e}"
                );
            }
        }
    }
}

/// MAML differentiates through plain SGD alone, and says so rather than being wrong.
#[test]
fn maml_refuses_other_optimizers() {
    let golden = own_golden();
    let device = cpu_devices().remove(0).1;
    let init = golden.load(mlp(&golden, &device), "init");
    let space = ParamSpace::new(&init, &ParamGroup::all()).unwrap();
    for optimizer in ["momentum", "adam"] {
        let mut batches = GoldenTasks::<2>(&golden).get(0, &device);
        let inner = golden.inner_loop(optimizer, 5);
        let result = Maml::new().learn(&space, &inner, task_copy(&init), &mut batches);
        let error = result.unwrap_err().to_string();
        assert!(error.contains("plain SGD"), "{error}");
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
