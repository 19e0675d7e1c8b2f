//! Atari, by way of the [Arcade Learning Environment](https://ale.farama.org) (`ale-py` on PyPI, which has the games with
//! it), called through an embedded Python.
//!
//! The environment's own vector interface steps all copies of a game in threads of its own, in C++. Python's lock is held
//! to hand over actions and to look at what came of them, not while Burn computes, nor while the games are played.

mod ale;
mod config;
mod env;
mod games;
mod setup;

pub use config::AtariConfig;
pub use env::Atari;
pub use games::{AtariGames, HELD_OUT};
pub use setup::{set_up, virtual_environment};
