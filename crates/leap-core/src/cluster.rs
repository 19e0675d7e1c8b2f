//! Clusters: several processes that train a meta-batch together.

use std::fmt::Debug;

use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::meta::MetaGradient;
use crate::params::ParamVector;
use crate::report::TaskReport;

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

/// Joins what the ranks trained, `init` being the initialization that they started from: the reports in the order of
/// the meta-batch, and the meta-gradient.
///
/// # Errors
/// The error of this rank; [`Error::Cluster`] with that of another, or if they started from different initializations.
pub(crate) fn join(
    cluster: &dyn Cluster,
    summation: Summation,
    init: &ParamVector,
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

/// FNV-1a of the values' bits.
/// FNV-1a of the values' bits.
pub(crate) fn digest(values: &[f64]) -> u64 {
    let bytes = values
        .iter()
        .flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The processes that `mpirun` or `srun` started, while [`run`](MpiCluster::run) runs.
#[cfg(feature = "mpi")]
pub struct MpiCluster(());

#[cfg(feature = "mpi")]
impl MpiCluster {
    /// Starts MPI, does `work`, and ends MPI. Once in a program.
    ///
    /// If `work` fails or panics here, the other processes would wait for this one without end; so all of them are ended, once
    /// `complain` has said why. If a process is killed, MPI ends the others itself.
    ///
    /// # Errors
    /// [`Error::Cluster`] if MPI was started before; an error of `work` does not come back.
    pub fn run<T, E>(
        work: impl FnOnce(Self) -> Result<T, E>,
        complain: impl FnOnce(E),
    ) -> Result<T, Error> {
        use mpi::topology::SimpleCommunicator;
        use mpi::traits::Communicator;

        struct EndAll;
        impl Drop for EndAll {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    SimpleCommunicator::world().abort(1);
                }
            }
        }
        let Some((_universe, _)) = mpi::initialize_with_threading(mpi::Threading::Serialized)
        else {
            return Err(Error::Cluster("MPI was started before".into()));
        };
        let _end_all = EndAll;
        work(Self(())).map_err(|error| {
            complain(error);
            SimpleCommunicator::world().abort(1)
        })
    }
}

#[cfg(feature = "mpi")]
impl Debug for MpiCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

#[cfg(feature = "mpi")]
impl Cluster for MpiCluster {
    fn rank(&self) -> usize {
        use mpi::traits::Communicator;
        mpi::topology::SimpleCommunicator::world().rank() as usize
    }

    fn size(&self) -> usize {
        use mpi::traits::Communicator;
        mpi::topology::SimpleCommunicator::world().size() as usize
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        use mpi::datatype::PartitionMut;
        use mpi::traits::CommunicatorCollectives;

        let world = mpi::topology::SimpleCommunicator::world();
        let too_long = |_| Error::Cluster("a message has more than 2 GB".into());
        let length = mpi::Count::try_from(bytes.len()).map_err(too_long)?;
        let mut lengths = vec![0; self.size()];
        world.all_gather_into(&length, &mut lengths[..]);
        let mut end: mpi::Count = 0;
        let mut starts = Vec::new();
        for length in &lengths {
            starts.push(end);
            let sum = i64::from(end) + i64::from(*length);
            end = mpi::Count::try_from(sum).map_err(too_long)?;
        }
        let mut all = vec![0u8; end as usize];
        let mut parts = PartitionMut::new(&mut all[..], &lengths[..], &starts[..]);
        world.all_gather_varcount_into(bytes, &mut parts);
        let parts = starts.iter().zip(&lengths);
        Ok(parts
            .map(|(start, length)| all[*start as usize..][..*length as usize].to_vec())
            .collect())
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error> {
        use mpi::collective::SystemOperation;
        use mpi::traits::CommunicatorCollectives;

        let own = values.to_vec();
        let world = mpi::topology::SimpleCommunicator::world();
        world.all_reduce_into(&own[..], values, SystemOperation::sum());
        Ok(())
    }
}
