//! Meta-training does what it is for, and the data are what they should be.

use std::path::Path;

use burn::module::ParamGroup;
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::Device;
use leap_core::{Lanes, Leap, MetaTrainer, NoPretraining, reinitialize, run_rng};
use leap_models::MlpConfig;
use leap_tasks::Sinusoids;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

/// From Leap's initialization, the area under the learning curve of held-out sinusoids is less than a fifth of
/// that from scratch, and the error at the end less than a tenth; for every seed.
#[test]
fn held_out_sinusoids_are_learned_faster_than_from_scratch() {
    let device = Device::flex().autodiff();
    let lanes = Lanes::threads(&device, 2).unwrap();
    for seed in 0..3 {
        let model = MlpConfig::new(vec![1, 40, 40, 1]).init(&device).unwrap();
        let scratch = reinitialize(
            model,
            &ParamGroup::all(),
            &mut run_rng(seed, "initial parameters"),
        );
        let trainer = MetaTrainer::new(Leap::new())
            .with_seed(seed)
            .with_meta_batch_size(10)
            .with_task_steps(50)
            .with_task_optimizer(SgdConfig::new().init(), 0.01)
            .with_meta_optimizer(AdamConfig::new().init(), 0.01);
        let init = trainer
            .fit(scratch.clone(), 100, &Sinusoids::new(), &lanes)
            .unwrap();

        let held_out = Sinusoids::new().with_tasks(20).with_seed(1000 + seed);
        let summary = |init| trainer.evaluate(init, &held_out, &lanes).unwrap().summary();
        let (scratch, leap) = (summary(&scratch), summary(&init));
        println!(
            "seed {seed}: AUC {:.3} from scratch, {:.3} with Leap; at the end {:.3} and {:.3}",
            scratch.auc,
            leap.auc,
            scratch.held_out_loss.unwrap(),
            leap.held_out_loss.unwrap()
        );
        assert!(leap.auc < scratch.auc / 5.0);
        assert!(leap.held_out_loss.unwrap() < scratch.held_out_loss.unwrap() / 10.0);
        assert!(leap.path_length.unwrap() < scratch.path_length.unwrap());
    }
}

/// From the initialization that ships with leap-models, alphabets that it has not seen are learned as its card says.
#[test]
fn the_initialization_that_ships_is_as_good_as_its_card_says() {
    let card = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/leap-models/data/README.md");
    let card = std::fs::read_to_string(card).unwrap();
    let number = |line: &str, after: &str| {
        let (_, rest) = line.split_once(after)?;
        let number = rest
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?;
        number.trim_end_matches('.').parse::<f64>().ok()
    };
    let seed = card.lines().find_map(|line| number(line, "--seeds "));
    let seed = seed.expect("the seed of its alphabets") as u64;
    let rows = card.lines().filter_map(|line| {
        let cells = Vec::from_iter(line.trim_matches('|').split('|').map(str::trim));
        let [name, auc, accuracy, _, _] = cells[..] else {
            return None;
        };
        Some((
            name,
            auc.parse::<f64>().ok()?,
            accuracy.parse::<f64>().ok()?,
        ))
    });
    let rows = Vec::from_iter(rows);

    let device = Device::flex().autodiff();
    let init = leap_models::pretrained::omniglot(&device).unwrap();
    let tasks = OmniglotTasksConfig::new().with_seed(seed);
    let tasks = tasks.init(Omniglot::bundled().unwrap()).unwrap();
    let trainer = MetaTrainer::new(NoPretraining).with_seed(seed);
    let lanes = Lanes::threads(&device, 2).unwrap();
    let report = trainer.evaluate(&init, &tasks.test, &lanes).unwrap();
    assert_eq!(rows.len(), report.tasks.len());
    for ((name, auc, accuracy), task) in rows.into_iter().zip(&report.tasks) {
        assert_eq!(name, task.name);
        // Other processors round otherwise, and a hundred steps make more of it.
        let found = (task.curve.auc(), task.held_out.unwrap().accuracy.unwrap());
        println!("{name}: {found:.3?}, by its card {auc} and {accuracy}");
        assert!((found.0 - auc).abs() < 0.05 * auc, "{name}: {found:?}");
        assert!((found.1 - accuracy).abs() < 0.1, "{name}: {found:?}");
    }
}

/// What ships with the crate is what the official files hold.
#[test]
fn the_bundled_omniglot_is_the_official_one() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/omniglot");
    let files = ["images_background.zip", "images_evaluation.zip"].map(|f| beside.join(f));
    if !files.iter().all(|f| f.exists()) {
        let message = format!(
            "NOT TESTED against the official files: they are not in {}",
            beside.display()
        );
        assert!(std::env::var_os("CI").is_none(), "{message}");
        eprintln!("\n*** {message} ***\n");
        return;
    }
    assert_eq!(
        Omniglot::load(&files, 28).unwrap(),
        Omniglot::bundled().unwrap()
    );
}

#[test]
fn splits_are_disjoint_and_depend_on_the_seed() {
    let names = |seed: u64, train: usize| {
        let config = OmniglotTasksConfig::new()
            .with_seed(seed)
            .with_train_alphabets(train);
        let splits = config.init(Omniglot::bundled().unwrap()).unwrap();
        [splits.train, splits.validation, splits.test]
            .map(|tasks| tasks.names().map(str::to_string).collect::<Vec<_>>())
    };
    let [train, validation, test] = names(0, 25);
    assert_eq!((train.len(), validation.len(), test.len()), (25, 11, 10));
    let mut all = [&train[..], &validation, &test].concat();
    all.sort();
    all.dedup();
    assert_eq!(
        all.len(),
        46,
        "four alphabets have fewer than 20 characters"
    );
    assert_eq!(names(0, 25), [train.clone(), validation, test.clone()]);
    assert_ne!(names(1, 25)[2], test);
    let [few, _, same] = names(0, 1);
    assert_eq!(
        same, test,
        "the test does not depend on how much is trained on"
    );
    assert_eq!(few, train[..1]);

    let init = |config: OmniglotTasksConfig| {
        config
            .init(Omniglot::bundled().unwrap())
            .unwrap_err()
            .to_string()
    };
    let error = init(OmniglotTasksConfig::new().with_train_alphabets(37));
    assert!(error.contains("only 46 have 20 characters"), "{error}");
    let error = init(OmniglotTasksConfig::new().with_held_out(20));
    assert!(error.contains("none is left to train on"), "{error}");
}
