//! Meta-training on Omniglot by several processes, on one machine or on many, which MPI joins.
//!
//! ```text
//! cargo build --example cluster --features mpi
//! mpirun -n 2 target/debug/examples/cluster
//! srun -n 16 target/debug/examples/cluster --lanes 8
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use burn::module::ParamGroup;
use burn::optim::SgdConfig;
use clap::Parser;
use leap_core::{
    Checkpoints, Cluster, Error, Lanes, Leap, MetaTrainer, MpiCluster, ParamSpace, Summation,
    reinitialize, run_rng,
};
use leap_lab::{end, not_negative, positive, say, up_to};
use leap_models::ConvNetConfig;
use leap_tasks::omniglot::{Omniglot, OmniglotTasksConfig};

/// Meta-trains by all processes that mpirun or srun started, each of which takes its share of the tasks.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 5, value_parser = not_negative::<usize>)]
    meta_steps: usize,
    /// Tasks in a meta-batch
    #[arg(long, default_value_t = 8, value_parser = up_to::<1_000_000>)]
    meta_batch: usize,
    #[arg(long, default_value_t = 20, value_parser = positive::<usize>)]
    task_steps: usize,
    /// Filters in each convolution
    #[arg(long, default_value_t = 64, value_parser = up_to::<4096>)]
    filters: usize,
    /// Where each process computes
    #[arg(long, default_value = "flex")]
    device: String,
    /// CPU threads of each process
    #[arg(long, default_value_t = 1, value_parser = up_to::<4096>)]
    lanes: usize,
    /// The same bits for any number of processes, for more traffic
    #[arg(long)]
    exact: bool,
    /// Save checkpoints here, and go on from the newest
    #[arg(long)]
    checkpoints: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let complain = |error| eprintln!("error: {error:#}");
    end(MpiCluster::run(
        |cluster| meta_train(args, cluster),
        complain,
    ))
}

fn meta_train(args: Args, cluster: MpiCluster) -> Result<()> {
    let sent = Arc::new(AtomicUsize::new(0));
    let cluster = Counted {
        cluster,
        sent: sent.clone(),
    };
    let (rank, size) = (cluster.rank(), cluster.size());
    let summation = match args.exact {
        true => Summation::Exact,
        false => Summation::Fast,
    };
    let devices = leap_core::devices(&args.device)?;
    let lanes = Lanes::on(&devices, args.lanes)?.with_cluster(cluster, summation);

    let model = ConvNetConfig::new().with_filters(args.filters);
    // The initialization stays here, and visits other devices.
    let model = model.init(&leap_core::device("flex")?.autodiff())?;
    let rng = &mut run_rng(0, "initial parameters");
    let init = reinitialize(model, &ParamGroup::all(), rng);
    let tasks = OmniglotTasksConfig::new().init(Omniglot::bundled()?)?;
    let mut trainer = MetaTrainer::new(Leap::new())
        .with_meta_batch_size(args.meta_batch)
        .with_task_steps(args.task_steps)
        .with_task_optimizer(SgdConfig::new().init(), 0.1)
        .with_meta_optimizer(SgdConfig::new().init(), 0.1);
    let mut run = match args.checkpoints {
        None => trainer.begin(init)?,
        Some(folder) => {
            trainer = trainer.with_checkpoints(Checkpoints::new(folder, 1));
            trainer.resume(init)?
        }
    };
    let (first, start) = (run.meta_step(), Instant::now());
    while run.meta_step() < args.meta_steps {
        let report = run.step(&tasks.train, &lanes)?;
        if rank == 0 {
            let loss = report.summary().loss;
            say(&format!("meta-step {}: loss {loss:.4}", run.meta_step()));
        }
    }
    if rank == 0 && run.meta_step() > first {
        let meta_steps = run.meta_step() - first;
        let steps = meta_steps * args.meta_batch * args.task_steps;
        let space = ParamSpace::new(run.init(), &ParamGroup::all())?;
        let init = space.point(run.init())?.to_vec()?;
        say(&format!(
            "{size} processes: {:.1} task steps a second, {} bytes from each a meta-step, initialization {:016x}",
            steps as f64 / start.elapsed().as_secs_f64(),
            sent.load(Ordering::Relaxed) / meta_steps,
            init.iter()
                .fold(0, |hash: u64, v| hash.rotate_left(5) ^ v.to_bits())
        ));
    }
    Ok(())
}

/// A cluster, and what this process gives it to send.
#[derive(Debug)]
struct Counted {
    cluster: MpiCluster,
    sent: Arc<AtomicUsize>,
}

impl Cluster for Counted {
    fn rank(&self) -> usize {
        self.cluster.rank()
    }

    fn size(&self) -> usize {
        self.cluster.size()
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        self.sent.fetch_add(bytes.len(), Ordering::Relaxed);
        self.cluster.all_gather(bytes)
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error> {
        self.sent.fetch_add(size_of_val(values), Ordering::Relaxed);
        self.cluster.all_reduce(values)
    }
}
