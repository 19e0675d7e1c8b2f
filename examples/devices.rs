//! The devices that this program was built for and finds, with a speed for each.
//!
//! ```text
//! cargo run --example devices
//! cargo run --example devices --features cuda,remote -- ws://localhost:3000
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use clap::Parser;
use leap_core::{InnerLoop, Purpose, TaskContext, TaskSeed, TaskSet, task_copy};
use leap_lab::{end, say};
use leap_models::{ConvNet, ConvNetConfig};
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

/// Lists the devices of this machine, each with its speed in training steps of a small Omniglot convnet.
#[derive(Parser)]
struct Args {
    /// More devices, such as workers: ws://host:port, iroh:ID
    devices: Vec<String>,
    /// Seconds to measure each for
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    end(list())
}

fn list() -> Result<()> {
    let args = Args::parse();
    anyhow::ensure!(
        (0.0..=1e6).contains(&args.seconds),
        "--seconds must be between 0 and a million"
    );
    let mut devices: Vec<(String, Result<Device, leap_core::Error>)> = Vec::new();
    for (name, _) in leap_core::available_devices() {
        let device = leap_core::device(&name);
        devices.push((name, device));
    }
    for name in args.devices {
        let device = leap_core::device(&name);
        devices.push((name, device));
    }
    for (name, device) in devices {
        match device {
            Err(error) => say(&format!("{name}: {error}")),
            Ok(device) => {
                let what = leap_core::describe_device(&device);
                let speed = steps_per_second(&device, args.seconds)?;
                say(&format!(
                    "{name}: {what}, {speed:.1} training steps a second"
                ));
            }
        }
    }
    Ok(())
}

/// Training steps a second of a convnet with 16 filters in three blocks, on batches of 20 drawings.
fn steps_per_second(device: &Device, seconds: f64) -> Result<f64> {
    const STEPS: usize = 5;
    let device = device.clone().autodiff();
    let config = ConvNetConfig::new().with_filters(16).with_layers(3);
    let init: ConvNet = config.init(&device)?;
    let tasks = OmniglotTasksConfig::new().init(Omniglot::bundled()?)?;
    let inner = InnerLoop::new(STEPS, SgdConfig::new().init(), 0.1);
    let train = |number| -> Result<()> {
        let context = TaskContext {
            seed: TaskSeed {
                seed: 0,
                purpose: Purpose::Training,
                meta_step: 0,
                task: number,
            },
            device: device.clone(),
            steps: STEPS,
        };
        let mut task = TaskSet::<ConvNet>::task(&tasks.train, 0, &context)
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        // The losses are read back at the end, so that all is done by then.
        let trained = inner.run(task_copy(&init), &mut task, &mut ());
        trained.map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(())
    };
    // Kernels are compiled and tuned at their first use.
    train(0)?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        count += 1;
        train(count)?;
    }
    Ok(count as f64 * STEPS as f64 / start.elapsed().as_secs_f64())
}
