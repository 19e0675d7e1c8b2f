//! Labelled images, from wherever they come, as tasks.
//!
//! - [`ImagesConfig`] reads a [`DataSet`] from a folder of classes, from an archive, or from the files that MNIST,
//!   Fashion-MNIST, EMNIST, KMNIST, CIFAR-10, CIFAR-100, SVHN, notMNIST and GTSRB are published in; [`Images`] takes
//!   images from any Burn `Dataset`.
//! - [`EpisodesConfig`] makes few-shot tasks of them: some classes, some images of each.
//! - [`DataSetTasksConfig`] makes a task of each of several data sets.

mod augment;
mod data;
mod data_sets;
mod episodes;
mod folders;
mod load;
mod packed;
pub(crate) mod task;
#[cfg(test)]
mod tests;

pub use augment::RandomAffine;
pub use data::{Images, Sample};
pub use data_sets::{DataSetTasks, DataSetTasksConfig, MixedDataSets};
pub use episodes::{Episodes, EpisodesConfig};
pub use load::{DataSet, ImagesConfig};
pub use task::ImageTask;
