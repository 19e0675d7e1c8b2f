//! Where tasks run: devices, lanes of one process, processes of a cluster.

pub(crate) mod cluster;
pub(crate) mod device;
pub(crate) mod generator;
pub(crate) mod lanes;
#[cfg(feature = "mpi")]
pub(crate) mod mpi;
#[cfg(feature = "remote")]
pub(crate) mod remote;
