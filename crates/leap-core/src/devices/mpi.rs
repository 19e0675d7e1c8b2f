//! Processes under MPI.

use std::fmt::Debug;

use crate::devices::cluster::Cluster;
use crate::error::Error;

/// The processes that `mpirun` or `srun` started, while [`run`](MpiCluster::run) runs.
pub struct MpiCluster(());

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

impl Debug for MpiCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

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
