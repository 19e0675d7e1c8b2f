"""Stable-Baselines3's A2C on Atari, for benches/atari.sh: prints environment steps a second.

    python benches/atari.py GAME COPIES THREADS SECONDS native|wrapped

`native` plays ALE's own vector environment, the same that our A2C plays; `wrapped` is what Stable-Baselines3's own helpers
make: Gymnasium environments with wrappers in Python.
"""

import sys
import time

import ale_py
import gymnasium
import numpy as np
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from torch import nn

game, copies, threads, seconds, kind = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]


class Native(VecEnv):
    """ALE's vector environment behind Stable-Baselines3's interface."""

    def __init__(self):
        self.env = ale_py.AtariVectorEnv(
            game, copies, num_threads=threads, reward_clipping=False, autoreset_mode="SameStep"
        )
        space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        super().__init__(copies, space, self.env.single_action_space)

    def reset(self):
        return self.env.reset(seed=0)[0]

    def step_async(self, actions):
        self.env.send(np.asarray(actions))

    def step_wait(self):
        seen, rewards, terminated, truncated, info = self.env.recv()
        dones = terminated | truncated
        infos = [{} for _ in range(copies)]
        for i in np.flatnonzero(dones):
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            infos[i]["terminal_observation"] = info["final_obs"][i]
        return seen, np.clip(rewards, -5, 5).astype(np.float32), dones, infos

    def close(self):
        pass

    def get_attr(self, name, indices=None):
        return [None] * copies

    def set_attr(self, name, value, indices=None):
        pass

    def env_method(self, name, *args, indices=None, **kwargs):
        raise NotImplementedError(name)

    def env_is_wrapped(self, wrapper, indices=None):
        return [False] * copies


class Encoder(BaseFeaturesExtractor):
    """Mnih et al. 2013."""

    def __init__(self, space):
        super().__init__(space, 256)
        self.layers = nn.Sequential(
            nn.Conv2d(space.shape[0], 16, 8, 4), nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 9 * 9, 256), nn.ReLU(),
        )

    def forward(self, x):
        return self.layers(x)


class Clock(BaseCallback):
    """Counts steps after a warm-up of a second, and ends training in time."""

    def _on_training_start(self):
        self.start, self.from_step = time.time(), None

    def _on_step(self):
        now = time.time()
        if self.from_step is None and now - self.start > 1:
            self.from_time, self.from_step = now, self.num_timesteps
        if now - self.start > seconds + 1:
            print((self.num_timesteps - self.from_step) / (now - self.from_time))
            return False
        return True


torch.set_num_threads(threads)
if kind == "native":
    env = Native()
else:
    gymnasium.register_envs(ale_py)
    name = game.title().replace("_", "") + "NoFrameskip-v4"
    settings = {"terminal_on_life_loss": False, "clip_reward": False}
    env = VecFrameStack(make_atari_env(name, copies, seed=0, wrapper_kwargs=settings), 4)
model = A2C(
    "CnnPolicy", env, learning_rate=1e-4, n_steps=5, gamma=0.99, ent_coef=0.01, vf_coef=0.5,
    max_grad_norm=1e9, rms_prop_eps=1e-4, use_rms_prop=True, device="cpu", verbose=0,
    policy_kwargs={"features_extractor_class": Encoder, "net_arch": [],
                   "optimizer_class": torch.optim.RMSprop,
                   "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-4}},
)
model.learn(1 << 60, callback=Clock())
