//! Clusters: several processes that train a meta-batch together.

use std::fmt::Debug;

use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::space::meta_gradient::MetaGradient;
use crate::space::params::{ParamVector, digest};
use crate::tasks::report::TaskReport;

/// The processes that a program was started as, each of which has a rank. Each trains its share of a meta-batch, and
/// what they learned is joined; then all have the same initialization again.
///
/// `MpiCluster` is one (feature `mpi`). All ranks have to make the same calls.
pub trait Cluster: Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// The bytes of every rank, in the order of ranks, on every rank.
    ///
    /// # Errors
    /// [`Error::Cluster`] if they cannot be exchanged.
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error>;

    /// Adds `values` up over the ranks, on every rank.
    ///
    /// # Errors
    /// [`Error::Cluster`] if they cannot be exchanged.
    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error>;
}

/// How the ranks' meta-gradients are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Summation {
    /// Each rank's sum in one all-reduce: the least traffic. Results for other numbers of ranks differ by rounding.
    #[default]
    Fast,
    /// The tasks' meta-gradients in the order of tasks, all of which travel: the same bits for any number of ranks.
    Exact,
}

/// A task that this rank trained: its place in the meta-batch, what it reported, what was learned.
pub(crate) type Trained = (usize, TaskReport, Option<ParamVector>);

/// What a rank tells the others after its share of a meta-batch.
#[derive(Serialize, Deserialize)]
struct Message {
    /// Of the initialization that it started from.
    digest: u64,
    outcome: Result<Vec<Entry>, String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    place: usize,
    report: TaskReport,
    /// Whether there is a meta-gradient.
    is_learned: bool,
    /// Its values, where all of them travel.
    gradient: Option<Vec<f64>>,
}

/// Joins what the ranks trained of a meta-batch of `tasks`, `init` being the initialization that they started from: the
/// reports in the order of the meta-batch, and the meta-gradient.
///
/// # Errors
/// The error of this rank; [`Error::Cluster`] with that of another, or if they started from different initializations,
/// or did not train each task of the meta-batch once.
pub(crate) fn join(
    cluster: &dyn Cluster,
    summation: Summation,
    init: &ParamVector,
    tasks: usize,
    trained: Result<Vec<Trained>, Error>,
) -> Result<(Vec<TaskReport>, MetaGradient), Error> {
    let values = init.to_vec()?;
    let is_wide = init.values().dtype() == DType::F64;
    // Float64 has no all-reduce here.
    let all_travel = summation == Summation::Exact || is_wide;
    let entries = |trained: &[Trained]| {
        let entries = trained.iter().map(|(place, report, gradient)| {
            Ok(Entry {
                place: *place,
                report: report.clone(),
                is_learned: gradient.is_some(),
                gradient: match gradient {
                    Some(gradient) if all_travel => Some(gradient.to_vec()?),
                    _ => None,
                },
            })
        });
        entries.collect::<Result<Vec<_>, Error>>()
    };
    let (trained, failure) = match trained {
        Ok(trained) => (trained, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let message = Message {
        digest: digest(&values),
        outcome: match &failure {
            None => entries(&trained).map_err(|error| error.to_string()),
            Some(error) => Err(error.to_string()),
        },
    };
    let bytes = rmp_serde::to_vec_named(&message).map_err(|e| Error::Cluster(e.to_string()))?;
    let all = cluster.all_gather(&bytes)?;
    if let Some(error) = failure {
        return Err(error);
    }
    let mut joined = Vec::new();
    for (rank, bytes) in all.iter().enumerate() {
        let message: Message = rmp_serde::from_slice(bytes)
            .map_err(|e| Error::Cluster(format!("rank {rank} sends what is no message: {e}")))?;
        if message.digest != digest(&values) {
            return Err(Error::Cluster(format!(
                "rank {rank} started from another initialization than rank {}",
                cluster.rank()
            )));
        }
        let entries = message.outcome;
        joined.extend(entries.map_err(|e| Error::Cluster(format!("rank {rank} failed: {e}")))?);
    }
    joined.sort_by_key(|entry| entry.place);
    if !joined.iter().map(|entry| entry.place).eq(0..tasks) {
        return Err(Error::Cluster(format!(
            "the ranks did not train each of the {tasks} tasks once"
        )));
    }
    let travels = |entry: &Entry| match &entry.gradient {
        Some(gradient) => gradient.len() == values.len(),
        None => !(all_travel && entry.is_learned),
    };
    if let Some(entry) = joined.iter().find(|entry| !travels(entry)) {
        let name = &entry.report.name;
        return Err(Error::Cluster(format!(
            "the meta-gradient of task `{name}` is not of this model"
        )));
    }

    let vector = |values: Vec<f64>| {
        let length = values.len();
        init.clone().map(|old| {
            let data = TensorData::new(values, [length]).convert_dtype(old.dtype());
            Tensor::from_data(data, (&old.device(), old.dtype()))
        })
    };
    let tasks = joined.iter().filter(|entry| entry.is_learned).count();
    let mut meta = MetaGradient::new();
    if all_travel {
        for gradient in joined.iter_mut().filter_map(|entry| entry.gradient.take()) {
            meta.add(vector(gradient))?;
        }
    } else if tasks > 0 {
        for (_, _, gradient) in trained {
            if let Some(gradient) = gradient {
                meta.add(gradient)?;
            }
        }
        let mut sum: Vec<f32> = match meta.sum() {
            Some(sum) => sum.to_vec()?.into_iter().map(|v| v as f32).collect(),
            None => vec![0.0; values.len()],
        };
        cluster.all_reduce(&mut sum)?;
        let sum = sum.into_iter().map(f64::from).collect();
        meta = MetaGradient::of_sum(vector(sum), tasks);
    }
    Ok((joined.into_iter().map(|entry| entry.report).collect(), meta))
}
