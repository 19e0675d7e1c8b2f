//! Environment steps a second of advantage actor-critic on Atari, Leap's path included, as `examples/atari` trains it.
//!
//! ```text
//! cargo bench --profile dev --features leap-tests/atari --bench atari -- [GAME] [COPIES] [THREADS] [SECONDS]
//! ```

use std::time::Instant;

use burn::module::ParamGroup;
use leap_core::{InnerLoop, Leap, ParamSpace, StepLoss, Task, TaskError, TaskSet, task_copy};
use leap_models::{ActorCriticConfig, ActorCriticNet};
use leap_tasks::rl::A2cConfig;
use leap_tasks::rl::atari::{AtariConfig, AtariGames, virtual_environment};

fn main() {
    let arg = leap_tests::arguments();
    let number = |i: usize, default: &str| arg(i, default).parse::<usize>().expect("a number");
    let (copies, threads, seconds) = (number(1, "32"), number(2, "2"), number(3, "10"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("threads").install(|| {
        let device = leap_core::device("flex").expect("flex").autodiff();
        let config = AtariConfig::new().with_threads(threads);
        let games = AtariGames::all(&virtual_environment(), config).expect("ale-py");
        let games = games.named(&[arg(0, "breakout")]).expect("a game");
        let a2c = A2cConfig::new().with_envs(copies);
        let tasks = a2c.tasks(games);
        let context = leap_tests::context(&device, usize::MAX);
        let init = ActorCriticConfig::atari(4, 4)
            .init(&device)
            .expect("sound settings");
        let space = ParamSpace::new(&init, &ParamGroup::from_predicate("encoder"));
        let mut path = Leap::new().path(&space.expect("an encoder"));
        let task = TaskSet::<ActorCriticNet>::task(&tasks, 0, &context).expect("a game");
        let (optimizer, lr) = A2cConfig::optimizer();
        let inner = InnerLoop::new(usize::MAX, optimizer, lr);
        let mut timed = Timed {
            task,
            start: Instant::now(),
            from: None,
            steps: 0,
            seconds: seconds as f64,
        };
        let model = Task::<ActorCriticNet>::start(&mut timed.task, task_copy(&init));
        let end = inner.run(model.expect("heads"), &mut timed, &mut path);
        assert!(end.is_err(), "it has no other end");
        let (start, first) = timed.from.expect("more than a second");
        let env_steps = (timed.steps - first) * a2c.env_steps();
        println!("{}", env_steps as f64 / start.elapsed().as_secs_f64());
    });
}

/// A task that ends after so many seconds, of which a first one does not count.
struct Timed<T> {
    task: T,
    start: Instant,
    from: Option<(Instant, usize)>,
    steps: usize,
    seconds: f64,
}

impl<T: Task<ActorCriticNet>> Task<ActorCriticNet> for Timed<T> {
    fn loss(&mut self, model: &ActorCriticNet) -> Result<StepLoss, TaskError> {
        let elapsed = self.start.elapsed().as_secs_f64();
        if self.from.is_none() && elapsed > 1.0 {
            self.from = Some((Instant::now(), self.steps));
        }
        if elapsed > self.seconds + 1.0 {
            return Err("the time is up".into());
        }
        self.steps += 1;
        self.task.loss(model)
    }
}
