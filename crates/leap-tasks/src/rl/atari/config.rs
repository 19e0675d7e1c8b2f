//! How the games are played.

use burn::config::Config;

/// How the games are played. The defaults are those of most work since Mnih et al. 2015.
#[derive(Config, Debug)]
pub struct AtariConfig {
    /// Frames that an action is repeated for; the brighter of the last two is seen.
    #[config(default = 4)]
    pub frame_skip: usize,
    /// Frames that are seen at once, one for each action.
    #[config(default = 4)]
    pub stack: usize,
    /// Whether frames are seen in colour, as in the Leap paper, or in grey.
    #[config(default = false)]
    pub colour: bool,
    /// Height and width of a frame.
    #[config(default = 84)]
    pub size: usize,
    /// Frames after which an episode is cut off.
    #[config(default = 108_000)]
    pub max_frames: usize,
    /// An episode starts with up to so many actions that do nothing.
    #[config(default = 30)]
    pub no_ops: usize,
    /// Probability that an action is replaced by the one before.
    #[config(default = 0.0)]
    pub repeat_action: f64,
    /// Whether an episode ends when a life is lost.
    #[config(default = false)]
    pub episodic_life: bool,
    /// Threads that play; 0 is one for each core.
    #[config(default = 0)]
    pub threads: usize,
    /// Whether [`Render`](crate::rl::Render) shows the whole screen of the first copy, which is played twice for it.
    #[config(default = false)]
    pub screen: bool,
}
